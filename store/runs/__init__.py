"""Runs and their commit protocol."""
