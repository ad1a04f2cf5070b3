"""From flow maps to instance masks: the one code path of every flow model."""

from __future__ import annotations

from typing import Any

import fastremap
import numpy as np
import torch
from cellpose import dynamics, utils

from fintune_xr.errors import FintuneValueError
from fintune_xr.models.flows.field import FLOW_SCALE, flow_errors
from fintune_xr.models.flows.settings import DynamicsSettings
from fintune_xr.models.flows.trajectories import follow_flows
from fintune_xr.models.protocol import Maps, Mask


def masks_from_flows(maps: Maps, settings: DynamicsSettings) -> Mask:
    """Instance mask (y, x) of `maps` (3, y, x): flow along y, flow along x, cell logit.

    The steps and results are those of cellpose.dynamics.resize_and_compute_masks; flows are
    followed by `follow_flows` and checked by `flow_errors`. Safe to call from several threads.

    Raises FintuneValueError for maps of another shape or with values that are not finite.
    """
    if maps.ndim != 3 or maps.shape[0] != 3:
        raise FintuneValueError(f"maps: expected (3, y, x) as flow y, flow x, cell logit; got {maps.shape}")
    if not np.isfinite(maps).all():
        raise FintuneValueError("maps hold NaN or infinity: the network diverged or its weights are damaged")
    flows, logit = maps[:2], maps[2]
    inside = logit > settings.cellprob_threshold
    if not inside.any() or min(inside.shape) < 2:
        return np.zeros(inside.shape, dtype=np.uint32)
    pixels = np.nonzero(inside)
    ends = torch.from_numpy(follow_flows(flows * inside / FLOW_SCALE, pixels, niter=settings.niter))
    _say_no_sparse_checks()
    mask = dynamics.get_masks_torch(ends, pixels, inside.shape, max_size_fraction=settings.max_size_fraction)
    if settings.flow_threshold > 0 and mask.any():
        mask = _consistent(mask, flows, settings.flow_threshold)
    mask = utils.fill_holes_and_remove_small_masks(mask, min_size=settings.min_size_px)
    return np.asarray(fastremap.renumber(mask.astype(np.uint32))[0], dtype=np.uint32)


def _say_no_sparse_checks() -> None:
    """Leaves torch's checks of sparse tensors as they are, but states it: else torch warns in every process."""
    checks: Any = torch.sparse.check_sparse_tensor_invariants
    if not checks.is_enabled():
        checks.disable()


def _consistent(mask: Mask, flows: Maps, threshold: float) -> Mask:
    """`mask` without instances whose own flows are further than `threshold` from the predicted ones."""
    bad = 1 + np.flatnonzero(flow_errors(mask, flows) > threshold)
    kept = fastremap.mask(mask, bad)
    return np.asarray(fastremap.renumber(kept, in_place=True)[0])
