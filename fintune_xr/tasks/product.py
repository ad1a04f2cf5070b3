"""What a run stores of each tile: an array of pixels, a table of objects, columns of numbers, or some of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fintune_xr import names as n
from fintune_xr.errors import StoreVersionError
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.tasks.classification import SCORE_RUN
from fintune_xr.tasks.detection import CANDIDATES, PROBABILITY_RUN
from fintune_xr.tasks.instance import CELLS, MASK_RUN
from fintune_xr.tasks.semantic import CLASS_RUN


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Schemas of a run and of its table of objects, and the array (tile, …, y, x) of the run that workers write.

    `objects` and `array` are None where a run of this product has no such thing. Every other variable of `run` is a
    column (tile, …), written by the coordinator alone; it says itself what stands in it where a tile is not done.
    `gives` says in words what it is.
    """

    run: DatasetSchema
    objects: DatasetSchema | None
    array: str | None
    gives: str = "a product of its own"

    @property
    def name(self) -> str:
        """The name of the run's schema, which is how a stored run is known."""
        return self.run.name

    @property
    def pixels(self) -> VariableSpec:
        """The declared array; its initial value fills tiles without pixels, and what lies outside of smaller ones.

        Raises KeyError for a product without one.
        """
        return self.run.variables[self.array or ""]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that a run may have, `state` last."""
        names = [name for name in self.run.variables if name not in (self.array, n.STATE)]
        return (*names, n.STATE)

    def initial(self, column: str) -> int | float | str:
        """What stands in the column where the tile is not done.

        Raises KeyError for a column that the schema does not declare with such a value.
        """
        value = self.run.variables[column].initial
        if value is None:
            raise KeyError(f"{self.name}: {column} has no initial value")
        return value


INSTANCES: Final = Product(MASK_RUN, CELLS, n.MASK, "instance masks")
PROBABILITIES: Final = Product(PROBABILITY_RUN, CANDIDATES, n.PROBABILITY, "probabilities of particles")
CLASSES: Final = Product(CLASS_RUN, None, n.CLASSES, "maps of classes")
SCORES: Final = Product(SCORE_RUN, None, None, "embeddings and scores of volumes")

PRODUCTS: Final = {
    "run": INSTANCES,
    "probability_run": PROBABILITIES,
    "class_run": CLASSES,
    "score_run": SCORES,
}
"""Every product by its name, which stores hold; `fintune_xr.pixels.tile_results` says how each comes about."""


def product_named(schema: str) -> Product:
    """The product of a run whose stored schema has this name.

    Raises StoreVersionError for a name that this release does not know.
    """
    if schema not in PRODUCTS:
        raise StoreVersionError(
            f"a run of schema {schema!r} cannot be read; known: {', '.join(PRODUCTS)}. Use the release that wrote it."
        )
    return PRODUCTS[schema]
