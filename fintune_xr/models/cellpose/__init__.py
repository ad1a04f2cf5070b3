"""Cellpose-SAM."""
