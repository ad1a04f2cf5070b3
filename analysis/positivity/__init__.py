"""Which cells are positive."""
