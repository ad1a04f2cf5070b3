"""Classical segmentation without weights."""
