"""Digests, seeds and what is recorded with a result."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import provenance as module
from fintune_xr.provenance import file_sha256, provenance, settings_digest
from fintune_xr.seeds import stream

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_the_order_of_keys_does_not_matter(settings: dict[str, object]) -> None:
    assert settings_digest(settings) == settings_digest(dict(reversed(settings.items())))
    assert settings_digest({**settings, "one more": 1}) != settings_digest({**settings, "one more": 2})


def test_facts_versions_and_time() -> None:
    facts = provenance(seed=3)
    assert facts["seed"] == 3
    assert facts["packages"]["numpy"] == np.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts["created"])
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(\+changes)?", facts["git_revision"])


@pytest.mark.slow
def test_the_revision_of_another_checkout_is_not_taken_for_ours(tmp_path: Path) -> None:
    place = tmp_path / "project" / "lib" / "fintune_xr"
    place.mkdir(parents=True)
    shutil.copy(module.__file__, place / "provenance.py")
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    ask = [sys.executable, "-c", "import provenance; print(provenance._git_revision())"]
    told = subprocess.run(ask, cwd=place, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "unknown"
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    told = subprocess.run(ask, cwd=place, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"[0-9a-f]{40}", told.stdout.strip())


# ---- chance has an address


@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**31) | st.text(max_size=8), max_size=4))
def test_a_stream_is_the_same_wherever_it_is_asked_for(seed: int, address: list[int | str]) -> None:
    np.testing.assert_array_equal(stream(seed, *address).random(4), stream(seed, *address).random(4))


def test_streams_of_other_addresses_differ() -> None:
    asked = [(7,), (8,), (7, 0), (7, 1), (7, "split"), (7, "split", "GFAP"), (7, "GFAP", "split"), (7, 0, 1), (7, 1, 0)]
    drawn = {tuple(stream(seed, *address).integers(0, 2**62, 2).tolist()) for seed, *address in asked}
    assert len(drawn) == len(asked)
