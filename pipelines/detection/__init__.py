"""Steps of a cohort whose annotations are particles."""
