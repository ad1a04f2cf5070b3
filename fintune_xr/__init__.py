"""Cohort-scale biomedical vision in one labelled Zarr store, with statistics one can trust.

Every verb of the command line is a function here: `import fintune_xr as fx; fx.ingest("raw", "cohort.zarr")`.
`__init__.pyi` says where each lies. Modules are imported when they are first used, so that importing the package
costs little and needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
