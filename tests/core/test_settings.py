"""Settings: frozen, validated, and every misspelt key named with the nearest right one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator, model_validator

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
        ("epochs=1,2", "lists several values; a setting takes one, and one that is a list has it in brackets: epochs="),
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


class Several(Settings):
    """Settings that are lists, and a rule between two of them."""

    rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.5,), min_length=1)
    names: tuple[Literal["a", "b"], ...] = Field(default=("a",), min_length=1)
    counts: tuple[int, ...] = (1,)

    @field_validator("counts")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError(f"expected numbers above 0, got {value}")
        return value

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.rates) > 1 and len(self.names) > 1:
            raise ValueError("expected several rates or several names, got both")
        return self


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["rates=[0.5,2]"], ["rates.1: Input should be less than or equal to 1, got 2"]),
        (["rates=[0]"], ["rates.0: Input should be greater than 0, got 0"]),
        (
            ["names=[c]", "rates=[]"],
            ["rates: Tuple should have at least 1 item", "names.0: Input should be 'a' or 'b'"],
        ),
        (["rates=0.7"], ["rates: expected a list, [0.7] for one value, got 0.7"]),
        (["names=a"], ["names: expected a list, [a] for one value, got 'a'"]),
        (["counts=[0]"], ["counts: expected numbers above 0, got (0,)"]),
        (["rates=[1,0.5]", "names=[a,b]"], ["expected several rates or several names, got both"]),
    ],
)
def test_each_fault_is_one_line_and_nothing_that_follows_from_it(overrides: list[str], lines: list[str]) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(Several, overrides=overrides)
    head, *told = str(refused.value).split("\n  ")
    assert head == f"settings: {len(lines)} problem(s)"
    assert len(told) == len(lines)
    for found, line in zip(told, lines, strict=True):
        assert found.startswith(line)
