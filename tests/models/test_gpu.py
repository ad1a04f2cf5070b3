"""The same results on a GPU as on the CPU. Marked `gpu`: skipped, saying so, where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sam_weights import save_random_cpsam

from fintune_xr import names as n
from fintune_xr.metrics.instance import match_masks
from fintune_xr.models.cellpose.adapter import FULL_SIZE, load_cpsam
from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.protocol import segment
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.seeds import stream
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.simulation.phantoms import phantom_tile
from fintune_xr.store.cohort import open_cohort

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU on this machine")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    settings = CohortSettings(n_donors=3, markers=("GFAP",), tiles_per_donor=(2, 2), tile_px=256, n_annotated=0)
    made = simulate_cohort(folder / "raw", settings=settings)
    ingest(made.source, folder / "cohort.zarr")
    return folder / "cohort.zarr"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small U-Net with random weights: its masks mean nothing, but must be the same on both devices."""
    import torch

    from fintune_xr.models.flow_unet.adapter import FlowUnet, FlowUnetArchitecture, save_flow_unet

    torch.manual_seed(0)
    network = FlowUnet(FlowUnetArchitecture(channels=(n.DAPI, n.MARKER_CHANNEL), filters=(8, 16, 32)))
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_flow_unet(network, {}, path)
    return path


def test_a_run_on_the_gpu_has_the_cells_of_the_cpu(store: Path, checkpoint: Path) -> None:
    for device in ("cpu", "cuda"):
        infer(store, run=device, model=str(checkpoint), overrides=(f"device={device}", "positivity=mixture"))
    cohort = open_cohort(store)
    on_cpu, on_gpu = (cohort.run(device)[n.MASK].values > 0 for device in ("cpu", "cuda"))
    assert np.mean(on_cpu != on_gpu) < 1e-3
    assert cohort.run_attrs("cuda")["provenance"]["device"].startswith("cuda")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_full_size_cellpose_sam_has_the_masks_of_stock_cellpose(tmp_path: Path, precision: str) -> None:
    import torch
    from cellpose.models import CellposeModel

    weights = save_random_cpsam(tmp_path / "cpsam", FULL_SIZE)
    tile = phantom_tile(stream(5), marker="GFAP", ratio=0.4, tile_px=512).image
    settings = CpsamSettings.model_validate({"precision": precision})
    ours = load_cpsam(resolve_checkpoint(weights), settings, channels=("DAPI", "marker"), device="cuda:0")
    (mask,) = segment(ours, [tile])
    stock = CellposeModel(
        gpu=True, device=torch.device("cuda:0"), pretrained_model=str(weights), use_bfloat16=precision == "bfloat16"
    )
    theirs = stock.eval(np.concatenate([tile, np.zeros_like(tile[:1])]), channel_axis=0)[0]
    assert mask.max() > 10
    # Cellpose follows the flows on the GPU and we on the CPU: a pixel at a border may fall either way.
    matches = match_masks(theirs, mask, thresholds=(0.9,))
    assert matches.fp[0] + matches.fn[0] <= 0.01 * mask.max()
    assert np.mean((mask > 0) != (theirs > 0)) < 1e-3


def test_a_particle_network_learns_and_predicts_on_the_gpu(tmp_path: Path) -> None:
    from micrographs import DIAMETER_PX, micrograph, particles

    from fintune_xr.finetune.detection.settings import UnetTrainSettings
    from fintune_xr.finetune.detection.tiles import ParticleTiles
    from fintune_xr.finetune.engine import train
    from fintune_xr.models.particle_unet.settings import ParticleUnetSettings
    from fintune_xr.models.registry import load_model

    names = ["a", "b"]
    images = np.stack([micrograph(name, 96) for name in names])
    tiles = ParticleTiles(names, ("micrograph",), images, [particles(name, 96) for name in names], [96] * 2, [96] * 2)
    settings = UnetTrainSettings(
        epochs=2, patches_per_epoch=8, patch_px=64, batch_size=4, filters=(4, 8, 8), diameter_px=DIAMETER_PX,
        device="cuda", precision="bfloat16",
    )  # fmt: skip
    made = train(tiles, tiles, settings=settings, out=tmp_path)
    found = []
    for device in ("cpu", "cuda"):
        model = load_model(made, channels=("micrograph",), settings=ParticleUnetSettings(), device=device)
        found.append(model.reconstruct(model.predict([model.normalise(images[0])])[0]).probability / 65535)
    np.testing.assert_allclose(found[1], found[0], atol=0.02)
