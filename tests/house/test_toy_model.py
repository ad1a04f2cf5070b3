"""A model that this package does not know: brought by another package, or put into the table."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fintune_xr.errors import CheckpointError, FintuneValueError, MissingPackageError, UnknownNameError
from fintune_xr.models import registry
from fintune_xr.models.checkpoints import Planes
from fintune_xr.models.entry_points import kinds_of_packages
from fintune_xr.models.kind import ModelKind, has, says_kind
from fintune_xr.models.registry import KINDS, kind_named, kinds, model_names, resolve_checkpoint
from fintune_xr.models.threshold.kind import THRESHOLD

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).with_name("toy_model")


def install(site: Path, *entries: str, package: str = "toy-models") -> None:
    """What pip leaves of a package that has these entry points."""
    home = site / package.replace("-", "_")
    shutil.copytree(TOY, home, ignore=shutil.ignore_patterns("__pycache__"))
    (home / "__init__.py").touch()
    info = site / f"{home.name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[fintune_xr.models]", *entries, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that packages can be installed to, forgotten afterwards."""
    before = set(sys.modules)
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    kinds.cache_clear()
    yield tmp_path / "site"
    kinds.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("toy_models"):
            del sys.modules[name]
    importlib.invalidate_caches()


def test_a_package_brings_a_model_that_goes_from_infer_to_evaluate(site: Path, tmp_path: Path) -> None:
    install(site, "toy = toy_models.kind:TOY")
    assert [kind.name for kind in kinds().values()][-1] == "toy"
    assert "toy" in model_names()
    importlib.import_module("toy_models.study").study(tmp_path)


def test_the_kinds_are_read_once_and_cannot_be_changed(site: Path) -> None:
    known = kinds()
    install(site, "toy = toy_models.kind:TOY")
    assert kinds() is known
    with pytest.raises(TypeError):
        known["toy"] = THRESHOLD  # type: ignore[index]


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ("toy = toy_models.absent:TOY", MissingPackageError, r"'toy' of toy-models .*cannot be imported \(ModuleNotF"),
        ("toy = toy_models.kind:ToySettings", FintuneValueError, "expected a .*ModelKind, found ModelMetaclass"),
        ("toy = fintune_xr.models.threshold.kind:THRESHOLD", FintuneValueError, "'threshold' is taken by fintune-xr"),
    ],
)
def test_a_broken_package_is_named(site: Path, entry: str, error: type[Exception], message: str) -> None:
    install(site, entry)
    with pytest.raises(error, match=message):
        resolve_checkpoint("threshold")


def test_two_packages_cannot_bring_the_same_name(site: Path) -> None:
    install(site, "toy = toy_models.kind:TOY")
    install(site, "again = toy_models.kind:TOY", package="toy-models-too")
    with pytest.raises(FintuneValueError, match=r"'toy' of toy-models .*'toy' is taken by toy-models-too"):
        kinds_of_packages(KINDS)


def test_weights_that_two_kinds_claim_are_nobodys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    both = {
        name: ModelKind(name, THRESHOLD.product, THRESHOLD.settings, THRESHOLD.load, recognises=has("trunk."))
        for name in ("one", "two")
    }
    monkeypatch.setattr(registry, "kinds", lambda: both)
    monkeypatch.setattr(registry, "load_weights_file", lambda _: {"trunk.weight": 0})
    (tmp_path / "x.pt").touch()
    with pytest.raises(CheckpointError, match="one and two both take them"):
        resolve_checkpoint(tmp_path / "x.pt")


def test_a_former_name_is_understood_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = {"kind": "unet", "architecture": {"channels": ["a"]}, "settings": {}, "state": {}}
    monkeypatch.setattr(registry, "load_weights_file", lambda _: entries)
    (tmp_path / "x.pt").touch()
    checkpoint = resolve_checkpoint(tmp_path / "x.pt")
    # As stored runs made with these weights say, so that they can be continued.
    assert checkpoint.kind == "unet"
    assert kind_named("unet") is kind_named("particle_unet")
    assert kind_named("unet").planes(entries, {}) == Planes(("a",))  # type: ignore[misc]
    assert not says_kind("unet")({"kind": "unet", "weight": 0})
    with pytest.raises(UnknownNameError, match="no kind of model 'unets'"):
        kind_named("unets")


@pytest.mark.slow
def test_a_model_in_the_table_is_two_files_and_one_edit(tmp_path: Path) -> None:
    package = tmp_path / "copy" / "fintune_xr"
    shutil.copytree(ROOT / "fintune_xr", package, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for link in (path for path in package.iterdir() if path.is_symlink()):
        target = (ROOT / "fintune_xr" / link.name).resolve()
        link.unlink()
        link.symlink_to(target)
    home = package / "models" / "toy"
    home.mkdir()
    (home / "__init__.py").touch()
    for file in ("kind.py", "adapter.py"):
        shutil.copy(TOY / file, home)
    table = package / "models" / "registry.py"
    text = table.read_text()
    assert text.count("KINDS: Final = (\n") == 1
    row = "from fintune_xr.models.toy.kind import TOY\n\nKINDS: Final = (\n    TOY,\n"
    table.write_text(text.replace("KINDS: Final = (\n", row))
    path = os.pathsep.join([str(package.parent), str(ROOT / "tests" / "support")])
    done = subprocess.run(
        [sys.executable, TOY / "study.py", tmp_path], env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
