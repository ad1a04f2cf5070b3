"""Attributes of a group read from its description alone are those that zarr reads, and damage is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fintune_xr.errors import StoreDamagedError
from fintune_xr.store.zarr_io.groups import read_attrs
from fintune_xr.store.zarr_io.location import Location

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=6,
)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@settings(max_examples=25, deadline=None)
@given(attributes=st.dictionaries(st.text(max_size=6), PLAIN, max_size=4))
def test_attributes_are_those_of_zarr(tmp_path_factory: pytest.TempPathFactory, attributes: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("attributes")
    whole = zarr.open_group(str(folder / "a.zarr"), mode="w", attributes=attributes)
    whole.create_group("runs/r", attributes=attributes)
    zarr.consolidate_metadata(str(folder / "a.zarr"))
    location = Location.of(folder / "a.zarr")
    for path in ("", "runs", "runs/r"):
        theirs = zarr.open_group(str(folder / "a.zarr"), path=path, mode="r").attrs.asdict()
        assert read_attrs(location, path) == theirs


def test_no_event_loop_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers ask before each shard, and a millisecond of zarr's is a tenth of a small volume's embedding."""
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w", attributes={"made": 1})
    monkeypatch.setattr("zarr.api.synchronous.sync", lambda *_, **__: pytest.fail("zarr's event loop was asked"))
    assert read_attrs(Location.of(tmp_path / "a.zarr")) == {"made": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"", "is no description of an array or a group"),
        (b"{", "is no description of an array or a group"),
        (b'{"node_type": "group", "zarr_format": 3, "attributes": [1]}', "is no description of an array or a group"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes | None, told: str) -> None:
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w").create_group("runs")
    description = tmp_path / "a.zarr" / "runs" / "zarr.json"
    description.unlink() if content is None else description.write_bytes(content)
    with pytest.raises(StoreDamagedError, match=f"runs.* {told}.*fintune-xr check"):
        read_attrs(Location.of(tmp_path / "a.zarr"), "runs")


def test_an_array_is_no_group(tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w").create_array("column", shape=(3,), dtype="int64")
    with pytest.raises(StoreDamagedError, match="describes an array where a group was expected"):
        read_attrs(Location.of(tmp_path / "a.zarr"), "column")
