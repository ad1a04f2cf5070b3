"""The whole route on a small simulated study of volumes: from files of three devices to the leaderboard, on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from fintune_xr import names as n
from fintune_xr.models.vjepa2.kind import RANDOM_KIND
from fintune_xr.models.volume_profile.kind import VOLUME_PROFILE
from fintune_xr.pipelines.classification.demo_encoders import HEADS, SIZE, demo_encoder
from fintune_xr.pipelines.classification.ingest import VolumeRequest
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pipelines.studies.probe import probe
from fintune_xr.simulation.oct_cohort import GRID, SimulatedStudy, StudySettings, simulate_study
from fintune_xr.store.cohort import open_cohort, set_root_attrs

Timed = Callable[[str, Callable[[], Any]], Any]

REMARK: Final = (
    "Simulated volumes in which a class thins the inner layers by a fifth, and encoders trained for seconds to tell "
    "that thickness: this shows what each step does and how it reads. Nothing here is about diabetes."
)
TUNED: Final = "multi-ft"
# A few seconds of each: enough to see that the encoder learns on, not what more would give.
TRAINING: Final[dict[str, Any]] = {
    "epochs": 16, "unfreeze_at_epoch": 2, "batch_size": 8, "learning_rate": 5e-3, "encoder_learning_rate": 3e-4,
    "warmup_epochs": 1, "patience": 10, "encoder": {"heads": HEADS},
}  # fmt: skip
_OF_ENCODER: Final = (f"model.heads={HEADS}", "device=cpu")
_OF_RANDOM: Final = (
    "device=cpu", "model.random=0", f"model.width={SIZE.width}", f"model.depth={SIZE.depth}",
    f"model.patch=[{','.join(map(str, SIZE.patch))}]", f"model.heads={HEADS}",
)  # fmt: skip


def study_demo(folder: Path, *, seed: int, timed: Timed) -> Path:
    """Path of the report of a simulated study in `folder`, beside `oct.zarr`, files, encoders and leaderboard."""
    store = folder / "oct.zarr"
    made: SimulatedStudy = timed("simulate", lambda: _simulated(folder / "raw", seed))
    asked = VolumeRequest(grid=GRID, errors=folder / "data_errors.csv")
    timed(
        "ingest", lambda: ingest(made.source, store, layout="ai-readi", title="Demo study (simulated)", volumes=asked)
    )
    set_root_attrs(open_cohort(store), remark=REMARK)
    timed("annotate", lambda: annotate(made.source, store))
    timed("split", lambda: split(store, keep=True))
    models = folder / "models"
    encoders = timed("encoders", lambda: {name: demo_encoder(name, models, seed=seed) for name in ("multi", "single")})
    for name, file in encoders.items():
        _embedded(timed, store, name, str(file), _OF_ENCODER)
    _embedded(timed, store, "profile", VOLUME_PROFILE.name, ("device=cpu",))
    _embedded(timed, store, "random", RANDOM_KIND.name, _OF_RANDOM)
    timed("probe", lambda: probe(store, runs=["multi", "single", "profile", "random"], out=models))
    _fine_tuned(timed, store, models, str(encoders["multi"]), seed)
    for part in (n.VAL, n.TEST):
        timed(f"evaluate {part}", partial(evaluate, store, split=part, seed=seed))
    for to in ("leaderboard", "artefacts"):
        timed(to, partial(export, store, to=to, out=folder / to))
    return Path(timed("report", lambda: report(store, out=folder / "report.html")))


def _embedded(timed: Timed, store: Path, run: str, model: str, overrides: tuple[str, ...]) -> None:
    timed(run, lambda: infer(store, run=run, model=model, overrides=overrides))


def _fine_tuned(timed: Timed, store: Path, models: Path, encoder: str, seed: int) -> None:
    config = {**TRAINING, "seed": seed}
    tuned = timed("train", lambda: train(store, run_name=TUNED, model=encoder, out=models, config=config))
    timed(TUNED, lambda: infer(store, run=TUNED, model=str(tuned), overrides=("device=cpu",)))


def _simulated(folder: Path, seed: int) -> SimulatedStudy:
    shutil.rmtree(folder, ignore_errors=True)
    return simulate_study(folder, settings=StudySettings(seed=seed))
