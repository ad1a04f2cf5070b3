"""Volumes summed up without a network."""
