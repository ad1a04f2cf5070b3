"""Codes of exported maps of classes: a class has one of its own, and nothing else has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fintune_xr.errors import FintuneValueError
from fintune_xr.store.export.class_maps import label_codes
from fintune_xr.tasks.class_map import IGNORED, ClassMap
from fintune_xr.tasks.legends import BCSS, EBHI, Legend


def classes(**codes: list[int]) -> ClassMap:
    return ClassMap(classes=codes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "legend", "none", "ignored"),
    [
        (ClassMap(), BCSS, 21, 255),
        (classes(polyp=[5]), EBHI, 0, 255),
        (classes(tumor=[255]), Legend("two", ((0, "not_tumor"), (255, "tumor")), source="x"), 0, 254),
        # Two codes could be meant, so it is neither of them.
        (classes(tumor=[255]), Legend("three", ((0, "fat"), (9, "nerve"), (255, "tumor")), source="x"), 254, 254),
        (classes(tumor=[1]), Legend("unknown", ((0, "background"), (1, "tumor")), ignored=(0,), source="x"), 255, 255),
        (classes(tumor=[255, 254]), None, 253, 253),
        (classes(other=[21]), BCSS, 255, 255),
    ],
)  # fmt: skip
def test_codes_of_none_and_of_ignored_pixels(asked: ClassMap, legend: Legend | None, none: int, ignored: int) -> None:
    table = label_codes(asked, legend)
    assert (table[0], table[IGNORED]) == (none, ignored)


@example(codes=[255, 7, 9], n_classes=1)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=30, unique=True), st.integers(1, 5))
def test_a_map_read_back_has_its_classes_and_no_others(codes: list[int], n_classes: int) -> None:
    n_classes = min(n_classes, len(codes))
    asked = classes(**{f"c{k}": [codes[k]] for k in range(n_classes)})
    legend = Legend("some", tuple((code, f"m{code}") for code in sorted(codes)), source="x")
    labels = np.array([*range(n_classes + 1), IGNORED], np.uint8)
    read = asked.labels(label_codes(asked, legend)[labels], ignored=())
    np.testing.assert_array_equal(read, [*range(n_classes + 1), 0])


def test_no_code_is_left() -> None:
    legend = Legend("all", tuple((code, f"m{code}") for code in range(256)), source="x")
    with pytest.raises(FintuneValueError, match="none is left"):
        label_codes(classes(tumor=[1]), legend)
