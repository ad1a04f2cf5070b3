"""The recipes for other installers say what `pyproject.toml` says."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from pages import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Where conda-forge has another name, or a smaller package that is enough.
CONDA = {"matplotlib": "matplotlib-base", "dask": "dask-core"}


def conda_recipe() -> Any:
    text = (ROOT / "recipes" / "conda" / "recipe.yaml").read_text()
    return yaml.safe_load(text)


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    wanted = {"python": PYPROJECT["project"]["requires-python"]}
    for line in PYPROJECT["project"]["dependencies"]:
        asked = Requirement(line)
        wanted[CONDA.get(asked.name, asked.name)] = ",".join(sorted(str(part) for part in asked.specifier))
    told = dict(line.partition(" ")[::2] for line in conda_recipe()["requirements"]["run"])
    assert {name: ",".join(sorted(versions.split(","))) for name, versions in told.items()} == wanted


def test_the_conda_recipe_is_of_this_version_and_command() -> None:
    recipe = conda_recipe()
    assert recipe["context"]["version"] == PYPROJECT["project"]["version"]
    (command,) = recipe["build"]["python"]["entry_points"]
    assert tuple(command.split(" = ")) == next(iter(PYPROJECT["project"]["scripts"].items()))


@pytest.mark.parametrize("file", ["Dockerfile", "fintune-xr.def"])
def test_a_container_installs_extras_that_exist_by_the_pins(file: str) -> None:
    text = (ROOT / "recipes" / file).read_text()
    (extras,) = re.findall(r'(?:EXTRAS="|fintune-xr\[)([a-z0-9,]+)', text)
    assert set(extras.split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])
    assert "constraints.txt" in text
    # The container's Python is one that the package takes.
    (version,) = re.findall(r"python:(\d+\.\d+)-slim", text)
    assert Requirement(f"python{PYPROJECT['project']['requires-python']}").specifier.contains(version)


def copied(file: str) -> set[str]:
    text = (ROOT / "recipes" / file).read_text()
    if file == "Dockerfile":
        return {part for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for part in line.split()}
    (block,) = re.findall(r"^%files\n((?: .+\n)+)", text, re.M)
    return {line.split()[0] for line in block.splitlines()}


@pytest.mark.parametrize("file", ["Dockerfile", "fintune-xr.def"])
def test_a_container_is_given_what_is_installed_and_no_more(file: str) -> None:
    links = {
        link.resolve().relative_to(ROOT).as_posix() for link in (ROOT / "fintune_xr").iterdir() if link.is_symlink()
    }
    project = PYPROJECT["project"]
    wanted = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"], "fintune_xr"}
    # Apptainer follows links where it copies, Docker keeps them.
    assert copied(file) == (wanted | links if file == "Dockerfile" else wanted)
    assert all((ROOT / part).exists() for part in copied(file))


def test_whoever_runs_the_image_has_a_name_and_a_home() -> None:
    """Of a user without a name MONAI's import fails, and `docker run -u` gives one the home `/`."""
    told = dict(
        re.findall(r"([A-Z_]+)=(\S+)", re.findall(r"^ENV (.+)$", (ROOT / "recipes/Dockerfile").read_text(), re.M)[0])
    )
    assert told["LOGNAME"]
    assert told["HOME"] == "/data"


def test_every_pin_is_a_name_and_a_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
