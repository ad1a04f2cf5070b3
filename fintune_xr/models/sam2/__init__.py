"""SAM 2 on single images."""
