"""Machine code on disk: whoever compiles at the same time, nobody finds the code of other types under his own."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import CacheImpl, FunctionCache, IndexDataCacheFile

from fintune_xr.compilation import OwnFiles, compile_kernel

STAMP = (1.0, 10)


@compile_kernel
def total(values: np.ndarray) -> float:
    found = 0.0
    for value in values:
        found += value
    return found


def raced(kind: type[IndexDataCacheFile], folder: Path, steps: tuple[str, ...]) -> dict[str, object]:
    """What is loaded for each key after two processes, which both found nothing, have stored in this order of steps."""
    done: dict[str, object] = {}
    for who in "ab":
        file = kind(str(folder), "f", STAMP)
        file._load_index = dict
        file._save_index = lambda found, who=who: done.__setitem__(f"{who} index", found)
        file._save_data = lambda name, data, who=who: done.__setitem__(f"{who} data", (name, data))
        file.save(who, f"code of {who}")
    writer = kind(str(folder), "f", STAMP)
    for step in steps:
        what = done[step]
        writer._save_index(what) if step.endswith("index") else writer._save_data(*what)
    return {who: kind(str(folder), "f", STAMP).load(who) for who in "ab"}


ORDERS = tuple(permutations(("a index", "a data", "b index", "b data")))


@pytest.mark.parametrize("steps", ORDERS)
def test_code_is_that_of_the_types_or_there_is_none(tmp_path: Path, steps: tuple[str, ...]) -> None:
    for who, found in raced(OwnFiles, tmp_path, steps).items():
        assert found in (None, f"code of {who}")


def test_numba_alone_mixes_them_up(tmp_path: Path) -> None:
    """Once this fails, numba has been mended and OwnFiles can go."""
    found = []
    for i, steps in enumerate(ORDERS):
        (tmp_path / str(i)).mkdir()
        found.append(raced(IndexDataCacheFile, tmp_path / str(i), steps))
    assert {"a": None, "b": "code of a"} in found


def test_another_version_of_the_source_has_another_file(tmp_path: Path) -> None:
    for stamp in (STAMP, (2.0, 10)):
        OwnFiles(str(tmp_path), "f", stamp).save("key", stamp)
    assert len(list(tmp_path.glob("*.nbc"))) == 2
    assert OwnFiles(str(tmp_path), "f", (2.0, 10)).load("key") == (2.0, 10)
    assert OwnFiles(str(tmp_path), "f", STAMP).load("key") is None


def test_compiled_functions_use_it() -> None:
    assert isinstance(total._cache._cache_file, OwnFiles)  # type: ignore[attr-defined]
    for dtype in (np.uint32, np.float32):
        assert total(np.arange(6, dtype=dtype)) == 15.0
    again = OwnFiles(total._cache._cache_path, *_base_and_stamp())  # type: ignore[attr-defined]
    assert len(again._load_index()) == 2


def _base_and_stamp() -> tuple[str, tuple[float, int]]:
    file = total._cache._cache_file  # type: ignore[attr-defined]
    return Path(file._index_path).name.removesuffix(".nbi"), file._source_stamp


def test_without_a_place_for_a_cache_functions_are_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only mount without a home: numba finds no locator then."""
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])

    @compile_kernel
    def twice(value: float) -> float:
        return 2 * value

    assert twice(3.5) == 7
    assert not isinstance(getattr(twice, "_cache", None), FunctionCache)
