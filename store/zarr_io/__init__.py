"""Zarr and the places that it lies in."""
