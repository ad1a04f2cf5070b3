"""The wing that knows files: layouts, readers, the cohort store, runs, checks and exports."""
