"""A run stores what runs of its cohort hold: a model of anything else is refused in words, for every kind of cohort."""

from __future__ import annotations

from pathlib import Path

import pytest

from fintune_xr import names as n
from fintune_xr.cohort_kinds import KINDS, CohortKind
from fintune_xr.errors import FintuneValueError
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.registry import KINDS as MODELS
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.inference import request
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.infer_plan import plan_run
from fintune_xr.store.cohort import create_cohort, open_cohort
from fintune_xr.tasks.product import INSTANCES

OTHERS = [(kind, model) for kind in KINDS.values() for model in MODELS if model.product is not kind.product]
REFUSED = [(kind, model) for kind, model in OTHERS if kind.task not in model.steps_for]


def empty_cohort(kind: CohortKind, place: Path) -> str:
    dims = kind.images[n.IMAGE].dims[2:]
    return create_cohort(place, kind=kind.name, channels=["a"], tile_shape=(64,) * len(dims), dtype="uint8").url


@pytest.mark.parametrize(("kind", "model"), REFUSED, ids=lambda one: one.name)
def test_a_model_of_something_else_is_refused_in_words(
    kind: CohortKind, model: ModelKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = empty_cohort(kind, tmp_path / "c.zarr")
    weights = Checkpoint(model.name, "these weights", "", "0" * 64)
    monkeypatch.setattr(request, "resolve_checkpoint", lambda _: weights)
    for step in (infer, plan_run):
        with pytest.raises(FintuneValueError) as refused:
            step(url, run="r", model="weights")
        said = str(refused.value)
        assert said.startswith(f"model 'these weights' ({model.name}) gives {model.product.gives} of a cohort ")
        assert f"found {url} of kind {kind.name!r}, whose annotations are {kind.annotated}" in said
        assert said.endswith(kind.offers)
    assert open_cohort(url).run_names() == []


def test_only_models_that_find_regions_are_a_step_to_classes() -> None:
    steps = {(kind.name, model.name) for kind, model in OTHERS if kind.task in model.steps_for}
    assert steps == {("he", "sam"), ("he", "sam2")}
    assert all(model.product is INSTANCES for model in MODELS if model.steps_for)


def test_cells_are_not_looked_for_in_stained_tissue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = empty_cohort(KINDS["he"], tmp_path / "he.zarr")
    assert cli.run(["infer", url, "--run", "r", "--model", "threshold"]) == 2
    said = capsys.readouterr().err
    assert "gives instance masks of a cohort whose annotations are masks of cells" in said
    assert "whose annotations are class masks and whose runs hold maps of classes" in said
    assert "fintune-xr train STORE --model semantic_unet" in said
