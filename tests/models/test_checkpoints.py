"""Checkpoints: named, found, verified; wrong ones refused with a remedy."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fintune_xr.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DeviceError,
    FintuneValueError,
    SettingsError,
    UnknownNameError,
)
from fintune_xr.models.cellpose import kind as cellpose
from fintune_xr.models.checkpoints import Checkpoint, load_weights_file, read_state, training_facts
from fintune_xr.models.devices import resolve_device, use_threads
from fintune_xr.models.flow_unet.adapter import FlowUnet, save_flow_unet
from fintune_xr.models.flow_unet.settings import FlowUnetArchitecture, FlowUnetSettings
from fintune_xr.models.protocol import Segmenter, segment
from fintune_xr.models.registry import (
    kind_named,
    load_segmenter,
    published_named,
    published_weights,
    resolve_checkpoint,
)
from fintune_xr.models.sam.kind import TORCH_HOME_VARIABLE
from fintune_xr.models.threshold.settings import ThresholdSettings
from fintune_xr.models.weights_cache import fetch_weights, weights_file
from fintune_xr.provenance import file_sha256
from fintune_xr.seeds import stream

CHANNELS = ("DAPI", "marker")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small U-Net with random weights in a checkpoint file."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = FlowUnet(FlowUnetArchitecture(channels=CHANNELS, filters=(4, 8, 8)))
    path = tmp_path / "small.pt"
    save_flow_unet(network, {"zero_channels": ["DAPI"]}, path)
    return path


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(cellpose.LOCAL_MODELS_VARIABLE, str(folder))
    monkeypatch.setenv(TORCH_HOME_VARIABLE, str(folder))
    return folder


def test_the_threshold_model_needs_no_file() -> None:
    checkpoint = resolve_checkpoint("threshold")
    assert (checkpoint.kind, checkpoint.path) == ("threshold", "")
    assert len(checkpoint.sha256) == 64
    json.dumps(checkpoint.as_dict())
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint


def test_a_file_says_what_it_is(saved: Path) -> None:
    checkpoint = resolve_checkpoint(saved)
    assert checkpoint == Checkpoint(
        "flow_unet", "small", str(saved), file_sha256(saved), channels=CHANNELS, zeroed=("DAPI",)
    )


def test_a_folder_holds_weights_and_record(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    with pytest.raises(CheckpointNotFoundError, match=r"folder without model\.pt.*finished training"):
        resolve_checkpoint(folder)
    torch.save({"W2": torch.eye(2)}, folder / "model.pt")
    (folder / "training.json").write_text(json.dumps({"channels": ["DAPI", "marker"], "zero_channels": ["DAPI"]}))
    checkpoint = resolve_checkpoint(folder)
    assert (checkpoint.kind, checkpoint.name) == ("cpsam", "training")
    assert (checkpoint.channels, checkpoint.zeroed) == (CHANNELS, ("DAPI",))
    assert resolve_checkpoint(folder / "model.pt") == checkpoint
    (folder / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        resolve_checkpoint(folder)


def test_what_is_known_of_a_training(saved: Path, tmp_path: Path) -> None:
    assert training_facts(resolve_checkpoint("threshold")) == {}
    assert training_facts(resolve_checkpoint(saved)) == {}
    saved.rename(tmp_path / "model.pt")
    checkpoint = resolve_checkpoint(tmp_path)
    assert training_facts(checkpoint) == {}
    record = {"split_digest": "5", "settings": {"epochs": 3}, "tiles": ["a"], "packages": {"numpy": "2"}, "digest": "7"}
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert training_facts(checkpoint) == {"split_digest": "5", "settings": {"epochs": 3}, "digest": "7"}


def test_an_unknown_name_is_never_replaced_by_a_default() -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no model 'treshold'.*Did you mean 'threshold'"):
        resolve_checkpoint("treshold")


def test_weights_that_are_not_here_come_with_a_remedy(no_cache: Path) -> None:
    with pytest.raises(
        CheckpointNotFoundError, match=r"'cpsam'.*fintune-xr weights fetch cpsam.*CELLPOSE_LOCAL_MODELS_PATH"
    ):
        resolve_checkpoint("cpsam")
    assert [one.is_here for one in map(weights_file, published_weights().values())] == [False] * 9
    with pytest.raises(UnknownNameError, match=r"no published weights 'cpsma'.*Did you mean 'cpsam"):
        published_named("cpsma")


def test_fetching_writes_whole_files_only(no_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellpose import models as stock

    source = tmp_path / "published"
    source.mkdir()
    monkeypatch.setattr(stock, "_MODEL_URL", f"{source.as_uri()}/")
    with pytest.raises(CheckpointError, match=r"cannot download .*cpsam.*with a network"):
        fetch_weights(published_named("cpsam"))
    assert list(no_cache.iterdir()) == []
    torch.save({"W2": torch.eye(2)}, source / "cpsam")
    fetched = fetch_weights(published_named("cpsam"))
    assert fetched.path == no_cache / "cpsam"
    assert fetched.sha256 == file_sha256(source / "cpsam")
    assert resolve_checkpoint("cpsam").kind == "cpsam"
    (source / "cpsam").unlink()
    assert fetch_weights(published_named("cpsam")) == fetched
    assert sorted(path.name for path in no_cache.iterdir()) == ["cpsam", "cpsam.sha256"]


def test_the_digest_of_the_first_fetch_is_kept_and_compared(
    no_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellpose import models as stock

    source = tmp_path / "published"
    source.mkdir()
    monkeypatch.setattr(stock, "_MODEL_URL", f"{source.as_uri()}/")
    torch.save({"W2": torch.eye(2)}, source / "cpsam")
    fetched = fetch_weights(published_named("cpsam"))
    kept = no_cache / "cpsam.sha256"
    assert kept.read_text() == f"{fetched.sha256}  cpsam\n"
    torch.save({"W2": torch.ones(2, 2)}, no_cache / "cpsam")
    for use in (lambda: resolve_checkpoint("cpsam"), lambda: fetch_weights(published_named("cpsam"))):
        with pytest.raises(CheckpointError, match=rf"not what was fetched first as 'cpsam'.*{fetched.sha256}"):
            use()
    # Published anew in another form: the first digest stands until it is taken away.
    (no_cache / "cpsam").unlink()
    torch.save({"W2": torch.zeros(2, 2)}, source / "cpsam")
    with pytest.raises(CheckpointError, match=r"if the new one is meant, remove cpsam\.sha256"):
        fetch_weights(published_named("cpsam"))
    kept.unlink()
    assert fetch_weights(published_named("cpsam")).sha256 == file_sha256(source / "cpsam")
    assert resolve_checkpoint("cpsam").sha256 == file_sha256(source / "cpsam")


def test_names_and_folder_are_those_of_the_installed_cellpose(monkeypatch: pytest.MonkeyPatch) -> None:
    from cellpose import models as stock

    monkeypatch.delenv(cellpose.LOCAL_MODELS_VARIABLE, raising=False)
    assert set(cellpose.CPSAM_NAMES) == {name for name in stock.MODEL_NAMES if name.startswith("cpsam")}
    assert cellpose.weights_folder() == stock._MODEL_DIR_DEFAULT


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"encoder.cls_token": torch.zeros(1), "W2": torch.zeros(1)}, "DINOv3 encoder, which is not supported"),
        ({"downsample.weight": torch.zeros(1)}, r"no entry W2.*Cellpose 3.*holds: downsample\.weight"),
        ([torch.zeros(1)], "expected named tensors, got list"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, entries: object, message: str) -> None:
    torch.save(entries, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint(tmp_path / "other.pt")


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_code_and_rubbish_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"W2": Code()}, tmp_path / "code.pt")
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "empty.pt").touch()
    for name in ("code.pt", "text.pt", "empty.pt"):
        with pytest.raises(CheckpointError, match="is not a weights file that can be read safely"):
            resolve_checkpoint(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_changed_or_missing_weights_are_noticed_on_loading(saved: Path) -> None:
    checkpoint = resolve_checkpoint(saved)
    assert set(read_state(checkpoint)) == {"kind", "architecture", "settings", "state"}
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"expected SHA-256 {checkpoint.sha256}, found [0-9a-f]{{64}}"):
        read_state(checkpoint)
    saved.unlink()
    with pytest.raises(CheckpointNotFoundError, match="Workers must see the same path"):
        read_state(checkpoint)


def test_weights_that_do_not_fit_are_named(saved: Path) -> None:
    entries = torch.load(saved, weights_only=True)
    removed = next(key for key in entries["state"] if key.endswith("weight"))
    del entries["state"][removed]
    entries["state"]["extra"] = torch.zeros(1)
    torch.save(entries, saved)
    with pytest.raises(CheckpointError, match=f"missing: {removed}\n  unknown: extra"):
        load_segmenter(resolve_checkpoint(saved), channels=CHANNELS, settings=FlowUnetSettings(), device="cpu")


def test_one_segmenter_per_process(saved: Path) -> None:
    checkpoint = resolve_checkpoint(saved)
    load = {"channels": CHANNELS, "device": "cpu"}
    first = load_segmenter(checkpoint, settings=FlowUnetSettings(), **load)
    assert load_segmenter(resolve_checkpoint(saved), settings=FlowUnetSettings(), **load) is first
    assert load_segmenter(checkpoint, settings=FlowUnetSettings(patch_batch=2), **load) is not first
    assert isinstance(first, Segmenter)
    with pytest.raises(SettingsError, match="kind flow_unet takes FlowUnetSettings, got ThresholdSettings"):
        load_segmenter(checkpoint, settings=ThresholdSettings(), **load)
    assert kind_named("threshold").settings is ThresholdSettings
    with pytest.raises(UnknownNameError, match=r"no kind of model 'flow_unt'.*Did you mean 'flow_unet'"):
        kind_named("flow_unt")


def test_a_tile_gives_the_same_alone_and_in_company(saved: Path) -> None:
    segmenter = load_segmenter(
        resolve_checkpoint(saved), channels=CHANNELS, settings=FlowUnetSettings(zero_channels=()), device="cpu"
    )
    rng = stream(3)
    shapes = [(64, 64), (70, 300), (256, 256), (1, 5)]
    tiles = [rng.integers(0, 5000, (2, *shape)).astype(np.uint16) for shape in shapes]
    inputs = [segmenter.normalise(tile) for tile in tiles]
    together = segmenter.predict(inputs)
    for shape, one, maps in zip(shapes, inputs, together, strict=True):
        alone = segmenter.predict([one])[0]
        assert maps.shape == (3, *shape)
        np.testing.assert_allclose(alone, maps, atol=1e-5)
        np.testing.assert_array_equal(segmenter.reconstruct(alone), segmenter.reconstruct(maps))
    assert [mask.shape for mask in segment(segmenter, tiles)] == shapes


def test_normalisation_is_by_percentiles_and_blanks_what_is_constant(saved: Path) -> None:
    segmenter = load_segmenter(
        resolve_checkpoint(saved), channels=CHANNELS, settings=FlowUnetSettings(zero_channels=()), device="cpu"
    )
    tile = np.stack([stream(1).integers(100, 4000, (80, 90)), np.full((80, 90), 777)]).astype(np.uint16)
    planes = segmenter.normalise(tile)
    low, high = np.percentile(tile[0], [1, 99])
    np.testing.assert_allclose(planes[0], (tile[0] - low) / (high - low), atol=1e-5)
    assert not planes[1].any()
    with pytest.raises(FintuneValueError, match=r"expected \(channel, y, x\).*got shape \(2, 0, 5\)"):
        segmenter.normalise(np.zeros((2, 0, 5), np.uint16))


def test_channels_are_found_by_name_in_another_store(saved: Path) -> None:
    checkpoint = resolve_checkpoint(saved)
    tile = stream(2).integers(0, 4000, (3, 64, 64)).astype(np.uint16)
    settings = FlowUnetSettings(zero_channels=())
    straight = load_segmenter(checkpoint, channels=CHANNELS, settings=settings, device="cpu")
    other = load_segmenter(checkpoint, channels=("marker", "extra", "DAPI"), settings=settings, device="cpu")
    np.testing.assert_array_equal(straight.normalise(tile[[2, 0]]), other.normalise(tile))
    with pytest.raises(UnknownNameError, match="no channel 'DAPI'; known: marker"):
        load_segmenter(checkpoint, channels=("marker",), settings=settings, device="cpu")
    with pytest.raises(SettingsError, match="leaves nothing to look at"):
        load_segmenter(checkpoint, channels=CHANNELS, settings=FlowUnetSettings(zero_channels=CHANNELS), device="cpu")


def test_a_full_device_gets_fewer_patches_at_once(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    segmenter = load_segmenter(
        resolve_checkpoint(saved), channels=CHANNELS, settings=FlowUnetSettings(patch_batch=6), device="cpu", keep=False
    )
    run, tried = segmenter._run, []

    def small_device(patches: NDArray[np.float32]) -> NDArray[np.float32]:
        tried.append(len(patches))
        if len(patches) > limit:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return run(patches)

    limit = 6
    images = [segmenter.normalise(stream(i).integers(0, 4000, (2, 64, 64)).astype(np.uint16)) for i in range(8)]
    expected = segmenter.predict(images)
    monkeypatch.setattr(segmenter, "_run", small_device)
    limit = 2
    with caplog.at_level(logging.WARNING):
        found = segmenter.predict(images)
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1, 1, 1]
    assert "now 3 patches at once" in caplog.text
    np.testing.assert_array_equal(found, expected)
    limit = 0
    with pytest.raises(DeviceError, match="out of memory on cpu with a single patch"):
        segmenter.predict(images[:1])


def test_a_device_is_never_replaced() -> None:
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(FintuneValueError, match="no device 'gpu'; write cpu, cuda"):
        resolve_device("gpu")
    if torch.cuda.is_available():
        assert resolve_device("auto") == resolve_device("cuda") == "cuda:0"
    else:
        assert resolve_device("auto") == "cpu"
        with pytest.raises(DeviceError, match=r"torch sees 0 CUDA device.*device=cpu"):
            resolve_device("cuda:1")


def test_threads_are_set_or_left() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(0)
        assert torch.get_num_threads() == before
        use_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"<html><body>404 Not Found</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
        (b"PK\x03\x04 half of an archive", "cut off or damaged"),
        (b"nonsense", "of no known format"),
    ],
)
def test_what_stands_in_the_place_of_weights_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"read safely: it is {what}"):
        load_weights_file(tmp_path / "w.pt")


def test_modules_and_old_formats_of_torch_are_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, what in (("module.pt", "a file of Python objects"), ("old.pt", "of the format before torch 1.6")):
        with pytest.raises(CheckpointError, match=f"read safely: it is {what}") as refused:
            load_weights_file(tmp_path / name)
        assert "\x1b" not in str(refused.value)
