"""One module per step, the studies, and the command line; the only place that computes and writes."""
