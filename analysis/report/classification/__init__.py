"""Sections of a report about volumes with a class each."""
