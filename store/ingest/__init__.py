"""Tiles into the store."""
