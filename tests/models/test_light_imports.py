"""Names, settings and records of models cost no import of the libraries that run them."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = (
    "fintune_xr.models.protocol",
    "fintune_xr.models.kind",
    "fintune_xr.models.checkpoints",
    "fintune_xr.models.weights_cache",
    "fintune_xr.models.devices",
    "fintune_xr.models.threshold.adapter",
    "fintune_xr.models.registry",
    "fintune_xr.finetune.settings",
    "fintune_xr.finetune.registry",
)


def loaded(modules: tuple[str, ...], heavy: tuple[str, ...]) -> list[str]:
    """Which of `heavy` a fresh process has loaded after importing `modules`."""
    program = f"import sys, {', '.join(modules)}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_names_and_settings_need_no_network_library() -> None:
    assert loaded(LIGHT, ("torch", "cellpose", "monai", "lightning")) == []


@pytest.mark.slow
def test_a_process_that_loads_patches_needs_torch_alone() -> None:
    assert loaded(("fintune_xr.finetune.patches",), ("cellpose", "monai", "lightning")) == []


def test_a_machine_without_a_gpu_is_known_without_torch() -> None:
    """Which takes as long to import as a small run of a model without a network takes altogether."""
    program = (
        "import sys; from fintune_xr.models import devices; devices._has_gpu_node = lambda: False;"
        "print(devices.resolve_device('auto'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "False"]
