"""What a run is asked to be: its model, the model's settings and the planes that it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from fintune_xr import names as n
from fintune_xr.cluster.profile import Profile
from fintune_xr.cohort_kinds import require_product
from fintune_xr.datasets import SCHEMA_VERSION
from fintune_xr.errors import FintuneValueError, RunMismatchError, SettingsError, UnknownNameError, nearest
from fintune_xr.models.channels import ChannelSettings, with_planes
from fintune_xr.models.checkpoints import Checkpoint, training_facts
from fintune_xr.models.devices import CPU
from fintune_xr.models.registry import kind_named, kinds, load_model, model_names, resolve_checkpoint
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.inference.block import BlockContext
from fintune_xr.pipelines.workers.devices import device_on
from fintune_xr.settings import Config, Settings, dotted_names, load_settings, validate
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.participants import ID_COLUMNS
from fintune_xr.store.lineage.annotated_legend import require_annotated_classes
from fintune_xr.store.lineage.labelled_classes import require_labelled_classes
from fintune_xr.store.lineage.learnt_scale import other_sides
from fintune_xr.store.runs.columns import Sizes
from fintune_xr.store.runs.run import check_run_name
from fintune_xr.tasks.class_map import stored_class_map
from fintune_xr.tasks.task import CLASSIFICATION, SEMANTIC
from fintune_xr.text import texts


def pretraining_facts(settings: Settings) -> dict[str, list[str]]:
    """The participants in the file `seen` of an encoder's settings: the first word of each line, but for a heading.

    Raises SettingsError for a file that is not there, or that names nobody.
    """
    file = str(getattr(settings, n.SEEN, ""))
    if not file:
        return {}
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"seen: cannot read {file} ({type(error).__name__}). Name a text file of ids.") from error
    ids = [line.split()[0].strip(",;") for line in lines if line.strip()]
    found = sorted({one for one in ids if one not in ID_COLUMNS})
    if not found:
        raise SettingsError(f"seen: {file} names no participant; expected an id a line")
    return {n.PRETRAINING_SEEN: found}


class InferSettings(Settings):
    """How a run is made. Only `model` belongs to its identity; the rest changes no result by more than rounding."""

    model: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the model itself; --model NAME beside --settings lists them."
    )
    device: str = Field("auto", description="cpu, cuda, cuda:N, or auto: the GPU where there is one.")
    batch_tiles: int = Field(
        1,
        ge=1,
        description="Tiles whose patches fill the network's batches together; only for models that cut patches.",
    )
    attempts: int = Field(2, ge=1, description="Tries before a failing tile is quarantined.")
    tile_timeout_s: float = Field(
        1800.0,
        ge=0,
        description="A worker process that makes no progress for so long is given up, times the tiles of a batch while "
        "the network has it; a tile that takes longer is quarantined. 0: never.",
    )
    positivity: str = Field("otsu", description="Rule applied at the end; other rules: `fintune-xr positivity`.")


def infer_settings(config: Config, overrides: Sequence[str]) -> InferSettings:
    """The settings of a run. Raises SettingsError; of a model's setting without `model.` it says so."""
    return load_settings(InferSettings, config, overrides, hints=_of_models)


def _of_models() -> list[str]:
    """Settings of all models, as `infer` takes them."""
    return [f"model.{name}" for kind in kinds().values() for name in dotted_names(kind.settings)]


_PLANES: Final = tuple(ChannelSettings.model_fields)


def resolve_request(
    cohort: Cohort, run: str, model: str | None, settings: InferSettings, *, restart: bool
) -> tuple[Checkpoint, InferSettings]:
    """Checkpoint and settings asked for, or those of the stored run where nothing was said.

    Raises UnknownNameError where a run would be made and no model is named, RunMismatchError for a stored run that
    does not say which planes it was shown.
    """
    check_run_name(run)
    stored = {} if restart or run not in cohort.run_names() else cohort.run_attrs(run)
    if model is None and not stored:
        raise UnknownNameError(_no_model(cohort, run, restart=restart))
    of_model = stored.get(n.IDENTITY, {}).get("settings", {})
    _require_planes(run, of_model)
    if model is None:
        facts = stored[n.PROVENANCE].get("checkpoint")
        if facts is None:
            raise FintuneValueError(
                f"run {run!r} was not made by a model, but of other runs or of masks; see fintune-xr hybrid, import-run"
            )
        model = facts["path"] or facts["name"]
        if not settings.model:
            settings = settings.model_copy(update={"model": of_model})
    checkpoint = resolve_checkpoint(model)
    if stored:
        # A run of an earlier release is continued as that made it.
        unknown = {k: v for k, v in kind_named(checkpoint.kind).settings.BEFORE.items() if k not in of_model}
        settings = settings.model_copy(update={"model": unknown | settings.model})
    return checkpoint, settings


def run_identity(checkpoint: Checkpoint, settings: Settings) -> dict[str, Any]:
    """What makes two runs the same run: weights, settings of the model with its planes, schema of the store."""
    return {
        "checkpoint_kind": checkpoint.kind,
        "checkpoint_sha256": checkpoint.sha256,
        "settings": settings.as_dict(),
        "settings_digest": settings.digest,
        "schema_version": SCHEMA_VERSION,
    }


def run_sizes(cohort: Cohort, checkpoint: Checkpoint, settings: Settings) -> Sizes | None:
    """What lies along the further dims of the run's columns; None where its product has none.

    Raises FintuneValueError or SettingsError where the model does not take tiles of the cohort's shape, or its classes
    are others than those that the cohort is annotated with.
    """
    sizes = kind_named(checkpoint.kind).sizes
    if sizes is None:
        return None
    images = cohort.images(lazy=False)[n.IMAGE]
    found = sizes(checkpoint, settings, tuple(images.shape[2:]))
    if n.CLASS in found and cohort.has(n.ANNOTATIONS):
        _require_known_classes(cohort, checkpoint, found[n.CLASS])
    return found


def run_array_attrs(checkpoint: Checkpoint) -> Mapping[str, Mapping[str, Any]] | None:
    """Attributes of the run's arrays; None where its model says nothing of them."""
    attrs = kind_named(checkpoint.kind).attrs
    return None if attrs is None else attrs(checkpoint)


def run_context(
    cohort: Cohort, run: str, checkpoint: Checkpoint, settings: InferSettings, profile: Profile
) -> BlockContext:
    """What the blocks of a run need: settings of the model that leave no plane open, the device as workers name it."""
    _check_product(cohort, checkpoint)
    _check_batch(checkpoint, settings)
    channels = tuple(texts(cohort.images(lazy=False)[n.CHANNEL]))
    chosen = _model_settings(checkpoint, settings, channels)
    _say_other_sides(cohort, checkpoint, chosen)
    device = device_on(profile, settings.device)
    if not checkpoint.path:
        # A model without weights costs nothing to make: what is wrong with it is said before there is a run.
        load_model(checkpoint, channels=channels, settings=chosen, device=CPU if profile.is_remote else device)
    return BlockContext(
        location=cohort.location,
        run=run,
        checkpoint=checkpoint,
        settings=chosen,
        channels=channels,
        device=device,
        batch_tiles=settings.batch_tiles,
        attempts=settings.attempts,
        tile_timeout_s=settings.tile_timeout_s,
    )


def _require_known_classes(cohort: Cohort, checkpoint: Checkpoint, names: Any) -> None:
    """What evaluate and check would say of the finished run is said before its first block."""
    of = f"model {checkpoint.name!r}"
    stored = (run_array_attrs(checkpoint) or {}).get(n.CLASSES)
    if stored is not None and cohort.task.name == SEMANTIC:
        require_annotated_classes(cohort, stored_class_map(stored), of=of)
    if cohort.task.name == CLASSIFICATION:
        require_labelled_classes(cohort, list(names), of=of)


def _say_other_sides(cohort: Cohort, checkpoint: Checkpoint, chosen: Settings) -> None:
    """Says where the model knows another magnification, unless it is told a diameter that makes up for it."""
    other = other_sides(cohort, training_facts(checkpoint))
    if other and getattr(chosen, "diameter_px", None) is None:
        say(f"infer: {checkpoint.name} {other}")


def _model_settings(checkpoint: Checkpoint, settings: InferSettings, channels: tuple[str, ...]) -> Settings:
    """Settings of the model with its planes stated: what a record beside the weights says may change, a run may not."""
    kind = kind_named(checkpoint.kind)
    asked = validate(kind.settings, settings.model, where=f"settings of {checkpoint.kind}")
    stated = with_planes(asked, channels, trained=checkpoint.channels, zeroed=checkpoint.zeroed)
    if kind.planes is not None and not checkpoint.channels and _unsaid(asked.as_dict()):
        shown, blank = (", ".join(stated.as_dict()[name]) or "none" for name in _PLANES)
        say(
            f"{checkpoint.name}: no record beside these weights says which planes they are for; assumed: {shown}; "
            f"blanked: {blank} (settings model.channels, model.zero_channels)"
        )
    return stated


def _require_planes(run: str, stored: Mapping[str, Any]) -> None:
    if unsaid := _unsaid(stored):
        raise RunMismatchError(
            f"run {run!r} was stored without saying which planes its model was shown ({', '.join(unsaid)}), as older "
            "versions did. It can be read as before, but nothing can be added that is sure to be alike. Choose another "
            "--run name, or --restart to throw the stored run away."
        )


def _unsaid(settings: Mapping[str, Any]) -> list[str]:
    return [name for name in _PLANES if name in settings and settings[name] is None]


def _no_model(cohort: Cohort, run: str, *, restart: bool) -> str:
    known = cohort.run_names()
    needed = f"a model has to be named: --model {', '.join(model_names())}, a weights file or a checkpoint folder."
    if restart and run in known:
        return f"run {run!r} is to be made anew, so {needed}"
    stored = ", ".join(known) or "none yet"
    return f"{cohort.url} has no run {run!r} to continue (stored: {stored}).{nearest(run, known)} To make it, {needed}"


def _check_product(cohort: Cohort, checkpoint: Checkpoint) -> None:
    """Raises FintuneValueError for a model whose runs are neither what runs of the cohort hold nor a step to it."""
    kind = kind_named(checkpoint.kind)
    if cohort.task.name not in kind.steps_for:
        require_product(cohort.kind, kind.product, of=f"model {checkpoint.name!r} ({kind.name})", url=cohort.url)


def _check_batch(checkpoint: Checkpoint, settings: InferSettings) -> None:
    if settings.batch_tiles > 1 and not kind_named(checkpoint.kind).pools:
        pooling = [kind.name for kind in kinds().values() if kind.pools]
        raise SettingsError(
            f"batch_tiles: expected 1 for {checkpoint.kind}, which takes one tile at a time, got "
            f"{settings.batch_tiles}. Kinds that fill their batches from several tiles: {', '.join(pooling)}."
        )
