"""Several processes that train together: shares, the same training as by one, a killed one, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import FORKS
from labelled_volumes import CLASSES, volume
from volume_weights import HEADS, learned_state

from fintune_xr.errors import DeviceError, SettingsError, WorkerLostError
from fintune_xr.finetune import engine
from fintune_xr.finetune.classification.settings import ClassTrainSettings
from fintune_xr.finetune.classification.volumes import VolumeTiles
from fintune_xr.finetune.patches import AddressSampler
from fintune_xr.finetune.ranks import Rank, ShareSampler, in_ranks
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.settings import load_settings

# 15 scans in batches of 4: the last batch has 3, and so shares of 2 and 1.
QUICK: dict[str, Any] = {
    "classes": CLASSES, "encoder": {"heads": HEADS, "volumes_per_batch": 8}, "epochs": 4, "unfreeze_at_epoch": 2,
    "learning_rate": 1e-2, "encoder_learning_rate": 1e-3, "batch_size": 4, "warmup_epochs": 0, "patience": 100,
    "threads": 1,
}  # fmt: skip


def settings(**told: Any) -> ClassTrainSettings:
    return load_settings(ClassTrainSettings, {**QUICK, **told})


def tiles(n_scans: int, seed: str) -> VolumeTiles:
    label = np.arange(n_scans) % 4
    names = [f"{seed}{one:02d}/0" for one in range(n_scans)]
    image = np.stack([volume(name, int(one)) for name, one in zip(names, label, strict=True)])
    return VolumeTiles(names, ("oct",), image, np.arange(n_scans), label, np.array([n[:3] for n in names]), CLASSES)


TRAIN, VAL = tiles(15, "r"), tiles(8, "v")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save({"context_encoder": learned_state()}, path)
    return resolve_checkpoint(path)


def train(out: Path, start: Checkpoint, *, report: Any = None, **told: Any) -> dict[str, torch.Tensor]:
    made = engine.train(TRAIN, VAL, settings=settings(**told), out=out, start=start, report=report)
    found: dict[str, torch.Tensor] = torch.load(made.path, weights_only=True)["state"]
    return found


@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 5))
def test_weighted_means_of_shares_are_the_mean_of_the_batch(of: int, n_samples: int, per_rank: int) -> None:
    size, values = of * per_rank, np.random.default_rng(n_samples).normal(size=n_samples)
    whole = [address[1] for address in AddressSampler(n_samples, 7)]
    samplers = [ShareSampler(n_samples, 7, batch_size=size, rank=Rank(number, of)) for number in range(of)]
    shared = [[address[1] for address in sampler] for sampler in samplers]
    assert [len(one) for one in shared] == [len(sampler) for sampler in samplers]
    for at in range(-(-n_samples // size)):
        batch = whole[at * size : (at + 1) * size]
        means = [
            values[one[at * per_rank : (at + 1) * per_rank]].mean() * Rank(number, of).weight(len(batch))
            for number, one in enumerate(shared)
        ]
        assert np.mean(means) == pytest.approx(values[batch].mean())


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_go_on_after_a_kill(
    tmp_path: Path, start: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    alone = train(tmp_path / "one", start)
    together = train(tmp_path / "two", start, devices=2, report=told.append)
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-4, atol=1e-5, msg=key)
    logs = [pd.read_csv(tmp_path / name / "log.csv") for name in ("one", "two")]
    columns = ["epoch", "loss", "validation_loss", "val_balanced_accuracy", "learning_rate", "encoder_learning_rate"]
    pd.testing.assert_frame_equal(logs[0][columns], logs[1][columns], rtol=1e-4)
    assert [record.epoch for record in told] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "two" / "training.json").read_text())["settings"]["devices"] == 2

    # Above, processes were started as users' are; those that are killed and go on have forks of one that is at hand.
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORKS)

    def kill(record: Any) -> None:
        if record.epoch == 2:
            (second,) = (one for one in multiprocessing.active_children() if one.name == "rank-1")
            second.kill()

    with pytest.raises(WorkerLostError, match=r"process 2 of the 2 .* killed by SIGKILL.*run the same command"):
        train(tmp_path / "killed", start, devices=2, report=kill)
    assert not [one for one in multiprocessing.active_children() if one.name.startswith("rank-")]
    assert (tmp_path / "killed" / "last.ckpt").is_file()
    resumed = train(tmp_path / "killed", start, devices=2)
    assert all(torch.equal(resumed[key], together[key]) for key in together)


_WAITS = """
import os, sys, time
from pathlib import Path
from fintune_xr.finetune.ranks import in_ranks
def work(rank, report):
    Path(sys.argv[1], f"{rank.number}-{os.getpid()}").touch()
    time.sleep(600)
if __name__ == "__main__":
    in_ranks(work, 2, device="cpu")
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_watches_them(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(_WAITS)
    seen = tmp_path / "seen"
    seen.mkdir()
    with subprocess.Popen([sys.executable, tmp_path / "waits.py", seen]) as watching:
        processes = until(lambda: [int(one.name[2:]) for one in seen.iterdir()], lambda got: len(got) == 2)
        watching.kill()
    assert (
        until(lambda: [one for one in processes if Path(f"/proc/{one}/cmdline").exists()], lambda alive: not alive)
        == []
    )


def until(look: Callable[[], list[int]], is_enough: Callable[[list[int]], bool]) -> list[int]:
    """What `look` finds as soon as that is enough."""
    for _ in range(1200):
        if is_enough(found := look()):
            return found
        time.sleep(0.1)
    raise AssertionError(f"two minutes were not enough: {found}")


def test_batches_that_cannot_be_shared_and_devices_that_cannot_be_had_are_refused(
    tmp_path: Path, start: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="expected a multiple of devices=3, got 4"):
        settings(devices=3)
    with pytest.raises(SettingsError, match="expected device auto, cuda or cpu, got tpu"):
        settings(devices=2, device="tpu")
    monkeypatch.setattr("fintune_xr.models.devices._cuda_count", lambda: 1)
    with pytest.raises(DeviceError, match="'cuda:1' was asked for, but torch sees 1"):
        train(tmp_path / "few", start, devices=2, device="cuda")
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match="expected 1 in a worker process"):
        in_ranks(print, 2, device="cpu")


def test_one_device_makes_no_other_training() -> None:
    assert "devices" not in settings().as_dict()
    assert settings(devices=1).digest == settings().digest != settings(devices=2).digest
