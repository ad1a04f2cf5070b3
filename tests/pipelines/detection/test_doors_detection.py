"""A verb on a cohort of another kind: told at the door what was expected, what was found and what there is instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from micrographs import make_micrographs
from stores import make_store

from fintune_xr.pipelines.cli.app import run

OF_MASKS = (
    ("train", "--run-name", "r"),
    ("train", "--run-name", "r", "--model", "flow_unet", "--cluster", "processes"),
    ("budget",),
    ("benchmark",),
    ("gate", "--run", "r"),
    ("hybrid", "--run-name", "h", "--run", "a", "--run", "b"),
    ("sweep", "--model", "sam_vit_b"),
    ("export", "--to", "cellpose", "--out", "OUT"),
)
OF_PARTICLES = (
    ("train", "--run-name", "r", "--model", "particle_unet"),
    ("selftrain", "--run-name", "r"),
    ("pick", "--run", "r"),
    ("export", "--to", "star", "--out", "OUT"),
    ("export", "--to", "csv", "--out", "OUT"),
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A cohort of cells and one of micrographs, neither with a run; the micrographs are split."""
    root = tmp_path_factory.mktemp("kinds")
    return make_store(root / "if.zarr", donors=1, tiles=1).url, make_micrographs(root / "em.zarr", px=64).url


def told(words: tuple[str, ...], store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that is refused as wrong use, without having written anything."""
    verb, *rest = [str(tmp_path / word) if word == "OUT" else word for word in words]
    assert run([verb, store, *rest]) == 2
    assert not list(tmp_path.iterdir())
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", OF_MASKS, ids=" ".join)
def test_masks_are_not_expected_of_micrographs(
    words: tuple[str, ...], stores: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = told(words, stores[1], tmp_path, capsys)
    assert words[0] in said
    assert "expected a cohort whose annotations are masks of cells" in said
    assert "found" in said.partition("masks of cells")[2]
    assert "of kind 'em', whose annotations are particles" in said
    assert "fintune-xr train STORE --model particle_unet" in said


@pytest.mark.parametrize("words", OF_PARTICLES, ids=" ".join)
def test_particles_are_not_expected_of_cells(
    words: tuple[str, ...], stores: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = told(words, stores[0], tmp_path, capsys)
    assert "expected a cohort of micrographs (kind 'em'), whose annotations are particles, found" in said
    assert "of kind 'if', whose annotations are masks" in said
    assert "--model flow_unet or cpsam" in said
