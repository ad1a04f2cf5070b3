"""What a run does with one block of tiles."""
