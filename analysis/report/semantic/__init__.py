"""Sections of a report about stained tissue: classes, their balance, and scores of maps of classes."""
