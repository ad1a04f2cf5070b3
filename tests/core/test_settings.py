"""Settings: frozen, validated, and every misspelt key named with the nearest right one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from fintune_xr.errors import SettingsError, UnknownNameError
from fintune_xr.settings import Settings, load_settings


class Inner(Settings):
    rate: float = Field(0.1, gt=0)
    names: tuple[str, ...] = ()


class Outer(Settings):
    epochs: int = Field(10, ge=1)
    inner: Inner = Inner()


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("epochs: 3\ninner:\n  rate: 0.5\n")
    loaded = load_settings(Outer, path, ["inner.rate=0.25", "inner.names=[a,b]"])
    assert loaded == Outer(epochs=3, inner=Inner(rate=0.25, names=("a", "b")))


def test_all_problems_are_told_at_once_with_the_nearest_keys() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Outer, None, ["epoch=3", "inner.rat=1", "inner.rate=-1"])
    text = str(caught.value)
    assert "3 problem(s)" in text
    assert "epoch: no such setting; known: epochs, inner. Did you mean 'epochs'?" in text
    assert "inner.rat: no such setting; known: rate, names. Did you mean 'rate'?" in text
    assert "inner.rate: Input should be greater than 0, got -1" in text


def test_a_setting_that_lies_deeper_is_named_with_its_dots() -> None:
    with pytest.raises(SettingsError, match=r"rate: no such setting.* Did you mean 'inner\.rate'\?"):
        load_settings(Outer, None, ["rate=1"])
    with pytest.raises(SettingsError, match=r"Did you mean 'model\.sigma_px'\?"):
        load_settings(Outer, None, ["sigma_px=1"], hints=lambda: ["model.sigma_px"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "cannot read 'epochs'.*key=value"),
        ("epochs=1,2", "lists several values; this command takes one"),
        ("~epochs", "a setting cannot be taken away"),
        ("epochs=null", "valid integer, got None"),
        ("inner.rate=nan", "finite number, got nan"),
        ("inner.rate=inf", "finite number, got inf"),
        ("inner.rate.x=1", r"'rate' holds a value|inner\.rate"),
    ],
)
def test_overrides_that_cannot_be_read(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(Outer, None, ["inner.rate=0.5", override])


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="is not valid YAML"):
        load_settings(Outer, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "expected keys and values at the top, got list"), ("a: [1", "is not valid YAML")],
)
def test_files_that_are_no_settings(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_settings(Outer, path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no settings file .*absent\.yaml"):
        load_settings(Outer, tmp_path / "absent.yaml")


def test_a_shipped_configuration_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.settings._CONFIGS", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "gentle.yaml").write_text("epochs: 2\n")
    assert load_settings(Outer, "gentle", ["inner.rate=1"]) == Outer(epochs=2, inner=Inner(rate=1))
    # What comes from the command line is a path.
    assert load_settings(Outer, Path("gentle")).epochs == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gentle").mkdir()
    (tmp_path / "own").write_text("epochs: 5\n")
    assert (load_settings(Outer, "gentle").epochs, load_settings(Outer, "own").epochs) == (2, 5)
    with pytest.raises(SettingsError, match=r"no settings file gentel\. .* one of gentle\. Did you mean 'gentle'\?"):
        load_settings(Outer, "gentel")


def test_an_empty_file_leaves_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert load_settings(Outer, path) == Outer()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().epochs = 4  # type: ignore[misc]


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("epochs: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(SettingsError, match="is not valid YAML"):
        load_settings(Outer, path)


@given(st.integers(1, 9), st.floats(0.1, 1, allow_nan=False), st.integers(1, 9), st.floats(0.1, 1, allow_nan=False))
def test_digests_are_equal_exactly_where_settings_are(e1: int, r1: float, e2: int, r2: float) -> None:
    first, second = Outer(epochs=e1, inner=Inner(rate=r1)), Outer(epochs=e2, inner=Inner(rate=r2))
    assert (first.digest == second.digest) == (first == second)


def test_profiles_are_settings_too(tmp_path: Path) -> None:
    from fintune_xr.cluster.profile import load_profile

    assert load_profile("threads").kind == "threads"
    assert load_profile("processes", ("workers=3",)).n_workers == 3
    own = tmp_path / "mine.yaml"
    own.write_text("kind: processes\nworker: 2\n")
    with pytest.raises(SettingsError, match=r"worker: no such setting.*Did you mean 'workers'"):
        load_profile(str(own))
    with pytest.raises(UnknownNameError, match=r"no cluster profile 'threds'.*Did you mean 'threads'"):
        load_profile("threds")
