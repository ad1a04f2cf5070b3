"""What cohorts of stained tissue do: maps of classes annotated, learnt, scored and shown."""
