"""The wing that runs Dask: profiles and sessions, on a laptop or a cluster."""
