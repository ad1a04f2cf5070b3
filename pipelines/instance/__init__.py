"""Steps of a cohort whose annotations are instance masks."""
