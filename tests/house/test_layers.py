"""The house: links, layers, import names, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from sources import nodes

ROOT = Path(__file__).resolve().parents[2]
WINGS = ("store", "analysis", "cluster", "pipelines")

# Which top-level packages may be imported only in which folders (and, for some, single modules).
ONLY_IN = {
    # The simulated cohort is raw files, which is what it is for.
    "tifffile": ("store", "fintune_xr/simulation/if_cohort.py"),
    "zarr": ("store",),
    "mrcfile": ("store",),
    "starfile": ("store",),
    "statsmodels": ("analysis",),
    "matplotlib": ("analysis",),
    "dask_jobqueue": ("cluster",),
    "dask_cuda": ("cluster",),
    "lightning": ("fintune_xr/finetune",),
    "cellpose": ("fintune_xr/models", "fintune_xr/finetune"),
    "monai": ("fintune_xr/models", "fintune_xr/finetune"),
    "segment_anything": ("fintune_xr/models",),
    "transformers": ("fintune_xr/models",),
    "cyclopts": ("pipelines",),
}


def sources() -> list[Path]:
    core = [file for file in (ROOT / "fintune_xr").rglob("*.py") if file.relative_to(ROOT).parts[1] not in WINGS]
    return core + [file for wing in WINGS for file in (ROOT / wing).rglob("*.py")]


@cache
def imported(file: Path) -> list[tuple[str, int]]:
    """Absolute names of imported modules, with the number of leading dots."""
    found = []
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


@pytest.mark.parametrize("wing", WINGS)
def test_the_wings_are_relative_links_into_the_package(wing: str) -> None:
    link = ROOT / "fintune_xr" / wing
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{wing}"
    assert (link / "__init__.py").is_file()


def test_every_folder_of_code_is_a_package() -> None:
    folders = {file.parent for file in sources()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_tests_are_no_package() -> None:
    assert not (ROOT / "tests" / "__init__.py").exists()
    assert not (ROOT / "conftest.py").exists()


def test_no_import_climbs_or_skips_the_package_name() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {'.' * level}{module}"
        for file in sources()
        for module, level in imported(file)
        if level > 1 or (level == 0 and module.split(".")[0] in WINGS)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_heavy_packages_stay_in_their_rooms(package: str) -> None:
    strays = [
        str(file.relative_to(ROOT))
        for file in sources()
        for module, level in imported(file)
        if level == 0 and module.split(".")[0] == package
        and not str(file.relative_to(ROOT)).startswith(ONLY_IN[package])
    ]  # fmt: skip
    assert strays == []


def test_statistics_are_asked_of_scipy_in_one_place() -> None:
    asking = {str(file.relative_to(ROOT)) for file in sources() for name, _ in imported(file) if name == "scipy.stats"}
    assert {file for file in asking if not file.startswith("analysis")} == set()


def test_nothing_but_pipelines_computes() -> None:
    """`.compute()` on labelled data belongs to the steps; everything below stays lazy."""
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sources()
        if not str(file.relative_to(ROOT)).startswith("pipelines")
        for node in nodes(file)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "compute"
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "client")
    ]
    assert wrong == []


@pytest.mark.slow
def test_imports_run_down_only() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        "fintune_xr",
        "fintune_xr.store.cohort, fintune_xr.store.ingest.tiles, fintune_xr.store.check.store",
        "fintune_xr.analysis.association, fintune_xr.analysis.bootstrap, fintune_xr.analysis.report.render",
        "fintune_xr.pipelines.cli.app, fintune_xr.pipelines.steps.infer, fintune_xr.pipelines.report.report",
    ],
)
def test_reading_and_answering_need_no_torch(modules: str) -> None:
    heavy = {"torch", "cellpose", "monai", "lightning"}
    program = f"import sys, {modules}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
def test_the_face_of_the_package_opens_every_door() -> None:
    program = "import fintune_xr as fx; print(*[n for n in fx.__all__ if not callable(getattr(fx, n))])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
