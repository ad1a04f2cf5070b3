"""Learning class maps: a class for each pixel."""
