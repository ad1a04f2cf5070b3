"""Small encoders of simulated volumes, pretrained on the spot to tell how thick the inner layers are.

This is no V-JEPA: masked prediction learns nothing of use in the seconds that a demo has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fintune_xr.execution.whole_file import whole_file
from fintune_xr.models.vjepa2.settings import VIT3D, VolumeArchitecture
from fintune_xr.seeds import stream
from fintune_xr.simulation.oct_cohort import GRID, simulated_scan
from fintune_xr.simulation.oct_volumes import DEVICES, N_CLASSES, Device, inner_thickness
from fintune_xr.store.raw.resampling import to_grid

PATCH: Final = (4, 8, 16)
HEADS: Final = 3
SIZE: Final = VolumeArchitecture(
    kind=VIT3D, width=96, depth=2, heads=HEADS, mlp_width=192, patch=PATCH,
    positions=int(np.prod([a // b for a, b in zip(GRID, PATCH, strict=True)])),
)  # fmt: skip
DEVICES_OF: Final = {"multi": DEVICES, "single": DEVICES[:1]}
N_VOLUMES: Final = 384
N_STEPS: Final = 300
BATCH: Final = 16


def demo_encoder(name: str, folder: Path, *, seed: int, n_steps: int = N_STEPS) -> Path:
    """Weights of the encoder `multi` or `single` under `folder`, trained where they are not there yet."""
    file = folder / f"{name}.pt"
    if not file.is_file():
        import torch

        state = _pretrained(DEVICES_OF[name], seed, n_steps)
        with whole_file(file, alone=True) as place:
            torch.save({"context_encoder": state}, place)
    return file


def _pretrained(devices: Sequence[Device], seed: int, n_steps: int) -> dict[str, Any]:
    """The state of a `vit3d` after learning the thickness of the inner layers of volumes that are in no study."""
    import torch

    from fintune_xr.models.vjepa2.vit3d import random_vit3d

    volumes, thickness = _examples(devices, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, head = random_vit3d(SIZE, seed), torch.nn.Linear(SIZE.width, 1)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=n_steps)
    for step in range(n_steps):
        chosen = stream(seed, "batch", step).integers(len(volumes), size=BATCH)
        predicted = head(network(torch.from_numpy(volumes[chosen])).mean(1))[:, 0]
        loss = torch.nn.functional.mse_loss(predicted, torch.from_numpy(thickness[chosen]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _examples(devices: Sequence[Device], seed: int) -> tuple[Any, Any]:
    """Standardised volumes (n, 1, z, y, x) of all classes, and thickness (n,) with mean 0 and sd 1."""
    volumes, thickness = np.empty((N_VOLUMES, 1, *GRID), np.float32), np.empty(N_VOLUMES, np.float32)
    for number in range(N_VOLUMES):
        device = devices[number % len(devices)]
        eye, voxels = simulated_scan(number % N_CLASSES, device, seed, number)
        made = to_grid(iter(voxels), device.shape, GRID, is_byte=True).pixels.astype(np.float32)
        volumes[number, 0] = (made - made.mean()) / made.std()
        thickness[number] = inner_thickness(eye)
    return volumes, (thickness - thickness.mean()) / thickness.std()
