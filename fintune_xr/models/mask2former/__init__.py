"""Mask2Former that gives each pixel a class."""
