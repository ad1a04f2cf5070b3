"""Studies: many trainings or settings compared."""
