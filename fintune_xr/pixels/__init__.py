"""Functions of plain arrays on one tile."""
