"""Blocks over Dask, turns on a device, deadlines and locks."""
