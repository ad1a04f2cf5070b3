"""Cohorts made from a seed."""
