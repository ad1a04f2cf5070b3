"""Annotations of tiles, by task."""
