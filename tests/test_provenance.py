"""What a result was made of: digests, versions, revision, and random streams with an address."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fintune_xr.provenance as module
from fintune_xr.provenance import file_sha256, provenance, settings_digest
from fintune_xr.seeds import stream


def test_a_file_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"cells" * 1000)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(b"cells" * 1000).hexdigest()


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), min_size=2))
def test_the_order_of_keys_does_not_change_a_digest(values: dict[str, object]) -> None:
    assert settings_digest(values) == settings_digest(dict(reversed(values.items())))


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        settings_digest({"rate": float("nan")})


def test_versions_are_those_that_are_installed() -> None:
    facts = provenance(split="test")
    assert facts["split"] == "test"
    assert facts["packages"]["zarr"] == importlib.metadata.version("zarr")
    assert set(facts["packages"]) == set(module.PACKAGES)


def test_a_copy_below_another_repository_has_no_revision(tmp_path: Path) -> None:
    copy = tmp_path / "site" / "provenance.py"
    copy.parent.mkdir()
    shutil.copy(module.__file__, copy)
    commit = ["-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "--allow-empty", "-m", "m"]
    for command in (["init", "-q"], commit):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    program = "import provenance; print(provenance._git_revision())"
    done = subprocess.run([sys.executable, "-c", program], cwd=copy.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "unknown"


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1) | st.text(max_size=6), max_size=3))
def test_a_stream_depends_on_its_address_alone(seed: int, address: list[int | str]) -> None:
    stream(seed + 1).random(10)
    first, second = (stream(seed, *address).random(4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, stream(seed, *address, 0).random(4))
