"""What tests of the structure share: trees of modules, which take much memory and are kept for one file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sources


@pytest.fixture(scope="module", autouse=True)
def trees_of_one_file() -> Iterator[None]:
    yield
    sources.forget()
