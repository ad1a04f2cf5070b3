"""Self-training in rounds of pseudo-labels."""
