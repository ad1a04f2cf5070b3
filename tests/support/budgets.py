"""A cohort and settings with which a label budget takes seconds."""

from __future__ import annotations

from fintune_xr.simulation.if_cohort import CohortSettings

SMALL = CohortSettings(
    n_donors=5, markers=("GFAP", "IBA1"), tiles_per_donor=(1, 2), tile_px=96, n_annotated=12, n_clinical_only=0,
    damaged=False, seed=5,
)  # fmt: skip
# Hardly trained, and therefore lenient about what an instance is.
DYNAMICS = ("dynamics.cellprob_threshold=-6", "dynamics.flow_threshold=0", "dynamics.min_size_px=1")
QUICK = (
    *DYNAMICS,
    "epochs=1", "patches_per_epoch=24", "patch_px=32", "filters=[4,8,8]", "validate_every=1", "threads=1",
    "learning_rate=0.02", "batch_size=8",
)  # fmt: skip
