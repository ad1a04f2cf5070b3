"""The wing that answers questions: plain kernels, labelled statistics, figures, the report."""
