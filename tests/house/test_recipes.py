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


def test_every_pin_is_a_name_and_a_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
