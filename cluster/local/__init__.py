"""Workers of one machine."""
