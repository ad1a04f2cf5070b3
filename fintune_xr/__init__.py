"""Cohort-scale biomedical vision in one labelled Zarr store, with statistics one can trust."""
