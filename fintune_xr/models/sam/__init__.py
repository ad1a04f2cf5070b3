"""SAM's automatic masks."""
