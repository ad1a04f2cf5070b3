"""Without the packages of networks a store is made, read, questioned and reported; what needs them says so."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fintune_xr.errors import MissingPackageError, missing_package

DATA = Path(__file__).parents[1] / "data"

# What stands in for an environment without the extras: their packages cannot be found.
_WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Without(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
import fintune_xr as fx
from fintune_xr.pipelines.cli.app import run

store = sys.argv[2]
cohort = fx.open_cohort(store)
donor = cohort.images().donor.values[0]
assert cohort.images().sel(donor=donor).image.shape[0] > 0
assert cohort.cells(cohort.run_names()[0]).sizes["cell"] > 0
done = [run(line.split()) for line in sys.stdin.read().splitlines()]
print("statuses", *done)
"""


@pytest.mark.slow
def test_a_store_is_read_questioned_and_reported_without_networks(tmp_path: Path) -> None:
    with tarfile.open(DATA / "cells.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    store, page = tmp_path / "a.zarr", tmp_path / "report.html"
    lines = [f"check {store}", f"report {store} --out {page}", f"infer {store} --run new --model threshold"]
    lines.append(f"train {store} --model flow_unet --name tuned --out {tmp_path / 'models'}")
    blocked = "cellpose lightning monai segment_anything torch torchvision transformers sklearn pydicom nibabel s3fs"
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT, blocked, str(store)], input="\n".join(lines), capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}, check=False,
    )  # fmt: skip
    assert "statuses 0 0 0 1" in ran.stdout, ran.stdout + ran.stderr
    assert "pip install 'fintune-xr[models]'" in ran.stderr
    assert page.stat().st_size > 0


@pytest.mark.parametrize(
    ("module", "extra"), [("torch.nn", "models"), ("sklearn", "histology"), ("dask_cuda", "cuda"), ("s3fs", "s3")]
)
def test_a_missing_package_is_named_with_the_extra_that_installs_it(module: str, extra: str) -> None:
    assert f"'fintune-xr[{extra}]'" in str(missing_package(ModuleNotFoundError(name=module)))
    assert isinstance(missing_package(ModuleNotFoundError(name=module)), MissingPackageError)


def test_a_package_that_no_extra_installs_is_no_word_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError, match="gone"):
        missing_package(ModuleNotFoundError("gone", name="gone"))
