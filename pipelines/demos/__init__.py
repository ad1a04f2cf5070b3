"""The whole way on simulated images, one module for each kind of cohort."""
