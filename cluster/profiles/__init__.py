"""Cluster profiles shipped with the package."""
