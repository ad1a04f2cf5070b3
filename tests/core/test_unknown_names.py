"""Errors of names that do not exist: which there are, and which one was meant."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.errors import UnknownNameError, nearest, unknown_name


def test_it_is_a_key_error_whose_text_has_no_marks_around_it() -> None:
    error = unknown_name("run", "basse", ["base", "other"], "Make one.")
    assert isinstance(error, KeyError)
    assert str(error) == "no run 'basse'; known: base, other. Did you mean 'base'? Make one."
    there = pickle.loads(pickle.dumps(error))
    assert isinstance(there, UnknownNameError)
    assert str(there) == str(error)
    assert str(unknown_name("run", "a", [])) == "no run 'a'; known: none yet."


@pytest.mark.parametrize("name", ["gfap", "Gfap", "GFAP ", "GFPA", "GAP"])
def test_the_same_in_other_case_is_near(name: str) -> None:
    assert nearest(name, ["IBA1", "GFAP", "DAPI"]) == " Did you mean 'GFAP'?"


def test_what_is_like_nothing_is_near_nothing() -> None:
    assert not nearest("zzz", ["IBA1", "GFAP", "DAPI"])


@given(st.integers(0, 49_999), st.booleans())
def test_of_very_many_names_some_are_listed_and_the_near_one_is_found(place: int, in_capitals: bool) -> None:
    tile = f"d{place // 100:04d}/gfap/t{place % 100:02d}"
    asked = tile.upper() if in_capitals else f"{tile}x"
    began = time.process_time()
    told = str(unknown_name("tile", asked, MANY))
    assert time.process_time() - began < 2
    assert "… (50,000 in all)" in told
    assert len(told) < 1000
    assert told.endswith(f"Did you mean {tile!r}?")


MANY = [f"d{donor:04d}/gfap/t{tile:02d}" for donor in range(500) for tile in range(100)]
