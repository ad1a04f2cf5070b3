"""What makes two runs the same run: the planes that a model is shown are part of it, and nothing is made unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from sam_weights import save_random_cpsam
from stores import assert_same_run, make_store, run_values

from fintune_xr import names as n
from fintune_xr.errors import RunMismatchError, SettingsError, UnknownNameError
from fintune_xr.models.cellpose import adapter
from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.flows.settings import DynamicsSettings
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.infer_plan import plan_run
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.runs.writer import mark_pending

SAID = {"overrides": ["device=cpu", "model.dynamics.niter=20", "positivity=mixture"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder of Cellpose-SAM whose record says that DAPI was blank, and a store of three tiles."""
    folder = tmp_path_factory.mktemp("cpsam")
    make_store(folder / "c.zarr", donors=3, tiles=1)
    (folder / "mo").mkdir()
    save_random_cpsam(folder / "mo" / "model.pt", cell_bias=-0.5)
    record = {"channels": ["DAPI", "marker"], "zero_channels": ["DAPI"]}
    (folder / "mo" / "training.json").write_text(json.dumps(record))
    infer(folder / "c.zarr", run="mo", model=str(folder / "mo"), **SAID)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    shutil.copy(tmp_path / "copy" / "mo" / "model.pt", tmp_path / "copy" / "marker_only.pt")
    # The stored reference is to the folder of the template, which tests must not change.
    group = zarr.open_group(tmp_path / "copy" / "c.zarr", path=f"{n.RUNS}/mo", mode="r+")
    facts = dict(group.attrs["provenance"])
    facts["checkpoint"] = {**facts["checkpoint"], "path": str(tmp_path / "copy" / "mo" / "model.pt")}
    group.attrs["provenance"] = facts
    return tmp_path / "copy"


def test_the_planes_of_a_record_are_part_of_the_run(trained: Path) -> None:
    attrs = open_cohort(trained / "c.zarr").run_attrs("mo")
    for stated in (attrs[n.IDENTITY]["settings"], attrs["provenance"]["settings"]["model"]):
        assert (stated["channels"], stated["zero_channels"]) == (["DAPI", "marker"], ["DAPI"])


def test_the_same_weights_shown_other_planes_are_refused(copy: Path) -> None:
    store = copy / "c.zarr"
    mark_pending(open_cohort(store), "mo", [1, 2])
    with pytest.raises(RunMismatchError, match=r"settings\.zero_channels: stored \['DAPI'\], now \[\]"):
        infer(store, run="mo", model=str(copy / "marker_only.pt"), **SAID)
    assert (open_cohort(store).run("mo")[n.STATE] == n.PENDING).values.tolist() == [False, True, True]
    stated = [*SAID["overrides"], "model.zero_channels=[DAPI]"]
    assert infer(store, run="mo", model=str(copy / "marker_only.pt"), overrides=stated).n_new == 2


def test_a_run_goes_on_with_its_own_planes_whatever_becomes_of_the_record(copy: Path, trained: Path) -> None:
    store = copy / "c.zarr"
    mark_pending(open_cohort(store), "mo", [1])
    (copy / "mo" / "training.json").write_text(json.dumps({"channels": ["marker", "DAPI"], "zero_channels": []}))
    assert infer(store, run="mo").n_new == 1
    assert_same_run(run_values(open_cohort(trained / "c.zarr"), "mo"), run_values(open_cohort(store), "mo"))
    infer(store, run="seen", model=str(copy / "marker_only.pt"), **SAID)
    masks = [open_cohort(store).run(run)[n.MASK].values for run in ("mo", "seen")]
    assert not np.array_equal(*masks)


def test_a_run_whose_steps_were_scaled_goes_on_so_and_is_another_than_one_whose_steps_are_as_asked(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A diameter with a number of steps that is not Cellpose's: earlier releases did not say that they scale it."""
    taken: list[int] = []
    monkeypatch.setattr(
        adapter, "masks_from_flows", lambda maps, told: taken.append(told.niter) or np.ones(maps.shape[1:], np.uint32)
    )
    store, model = copy / "c.zarr", str(copy / "mo")
    asked = [*SAID["overrides"], "model.diameter_px=15", "model.dynamics.niter=4"]
    infer(store, run="old", model=model, overrides=[*asked, "model.scales_niter=true"])
    assert "scales_niter" not in open_cohort(store).run_attrs("old")[n.IDENTITY]["settings"]
    for again in ({}, {"model": model, "overrides": asked}):
        mark_pending(open_cohort(store), "old", [1])
        taken.clear()
        assert infer(store, run="old", **again).n_new == 1
        assert taken == [2]
        assert "scales_niter" not in open_cohort(store).run_attrs("old")[n.IDENTITY]["settings"]
    with pytest.raises(RunMismatchError, match=r"scales_niter: stored None, now False"):
        infer(store, run="old", model=model, overrides=[*asked, "model.scales_niter=false"])
    taken.clear()
    infer(store, run="new", model=model, overrides=asked)
    assert set(taken) == {4}
    assert open_cohort(store).run_attrs("new")[n.IDENTITY]["settings"]["scales_niter"] is False


def test_where_steps_are_cellposes_a_run_is_that_of_before() -> None:
    for settings in (
        CpsamSettings(),
        CpsamSettings(diameter_px=24),
        CpsamSettings(dynamics=DynamicsSettings(niter=60)),
    ):
        assert "scales_niter" not in settings.as_dict()


def test_weights_without_a_record_say_what_is_assumed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "marker_only: no record beside these weights says which planes they are for; assumed: DAPI, marker; "
    bare, store = str(copy / "marker_only.pt"), copy / "c.zarr"
    plan_run(store, run="a", model=bare, overrides=["device=cpu"], pilot=0)
    assert f"{said}blanked: none (settings model.channels" in " ".join(capsys.readouterr().err.split())
    plan_run(store, run="a", model=bare, overrides=["device=cpu", "model.zero_channels=[DAPI]"], pilot=0)
    assert "blanked: DAPI (" in capsys.readouterr().err
    both = ["device=cpu", "model.channels=[DAPI,marker]", "model.zero_channels=[]"]
    plan_run(store, run="a", model=bare, overrides=both, pilot=0)
    plan_run(store, run="a", model=str(copy / "mo"), overrides=["device=cpu"], pilot=0)
    plan_run(store, run="mo", overrides=["device=cpu"], pilot=0)
    assert "no record" not in capsys.readouterr().err


def test_a_run_stored_without_its_planes_is_read_and_not_added_to(copy: Path) -> None:
    store = copy / "c.zarr"
    group = zarr.open_group(store, path=f"{n.RUNS}/mo", mode="r+")
    identity = dict(group.attrs[n.IDENTITY])
    identity["settings"] = {**identity["settings"], "channels": None, "zero_channels": None}
    group.attrs[n.IDENTITY] = identity
    for model in (None, str(copy / "mo")):
        with pytest.raises(RunMismatchError, match=r"without saying .*\(channels, zero_channels\).*--restart"):
            infer(store, run="mo", model=model)
    assert open_cohort(store).run("mo")[n.STATE].values.tolist() == [n.DONE] * 3
    assert infer(store, run="mo", model=str(copy / "mo"), restart=True, **SAID).n_new == 3


def test_a_plane_of_the_record_that_the_store_lacks_is_found_before_there_is_a_run(copy: Path) -> None:
    (copy / "mo" / "training.json").write_text(json.dumps({"channels": ["DAPI", "GFAP"]}))
    with pytest.raises(UnknownNameError, match="no channel 'GFAP'; known: DAPI, marker"):
        infer(copy / "c.zarr", run="x", model=str(copy / "mo"), **SAID)
    assert open_cohort(copy / "c.zarr").run_names() == ["mo"]


@pytest.mark.parametrize(
    ("run", "restart", "said"),
    [
        ("mmo", False, r"has no run 'mmo' to continue \(stored: mo\)\. Did you mean 'mo'\? .* --model threshold,"),
        ("other", False, r"has no run 'other' to continue \(stored: mo\)\. To make it, a model has to be named"),
        ("mo", True, r"run 'mo' is to be made anew, so a model has to be named"),
    ],
)
def test_no_run_is_made_without_a_named_model(trained: Path, run: str, restart: bool, said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        infer(trained / "c.zarr", run=run, restart=restart)
    assert open_cohort(trained / "c.zarr").run_names() == ["mo"]


def test_models_that_take_one_tile_at_a_time_have_no_batches(trained: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"batch_tiles: expected 1 for threshold.*got 2.*flow_unet, cpsam, particle_unet"
    ):
        infer(trained / "c.zarr", run="x", model="threshold", overrides=["batch_tiles=2"])
