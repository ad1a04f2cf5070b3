"""Who may learn from what."""
