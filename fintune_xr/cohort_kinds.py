"""The kinds of cohorts, named nowhere else: what each holds, which task it is for, which steps there are for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.schema import DatasetSchema
from fintune_xr.tasks.classification import VOLUMES
from fintune_xr.tasks.detection import MICROGRAPHS
from fintune_xr.tasks.product import CLASSES, INSTANCES, PROBABILITIES, SCORES, Product
from fintune_xr.tasks.registry import TASKS
from fintune_xr.tasks.semantic import RGB
from fintune_xr.tasks.task import CLASSIFICATION, DETECTION, INSTANCE, SEMANTIC, Task


@dataclass(frozen=True, slots=True)
class CohortKind:
    """A kind of cohort, by the name that its stores hold.

    `images` is the schema of its tiles, `product` what runs of it store, `annotated` what its annotations are in a
    word, `about` completes "a cohort …" where another kind was found, `offers` says what there is for it. `verbs` are
    the steps that not every kind has; those that name no kind are for all. `split_by` and `fractions` (train, val,
    test) are the default split; `joins_pixels` whether several pixels of a file may be stored as their mean.
    """

    name: str
    task: str
    images: DatasetSchema
    product: Product
    about: str
    annotated: str
    offers: str
    verbs: tuple[str, ...] = ()
    split_by: Literal["donor", "tile"] = n.DONOR
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    joins_pixels: bool = False


IF: Final = CohortKind(
    "if",
    INSTANCE,
    datasets.IMAGES,
    INSTANCES,
    about="whose annotations are masks of cells",
    annotated="masks",
    offers="For masks there are: fintune-xr train STORE --model flow_unet or cpsam, infer, evaluate, report, and "
    "export --to masks, tables or cellpose.",
    verbs=("benchmark", "budget", "gate", "hybrid", "qc", "suggest", "sweep"),
)

HE: Final = CohortKind(
    "he",
    SEMANTIC,
    RGB,
    CLASSES,
    about="of patches of stained tissue (kind 'he'), whose annotations are maps of classes",
    annotated="class masks",
    offers="For patches of stained tissue there are: fintune-xr train STORE --model semantic_unet or sam2_semantic, "
    "infer, benchmark, budget, evaluate, report, and export --to masks.",
    verbs=("benchmark", "budget", "sweep"),
)

EM: Final = CohortKind(
    "em",
    DETECTION,
    MICROGRAPHS,
    PROBABILITIES,
    about="of micrographs (kind 'em'), whose annotations are particles",
    annotated="particles",
    offers="For micrographs there are: fintune-xr train STORE --model particle_unet, selftrain, infer, pick, evaluate, "
    "report, and export --to star, relion, box or csv.",
    verbs=("pick", "selftrain"),
    split_by=n.TILE,
    fractions=(0.9, 0.1, 0.0),
    joins_pixels=True,
)

OCT: Final = CohortKind(
    "oct",
    CLASSIFICATION,
    VOLUMES,
    SCORES,
    about="of volumes (kind 'oct'), whose annotations are labels of participants",
    annotated="labels",
    offers="For volumes there are: fintune-xr split STORE --keep, infer STORE --model ENCODER, probe, train STORE "
    "--model ENCODER --config oct_finetune, benchmark, evaluate, report, and export --to leaderboard, artefacts or "
    "tables.",
    verbs=("benchmark",),
)

KINDS: Final[Mapping[str, CohortKind]] = {kind.name: kind for kind in (IF, HE, OCT, EM)}


def kind_named(name: str) -> CohortKind:
    """Raises UnknownNameError naming the kinds that are implemented."""
    if name not in KINDS:
        raise unknown_name("kind of cohort", name, list(KINDS))
    return KINDS[name]


def task_of(kind: str) -> Task:
    """The task that a kind of cohort is for."""
    return TASKS[kind_named(kind).task]


def require(verb: str, kind: str, *, url: str, tasks: Iterable[str] = ()) -> None:
    """Raises FintuneValueError where `verb` is not for cohorts of `kind`, saying what there is for them instead.

    A verb is for the kinds that list it, or, where `tasks` are named, for all kinds of these tasks. `url` is the
    cohort's place.
    """
    wanted = tuple(tasks)
    meant = [one for one in KINDS.values() if (one.task in wanted if wanted else verb in one.verbs)]
    found = kind_named(kind)
    if found not in meant:
        raise FintuneValueError(
            f"{verb}: expected a cohort {', or '.join(one.about for one in meant)}, found {url} of kind {kind!r}, "
            f"whose annotations are {found.annotated}. {found.offers}"
        )


def require_product(kind: str, product: Product, *, of: str, url: str) -> None:
    """Raises FintuneValueError where runs of cohorts of `kind` do not store `product`, saying what there is instead.

    `of` names the model that makes it, `url` is the cohort's place.
    """
    found = kind_named(kind)
    if product is found.product:
        return
    meant = " or ".join(one.about for one in KINDS.values() if one.product is product)
    raise FintuneValueError(
        f"{of} gives {product.gives}" + (f" of a cohort {meant}" if meant else "") + f"; found {url} of kind {kind!r}, "
        f"whose annotations are {found.annotated} and whose runs hold {found.product.gives}. {found.offers}"
    )
