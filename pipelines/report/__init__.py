"""The report of a cohort, gathered and written."""
