"""Sections about studies."""
