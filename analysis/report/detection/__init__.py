"""Sections about particles."""
