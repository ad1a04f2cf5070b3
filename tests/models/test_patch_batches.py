"""Batches filled from several images: every patch is shown once, in full batches, and no result changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cellpose import core, transforms
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sam_weights import TINY, save_random_cpsam
from stores import assert_same_run, make_store, run_values

from fintune_xr.models.cellpose.adapter import CpsamSegmenter, empty_network
from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.flow_unet.adapter import FlowUnet
from fintune_xr.models.flow_unet.settings import FlowUnetArchitecture, FlowUnetSettings
from fintune_xr.models.flows.segmenter import FlowSegmenter
from fintune_xr.models.particle_unet.adapter import ParticleUnet, UnetDetector
from fintune_xr.models.particle_unet.settings import ParticleUnetArchitecture, ParticleUnetSettings
from fintune_xr.models.patch_batches import Cut, PatchLimit, map_patches
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import open_cohort

CHANNELS = ("DAPI", "marker")
BOTH = ChannelChoice(CHANNELS, (0, 1), (False, False))
# Of one patch of 256 px, of two, of four, and of odd numbers of them.
SHAPES = ((200, 180), (300, 320), (64, 64), (250, 256), (33, 700), (300, 320), (512, 100))
N_PATCHES = 1 + 4 + 1 + 4 + 4 + 4 + 3


def seeded(make: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make().eval()


def flow_unet() -> FlowUnet:
    return FlowUnet(FlowUnetArchitecture(channels=CHANNELS, filters=(4, 8, 8)))


def images(n_planes: int, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[NDArray[np.float32]]:
    return [stream(i).normal(size=(n_planes, *shape)).astype(np.float32) for i, shape in enumerate(shapes)]


def shown(network: torch.nn.Module) -> list[tuple[int, ...]]:
    """Shapes of the batches that `network` is given from now on."""
    seen: list[tuple[int, ...]] = []
    network.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    return seen


# ---- the networks


@pytest.mark.parametrize("patch_batch", [1, 5, 8])
def test_the_network_of_flows_sees_full_batches_and_gives_what_cellpose_gives_image_by_image(patch_batch: int) -> None:
    network = seeded(flow_unet)
    seen, tiles = shown(network), images(2)
    found = FlowSegmenter(network, FlowUnetSettings(patch_batch=patch_batch), choice=BOTH, n_inputs=2).predict(tiles)
    full, rest = divmod(N_PATCHES, patch_batch)
    assert seen == [(patch_batch, 2, 256, 256)] * full + [(rest, 2, 256, 256)] * (rest > 0)
    for one, tile in zip(found, tiles, strict=True):
        expected, _ = core.run_net(network, np.moveaxis(tile, 0, -1)[None], batch_size=patch_batch, bsize=256)
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, np.moveaxis(expected[0], -1, 0))


@pytest.mark.parametrize("diameter", [None, 24.0])
def test_cellpose_sam_sees_full_batches_and_gives_what_cellpose_gives(diameter: float | None) -> None:
    network = seeded(lambda: empty_network(TINY))
    seen, tiles = shown(network), images(3, [(40, 300), (100, 90), (300, 310)])
    settings = CpsamSettings(patch_batch=3, diameter_px=diameter)
    found = CpsamSegmenter(network, settings, choice=BOTH, n_inputs=3).predict(tiles)
    assert [n for n, *_ in seen[:-1]] == [3] * (len(seen) - 1)
    scale = 30 / diameter if diameter else None
    for one, tile in zip(found, tiles, strict=True):
        expected, _ = core.run_net(network, np.moveaxis(tile, 0, -1)[None], batch_size=3, bsize=256, rsz=scale)
        full = transforms.resize_image(expected[0], *tile.shape[1:]) if scale else expected[0]
        # Rows of a matrix product may be summed in another order in a batch of another size.
        np.testing.assert_allclose(one, np.moveaxis(full, -1, 0), rtol=0, atol=1e-5)


def test_windows_of_micrographs_share_batches_with_those_of_their_size() -> None:
    architecture = ParticleUnetArchitecture(channels=("m",), filters=(4, 8, 8), diameter_px=20, disc_fraction=0.6)
    network = seeded(lambda: ParticleUnet(architecture))
    choice = ChannelChoice(("m",), (0,), (False,))
    detector = UnetDetector(network, ParticleUnetSettings(window_px=64, patch_batch=8), choice=choice)
    tiles = images(1, [(150, 190), (40, 50), (150, 190), (150, 190), (40, 50)])
    alone = [detector.predict([tile])[0] for tile in tiles]
    seen = shown(network)
    together = detector.predict(tiles)
    assert sorted({shape[1:] for shape in seen}) == [(1, 40, 52), (1, 104, 104)]
    # Three micrographs of nine windows, and two that are one window each.
    assert sorted(n for n, *_ in seen) == [2, 3, 8, 8, 8]
    for one, other in zip(together, alone, strict=True):
        # Convolutions of a batch of another size may sum in another order: 7e-7 was seen, of logits up to 1.
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6)
        stored = [detector.reconstruct(maps).probability.astype(int) for maps in (one, other)]
        np.testing.assert_allclose(*stored, rtol=0, atol=1)


def test_a_run_in_batches_is_the_run_tile_by_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "c.zarr", donors=7, tiles=1, px=64).url
    save_random_cpsam(tmp_path / "net.pt")
    monkeypatch.setattr("fintune_xr.store.runs.create.tiles_per_shard", lambda _: 7)
    for batch in (1, 3):
        said = ["device=cpu", f"batch_tiles={batch}", "model.dynamics.niter=20", "positivity=mixture"]
        infer(store, run=f"of{batch}", model=str(tmp_path / "net.pt"), overrides=said)
    cohort = open_cohort(store)
    assert cohort.run("of1")["mask"].values.max() > 1
    assert_same_run(run_values(cohort, "of1"), run_values(cohort, "of3"))


# ---- the function itself


class Counted:
    """Images whose values are their numbers, cut into pixels; keeps count of what is in memory."""

    def __init__(self) -> None:
        self.begun = self.most = 0

    def cut(self, image: NDArray[np.float32]) -> Cut:
        _, height, width = image.shape

        def patches() -> Iterator[NDArray[np.float32]]:
            self.begun += 1
            self.most = max(self.most, self.begun)
            # Patches of a tall image are of another size than those of a flat one.
            yield from (np.broadcast_to(image[:, y : y + 1, x : x + 1], (1, 1 + height % 2, 1)).copy()
                        for y in range(height) for x in range(width))  # fmt: skip

        def join(found: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
            self.begun -= 1
            return np.stack([one[0, 0, 0] for one in found]).reshape(1, height, width)

        return Cut(height * width, patches(), join)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=8),
    limit=st.integers(1, 9),
    room=st.integers(1, 9),
)
def test_every_patch_is_shown_once_and_comes_back_to_its_place(
    sizes: list[tuple[int, int]], limit: int, room: int
) -> None:
    tiles = images(1, sizes)
    counted, seen = Counted(), []

    def network(patches: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(patches) > room:
            raise torch.cuda.OutOfMemoryError("full")
        seen.append(patches.shape)
        return 2 * patches

    found = map_patches(tiles, cut=counted.cut, network=network, limit=PatchLimit(limit))
    for one, tile in zip(found, tiles, strict=True):
        np.testing.assert_array_equal(one, 2 * tile)
    totals = {odd: sum(h * w for h, w in sizes if h % 2 == odd) for odd in (0, 1)}
    assert {odd: sum(s[0] for s in seen if s[2] == 1 + odd) for odd in (0, 1)} == totals
    if room >= limit:
        short = [shape for shape in seen if shape[0] < limit]
        # Images are in order of size, and each change of it may leave one batch that is not full.
        heights = sorted(h for h, _ in sizes)
        changes = sum(a % 2 != b % 2 for a, b in itertools.pairwise(heights))
        assert len(short) <= changes + 1
    # Cut lazily: begun are at most the images that one batch can hold, the one that it ends in, and the next.
    assert counted.most <= limit + 1
    assert counted.begun == 0


def test_no_room_for_a_single_patch_is_an_error_that_the_caller_words() -> None:
    def full(_: NDArray[np.float32]) -> NDArray[np.float32]:
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        map_patches(images(1, [(2, 3)]), cut=Counted().cut, network=full, limit=PatchLimit(4))
