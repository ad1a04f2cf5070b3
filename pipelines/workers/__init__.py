"""Devices of workers and calls to them."""
