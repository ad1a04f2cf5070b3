"""Sections about instances."""
