"""What a run stores of each tile: instance masks with their cells, or maps of probability with their candidates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import StoreVersionError
from fintune_xr.schema import DatasetSchema


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Schemas of a run and of its table of objects, and the array `pixels` (tile, y, x) that workers write."""

    run: DatasetSchema
    objects: DatasetSchema
    pixels: str

    @property
    def dtype(self) -> str:
        """Type of the stored pixels."""
        return self.run.variables[self.pixels].dtype

    def of(self, columns: Iterable[str]) -> tuple[str, ...]:
        """Those of `columns` that a run of this product has."""
        return tuple(name for name in columns if name in self.run.variables)


INSTANCES: Final = Product(datasets.RUN, datasets.CELLS, n.MASK)
PROBABILITIES: Final = Product(datasets.PROBABILITY_RUN, datasets.CANDIDATES, n.PROBABILITY)


def product_named(schema: str) -> Product:
    """The product of a run whose stored schema has this name.

    Raises StoreVersionError for a name that this release does not know.
    """
    known = {product.run.name: product for product in (INSTANCES, PROBABILITIES)}
    if schema not in known:
        raise StoreVersionError(
            f"a run of schema {schema!r} cannot be read; known: {', '.join(known)}. Use the release that wrote it."
        )
    return known[schema]
