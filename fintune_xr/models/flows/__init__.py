"""Flows of pixels to instances, and what a segmenter of flows is."""
