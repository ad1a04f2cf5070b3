"""A killed `annotate`: told by check, train and evaluate with the command that finishes it, until that has been run."""

from __future__ import annotations

import errno
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from stores import make_store

from fintune_xr import names as n
from fintune_xr.errors import FintuneError, FintuneValueError, SettingsError, StoreUnreachableError, StoreWriteError
from fintune_xr.pipelines.cli.annotations import Codes, Coordinates, TrueMasks
from fintune_xr.pipelines.cli.app import build_app, run
from fintune_xr.pipelines.steps.annotate import annotate, typed_command
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest, CodeReading, MaskReading
from fintune_xr.store.annotations.micrograph_frames import Reading
from fintune_xr.store.lineage.unfinished_annotations import changing_annotations, unfinished_commands
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.refusals import explain_refusals


def test_a_killed_annotate_is_told_until_its_command_has_been_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=2, tiles=2)
    (tmp_path / "m").mkdir()
    mask = np.zeros((64, 64), np.uint16)
    mask[4:12, 4:12], mask[30:40, 30:40] = 1, 2
    tifffile.imwrite(tmp_path / "m" / "d0__GFAP__000_masks.tif", mask)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(shards, "encode_tile", killed)
        annotate(tmp_path / "m", cohort.url, pieces="split", marks="positive")
    command = f"fintune-xr annotate {tmp_path}/m {cohort.url} --pieces split --marks positive"
    assert unfinished_commands(cohort) == {str(tmp_path / "m"): command}
    (problem,) = (one for one in check(cohort.url) if one.where == n.ANNOTATIONS)
    assert f"Finish it: `{command}`" in str(problem)
    # Neither a refusal nor annotations of another folder take it away.
    (tmp_path / "empty").mkdir()
    with pytest.raises(FintuneValueError):
        annotate(tmp_path / "empty", cohort.url)
    (tmp_path / "other").mkdir()
    another = np.where(mask == 1, mask, 0)
    another[50:55, 20:30] = 2
    tifffile.imwrite(tmp_path / "other" / "d0__IBA1__001_masks.tif", another)
    annotate(tmp_path / "other", cohort.url)
    assert list(unfinished_commands(cohort)) == [str(tmp_path / "m")]
    capsys.readouterr()
    for verb in (lambda: evaluate(cohort.url), lambda: train(cohort.url, run_name="t", out=tmp_path)):
        with pytest.raises(FintuneError):
            verb()
        assert command in capsys.readouterr().err
    assert run(shlex.split(command)[1:]) == 0
    assert unfinished_commands(cohort) == {}
    assert not [one for one in check(cohort.url) if one.where == n.ANNOTATIONS]


def test_a_refused_annotate_leaves_no_note_and_restart_clears_those_of_others(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    with pytest.raises(SettingsError), changing_annotations(cohort, tmp_path / "a", "one", restart=False):
        raise SettingsError("refused")
    assert unfinished_commands(cohort) == {}
    with pytest.raises(StoreWriteError), changing_annotations(cohort, tmp_path / "a", "one", restart=False):
        raise StoreWriteError("the disk is full")
    assert list(unfinished_commands(cohort).values()) == ["one"]
    with changing_annotations(cohort, tmp_path / "b", "two", restart=True):
        assert list(unfinished_commands(cohort).values()) == ["two"]


def test_the_command_that_finishes_has_all_that_was_asked(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    reading = Reading("file", 2.0, 12.5, "px", True, 1.5)
    request = AnnotateRequest(
        layout="box", pattern="(?P<tile>.+) x", restart=True, particles=reading,
        masks=MaskReading(pieces="keep", overlap="last", join=True, marks="all"),
        codes=CodeReading(legend=Path("l.tsv"), ignore=(0, 7)),
    )  # fmt: skip
    typed = typed_command(tmp_path / "a b", cohort, request)
    command, bound, _ = build_app().parse_args(shlex.split(typed)[1:])
    seen = dict(bound.arguments)
    assert command.__name__ == "annotate"
    assert (seen.pop("source"), str(seen.pop("store"))) == (str(tmp_path / "a b"), cohort.url)
    assert seen == {
        "layout": "box", "pattern": "(?P<tile>.+) x", "restart": True,
        "masks": TrueMasks(pieces="keep", overlap="last", join=True, marks="all"),
        "particles": Coordinates(
            frame="file", scale=2.0, diameter=12.5, unit="px", drop_outside=True, merge_closer=1.5
        ),
        "codes": Codes(legend=Path("l.tsv"), ignore=[0, 7]),
    }  # fmt: skip


def test_no_code_is_unknown_is_typed_too(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    typed = typed_command(tmp_path, cohort, AnnotateRequest(codes=CodeReading(ignore=())))
    _, bound, _ = build_app().parse_args(shlex.split(typed)[1:])
    assert bound.arguments["codes"] == Codes(ignore=[])


def test_storage_that_is_silent_after_the_first_change_leaves_the_note(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    with (
        pytest.raises(StoreUnreachableError),
        changing_annotations(cohort, tmp_path / "a", "one", restart=False),
        explain_refusals(cohort.url),
    ):
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
    assert list(unfinished_commands(cohort).values()) == ["one"]
