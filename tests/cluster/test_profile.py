"""Profiles and what they become: settings, job scripts, worker command lines; no Slurm and no GPU needed."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
import sys
import time
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client, Security
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from stores import make_store

from fintune_xr.cluster.profile import Profile, load_profile, profile_names
from fintune_xr.cluster.session import session
from fintune_xr.cluster.slurm.job_script import job_script, slurm_cluster
from fintune_xr.cluster.walltime import slurm_seconds
from fintune_xr.errors import ClusterError, DeviceError, FintuneValueError, SettingsError, UnknownNameError
from fintune_xr.execution import job_deadline as deadline
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.inference import before_deadline as in_time
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.infer_plan import plan_run
from fintune_xr.pipelines.workers.devices import device_on, profile_and_rest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.runs.writer import mark_pending
from fintune_xr.tasks.records import ShardPlan, ShardReceipt

GPU_HOOK = "DASK_CUDA_TEST_DISABLE_DEVICE_SPECIFIC"


def slurm(**asked: Any) -> Profile:
    return Profile.model_validate({"kind": "slurm", "slurm": asked})


def own(folder: Path, values: Any) -> str:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


# ---- what a profile may say


def test_shipped_profiles_are_valid_and_say_what_they_are_for() -> None:
    found = {name: load_profile(name) for name in profile_names()}
    kinds = {name: profile.kind for name, profile in found.items()}
    assert kinds == {
        "threads": "threads", "processes": "processes", "cuda": "cuda", "slurm-cpu": "slurm", "slurm-cuda": "slurm",
        "slurm-l40s": "slurm",
    }  # fmt: skip
    study = found["slurm-l40s"].slurm
    assert (study.gres, study.walltime_s, study.worker) == ("gpu:l40s:1", 24 * 3600, "cuda")
    assert [name for name, profile in found.items() if profile.has_gpu] == ["cuda", "slurm-cuda", "slurm-l40s"]
    assert {name: profile.n_threads for name, profile in found.items() if profile.has_gpu} == dict.fromkeys(
        ("cuda", "slurm-cuda", "slurm-l40s"), 2
    )
    assert found["slurm-cpu"].n_threads == 8


def test_a_profile_is_overridden_in_its_own_words_and_among_the_settings_of_a_run() -> None:
    profile, rest = profile_and_rest("slurm-l40s", ["cluster.slurm.partition=long", "device=cuda", "cluster.threads=2"])
    assert (profile.slurm.partition, profile.threads, rest) == ("long", 2, ["device=cuda"])
    assert profile.slurm.gres == "gpu:l40s:1"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "slurm", "slurm": {"partiton": "x"}}, r"slurm\.partiton: no such setting.*Did you mean 'partition'"),
        ({"kind": "slrm"}, "kind: Input should be 'threads', 'processes', 'cuda' or 'slurm'"),
        ({"kind": "threads", "slurm": {"cores": 4}}, "the section slurm is only for kind slurm"),
        ({"kind": "slurm", "workers": 4}, "set slurm.max_jobs, not workers"),
        ({"kind": "processes", "threads": 4}, "threads is for kinds cuda and slurm"),
        ({"kind": "slurm", "slurm": {"worker": "cuda"}}, "exactly one GPU: expected gres like gpu:l40s:1, got ''"),
        ({"kind": "slurm", "slurm": {"worker": "cuda", "gres": "gpu:l40s:2"}}, "exactly one GPU.*got 'gpu:l40s:2'"),
        ({"kind": "slurm", "slurm": {"gres": "gpu:4"}}, "got 'gpu:4'. For more GPUs ask for more jobs"),
        ({"kind": "slurm", "slurm": {"stagger_s": -7}}, "stagger_s must be 0 or more, or -1 .*; got -7"),
        ({"kind": "slurm", "slurm": {"walltime": "1 day"}}, "expected HH:MM:SS or D-HH:MM:SS, got '1 day'"),
        ({"kind": "slurm", "slurm": {"walltime": "00:10:00"}}, "walltime 00:10:00 leaves no time to work"),
        ({"kind": "slurm", "slurm": {"lifetime_s": 14_300}}, "go beyond walltime"),
        (
            {"kind": "slurm", "slurm": {"walltime": "1-00:00:00", "lifetime_s": 86_000, "stagger_s": 0}},
            "longest_task_s 900 and margin_s 120 go beyond walltime 1-00:00:00: a last block would be killed",
        ),
        ({"kind": "slurm", "slurm": {"memory": "64"}}, "expected at least 1MiB, written like 48GiB"),
        ({"kind": "slurm", "slurm": {"min_jobs": 3, "max_jobs": 2}}, "min_jobs 3 is more than max_jobs 2"),
        ({"kind": "slurm", "slurm": {"partition": "gpu; rm -r x"}}, "slurm.partition: String should match pattern"),
        ({"kind": "slurm", "slurm": {"scratch": "/x`id`"}}, "slurm.scratch: String should match pattern"),
        ({"kind": "slurm", "slurm": {"prologue": ["a\nb"]}}, "write each line as an item of its own"),
    ],
)
def test_what_a_profile_gets_wrong_is_said(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=f"(?s){said}"):
        load_profile(own(tmp_path, values))


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no cluster profile 'slurm-l40'.*Did you mean 'slurm-l40s'"):
        load_profile("slurm-l40")


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_walltimes_are_read_as_sbatch_reads_them(days: int, hours: int, minutes: int, seconds: int) -> None:
    whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert slurm_seconds(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == whole
    assert slurm_seconds(f"{hours}:{minutes}:{seconds}") == whole - days * 86_400
    assert slurm_seconds(f"{minutes}:{seconds}") == minutes * 60 + seconds


@pytest.mark.parametrize(("text", "seconds"), [("90", 5400), ("1-0", 86_400), ("2-12:30", 217_800)])
def test_short_walltimes(text: str, seconds: int) -> None:
    assert slurm_seconds(text) == seconds


@given(st.integers(1, 40), st.floats(0, 7200), st.floats(0, 600))
def test_every_worker_leaves_before_its_job_ends(hours: int, longest: float, margin: float) -> None:
    try:
        asked = slurm(walltime=f"{hours}:00:00", longest_task_s=longest, margin_s=margin).slurm
    except ValueError:
        return
    latest = asked.lifetime + asked.stagger
    assert asked.lifetime - asked.stagger >= 0
    assert latest + longest + margin <= hours * 3600 + 1e-6


# ---- job scripts


def commands(script: str) -> list[str]:
    return [line for line in script.splitlines() if line and not line.startswith("#")]


def test_the_script_of_a_gpu_job_asks_for_what_the_profile_says(tmp_path: Path) -> None:
    profile = slurm(
        worker="cuda", gres="gpu:l40s:1", partition="gpu", account="lab", qos="high", constraint="a|b", cores=6,
        memory="10GiB", walltime="1-00:00:00", interface="ib0", prologue=["module load cuda"],
        python="/opt/my env/python", scratch="$SCRATCH/x", log_directory=str(tmp_path / "job logs"),
        directives=["--reservation=r"],
    )  # fmt: skip
    script = job_script(profile)
    asked = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {
        "-p gpu", "-A lab", "--qos=high", "--constraint=a|b", "--gres=gpu:l40s:1", "--cpus-per-task=6", "--mem=10240M",
        "-t 1-00:00:00", "-n 1", "--no-requeue", "--reservation=r", f'--output="{tmp_path}/job logs/fintune-xr-%j.log"',
    } <= asked  # fmt: skip
    *shell, worker = commands(script)
    assert shell[0] == "set -eo pipefail"
    assert shell[-1] == "module load cuda"
    # A day less half an hour of stagger, 900 s and 120 s.
    assert "export DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION=83580s" in shell
    words = shlex.split(worker)
    assert words[:4] == ["/opt/my env/python", "-m", "dask_cuda.cli", "tcp://SCHEDULER:PORT"]
    options = dict(itertools.pairwise(words))
    assert options["--local-directory"] == "$SCRATCH/x"
    assert options["--interface"] == "ib0"
    assert options["--resources"] == "GPU=1"
    assert options["--nthreads"] == "2"


@pytest.mark.parametrize("name", [name for name in profile_names() if name.startswith("slurm")])
def test_the_worker_command_knows_every_option_that_it_is_given(name: str) -> None:
    """Against the options of the installed dask-cuda and distributed themselves."""
    profile = load_profile(name, ("slurm.interface=lo",))
    worker = shlex.split(commands(job_script(profile))[-1])
    module = worker[2]
    if module == "dask_cuda.cli":
        command: Any = pytest.importorskip("dask_cuda.cli", exc_type=ImportError).worker
    else:
        from distributed.cli import dask_worker

        command = dask_worker.main
    parsed = command.make_context("worker", worker[3:], resilient_parsing=False)
    assert parsed.params["name"] == "WORKER"
    assert parsed.params["death_timeout"] == "60"
    assert parsed.params["interface"] == "lo"


def test_the_script_is_shell_that_exports_the_end_of_the_job() -> None:
    *shell, _ = commands(job_script(slurm(walltime="2:00:00", prologue=["export EXTRA=1"])))
    shown = "\n".join([*shell, "env"])
    said = {}
    for known, environment in ((False, {}), (True, {"SLURM_JOB_END_TIME": "12345"})):
        done = subprocess.run(
            ["bash", "-c", shown], env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        said[known] = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert said[True][deadline.JOB_END] == "12345"
    assert abs(float(said[False][deadline.JOB_END]) - time.time() - 7200) < 60
    assert said[True]["EXTRA"] == "1"


def test_long_tasks_have_a_worker_each_that_stays() -> None:
    profile = load_profile("slurm-cpu").for_long_tasks(3)
    assert (profile.slurm.max_jobs, profile.n_threads) == (3, 1)
    assert "LIFETIME" not in job_script(profile)
    assert load_profile("threads").for_long_tasks(3).n_workers == 1


# ---- keys


def test_tls_without_its_package_is_refused_with_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.cluster.profile.find_spec", lambda name: None if name == "cryptography" else name)
    with pytest.raises(SettingsError, match=r"cryptography, which is not installed.*pip install 'fintune-xr\[tls\]'"):
        load_profile(own(tmp_path, {"kind": "slurm", "slurm": {"tls": True}}))
    assert not load_profile("slurm-cpu").slurm.tls
    root = Path(__file__).parents[2]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["tls"]
    assert [Requirement(line).name for line in declared] == ["cryptography"]
    assert "\ncryptography==" in (root / "constraints.txt").read_text()


@pytest.mark.slow
def test_only_workers_with_the_keys_of_a_session_are_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker line of the job script, run here instead of in a job."""
    monkeypatch.setattr("fintune_xr.cluster.slurm.job_script.preflight", lambda _: "")
    asked = slurm(tls=True, interface="lo", log_directory=str(tmp_path), scratch=str(tmp_path), cores=1, memory="2GiB")
    with slurm_cluster(asked, "fintune-xr-tls") as cluster, Client(cluster) as client:
        line = commands(cluster.job_script())[-1]
        assert cluster.scheduler_address.startswith("tls://")
        assert [file.stat().st_mode & 0o77 for file in tmp_path.glob(".dask*")]
        stranger = Security.temporary()
        with pytest.raises(OSError, match="TLS certificate"), Client(cluster.scheduler_address, security=stranger):
            pass
        with subprocess.Popen(["bash", "-c", f"exec {line}"], stderr=subprocess.DEVNULL) as worker:
            try:
                client.wait_for_workers(1, timeout=120)
                assert client.submit(sum, [1, 2]).result(timeout=60) == 3
            finally:
                worker.terminate()
    assert not list(tmp_path.glob(".dask*"))


# ---- devices


def test_devices_are_named_as_the_workers_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.models.devices._cuda_count", lambda: 0)
    gpus, cpus = load_profile("slurm-cuda"), load_profile("slurm-cpu")
    assert [device_on(gpus, asked) for asked in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda:0"] * 3 + ["cpu"]
    assert device_on(cpus, "auto") == "cpu"
    with pytest.raises(DeviceError, match=r"jobs of this profile get no GPU.*cluster.slurm.gres=gpu:1"):
        device_on(cpus, "cuda")
    with pytest.raises(FintuneValueError, match="no device 'cuda:1' in a job"):
        device_on(gpus, "cuda:1")
    with pytest.raises(DeviceError, match="torch sees 0 CUDA device"):
        device_on(load_profile("cuda"), "auto")


def test_a_session_of_gpus_that_are_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = r"all GPU\(s\) of this machine, which cannot be had"
    with pytest.raises(DeviceError, match=said), session(load_profile("cuda")):
        pass


def test_without_slurm_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="no program 'sbatch' here"), session(load_profile("slurm-cpu")):
        pass


def test_the_pinned_dask_packages_agree() -> None:
    """What dask-cuda asks of dask and distributed, against what is installed and pinned."""
    pytest.importorskip("dask_cuda", exc_type=ImportError)
    asked = [Requirement(line) for name in ("dask-cuda", "rapids-dask-dependency") for line in requires(name) or ()]
    checked = {one.name for one in asked if one.name in ("dask", "distributed") and version(one.name) in one.specifier}
    assert checked == {"dask", "distributed"}
    assert version("dask") == version("distributed")
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    for name in ("dask", "distributed", "dask-cuda", "dask-jobqueue"):
        assert f"{name}=={version(name)}" in pins


@pytest.mark.slow
def test_dask_cuda_workers_of_this_machine_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, each of which is told of the other's GPU only after its own."""
    pytest.importorskip("dask_cuda", exc_type=ImportError)
    monkeypatch.setenv(GPU_HOOK, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with session(load_profile("cuda", ("dashboard=false",))) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
        assert client.submit(sum, [1, 2], resources={"GPU": 1}).result(timeout=60) == 3
    assert sorted(seen.values()) == ["0,1", "1,0"]


@pytest.mark.gpu
@pytest.mark.slow
def test_real_gpus_have_a_worker_each() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    with session(load_profile("cuda")) as client:
        assert len(client.scheduler_info()["workers"]) == torch.cuda.device_count()
        names = client.run(lambda: __import__("torch").cuda.get_device_name(0))
        assert len(client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"].split(",")[0])) == torch.cuda.device_count()
        assert client.submit(_on_gpu, resources={"GPU": 1}).result(timeout=120) == 42.0
    assert all(names.values())


def _on_gpu() -> float:
    import torch

    return float(torch.full((2, 3), 7.0, device="cuda").sum().cpu())


# ---- blocks that cannot end in time


def test_a_block_begins_only_where_there_is_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1e9]
    gone: list[bool] = []
    monkeypatch.setattr(in_time, "seconds_left", lambda: left[0])
    monkeypatch.setattr(in_time, "_leave", lambda: gone.append(True))
    monkeypatch.setattr(in_time, "_PACE", type(in_time._PACE)([2.0, 3.0], maxlen=5))
    monkeypatch.setattr(in_time, "infer_block", lambda plan, _: ShardReceipt(plan, ()))
    plan, context = ShardPlan(0, 0, 4, (0, 1, 2, 3)), None
    assert in_time.infer_block_in_time(plan, context).plan == plan  # type: ignore[arg-type]
    # Four tiles of 3 s each, and a quarter more.
    left[0] = 15.1
    in_time.infer_block_in_time(plan, context)  # type: ignore[arg-type]
    left[0] = 14.9
    with pytest.raises(in_time.Reschedule):
        in_time.infer_block_in_time(plan, context)  # type: ignore[arg-type]
    assert gone == [True]


def test_without_an_end_there_is_always_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(deadline.JOB_END, raising=False)
    assert deadline.seconds_left() == float("inf")
    monkeypatch.setenv(deadline.JOB_END, str(time.time() + 100))
    assert 90 < deadline.seconds_left() <= 100


# ---- the dry run


def test_a_dry_run_tells_jobs_hours_and_script_and_writes_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", donors=4, tiles=20).url
    before = sorted(Path(store).rglob("*"))
    plan = plan_run(store, run="r", model="threshold", cluster="slurm-cpu", overrides=["cluster.slurm.max_jobs=3"])
    assert plan["pending"] == 80
    # A sixty-fourth of 80 tiles is two, so that there are 40 blocks.
    assert (plan["blocks"], plan["batches"]) == ("40 of up to 2 tiles", 80)
    assert plan["jobs"] == "3 at once, each with 8 block(s) at a time"
    assert "a pilot of 3 tiles on this machine" in plan["time per tile"]
    assert float(plan["hours of one worker's thread"].split()[0]) > 0
    assert "#SBATCH" in plan["job script"]
    assert sorted(Path(store).rglob("*")) == before


def test_the_command_line_prints_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "a.zarr").url
    said = ["--cluster", "slurm-l40s", "--dry-run", "--pilot", "0", "cluster.slurm.account=lab", "device=cuda"]
    assert cli.run(["infer", store, "--run", "r", "--model", "threshold", *said]) == 0
    printed = capsys.readouterr().out
    assert "workers: up to 16 slurm\n" in printed
    assert "time: unknown; no pilot was asked for\n" in printed
    assert "#SBATCH -A lab\n" in printed
    said = ["--cluster", "slurm-cpu", "--dry-run", "device=cuda"]
    assert cli.run(["infer", store, "--run", "r", "--model", "threshold", *said]) == 1
    assert open_cohort(store).run_names() == []


def test_a_dry_run_says_when_there_can_be_no_pilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.models.devices._cuda_count", lambda: 0)
    store = make_store(tmp_path / "a.zarr").url
    plan = plan_run(store, run="r", model="threshold", cluster="slurm-cuda")
    assert "no pilot: the workers compute on cuda:0, which is not here" in plan["time"]
    assert plan_run(store, run="r", model="threshold", pilot=0)["time"] == "unknown; no pilot was asked for"


def test_a_dry_run_knows_the_pace_of_a_run_under_way_and_warns_of_long_blocks(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=3, tiles=8)
    infer(cohort.url, run="r", model="threshold", overrides=["device=cpu"])
    overrides = ["device=cpu", "cluster.slurm.longest_task_s=0"]
    plan = plan_run(cohort.url, run="r", cluster="slurm-cpu", overrides=overrides)
    assert plan["pending"] == 0
    assert plan["time per tile"].endswith("(the median of 24 tiles that this run has done)")
    mark_pending(open_cohort(cohort.url), "r", [0])
    again = plan_run(cohort.url, run="r", cluster="slurm-cpu", overrides=overrides)
    assert (again["pending"], again["batches"]) == (1, 1)
    assert "TOO LOW" in again["time per block"]


def test_a_device_that_a_worker_lacks_stops_the_run_before_its_first_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator of a cluster cannot look; a worker of this process stands for one in a job."""
    monkeypatch.setattr("fintune_xr.models.devices._cuda_count", lambda: 0)
    monkeypatch.setattr("fintune_xr.pipelines.inference.request.device_on", lambda *_: "cuda:0")
    monkeypatch.setattr("fintune_xr.pipelines.inference.request.CPU", "cpu")
    cohort = make_store(tmp_path / "a.zarr")
    remote = Profile.model_validate({"kind": "slurm", "slurm": {"gres": "gpu:1"}})
    monkeypatch.setattr("fintune_xr.pipelines.steps.infer.profile_and_rest", lambda _, rest: (remote, rest))
    monkeypatch.setattr("fintune_xr.pipelines.steps.infer.session", _threads)
    with pytest.raises(DeviceError, match="device 'cuda:0' was asked for, but torch sees 0 CUDA"):
        infer(cohort.url, run="r", model="threshold", cluster="slurm-cuda")
    assert not (cohort.run("r")["state"] != 0).any()


def _threads(_profile: Profile, **_said: Any) -> Any:
    return session(Profile(kind="threads", workers=1, dashboard=False))


def test_importing_profiles_needs_no_batch_system() -> None:
    program = "import sys, fintune_xr.cluster.session; print(*{'dask_jobqueue', 'dask_cuda'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_client_of_a_local_profile_needs_no_words(tmp_path: Path) -> None:
    with session(Profile(kind="threads", workers=1, dashboard=False), left=lambda: 1, report=print) as client:
        assert isinstance(client, Client)


def test_ctrl_c_stays_an_interruption() -> None:
    """The import of dask-jobqueue makes it a plain exit, with which a command would seem to have succeeded."""
    program = """
import signal
from fintune_xr.cluster.profile import load_profile
from fintune_xr.cluster.slurm.job_script import job_script
# In the background of a shell it would be ignored from the start.
signal.signal(signal.SIGINT, signal.default_int_handler)
job_script(load_profile("slurm-cpu"))
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("name", "absurd"),
    [
        ("threads", "workers=100000000"), ("processes", "workers=100000000"), ("cuda", "workers=100000000"),
        ("cuda", "threads=100000000"), ("slurm-cpu", "slurm.max_jobs=100000000"),
        ("slurm-cpu", "slurm.cores=100000000"),
    ],
)  # fmt: skip
def test_a_slip_of_the_finger_is_refused_before_anything_starts(name: str, absurd: str) -> None:
    key = absurd.partition("=")[0].rpartition(".")[2]
    with pytest.raises(SettingsError, match=key):
        load_profile(name, (absurd,))
    assert load_profile(name, (f"{absurd.partition('=')[0]}=500",))
