"""Sections of any report."""
