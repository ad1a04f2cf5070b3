"""Which cells count as marker-positive: one frozen record per rule."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import numpy as np
import xarray as xr
from pydantic import Field

from fintune_xr.names import RULE, SETTINGS
from fintune_xr.schema import check_dataset
from fintune_xr.settings import Settings
from fintune_xr.tasks.instance import POSITIVITY


class NamedRule(Settings):
    """Base of the rules."""

    kind: str

    @property
    def name(self) -> str:
        """Value of the coordinate `rule`."""
        return self.kind


class OtsuRule(NamedRule):
    """Otsu's threshold on log signal, pooled over all cells of the marker in the cohort."""

    kind: Literal["otsu"] = "otsu"


class OtsuDonorRule(NamedRule):
    """Otsu's threshold on log signal, over the cells of each donor and marker on their own."""

    kind: Literal["otsu_donor"] = "otsu_donor"


class MixtureRule(NamedRule):
    """Where the upper of two Gaussians on log signal becomes likelier, over all cells of the marker."""

    kind: Literal["mixture"] = "mixture"


class FixedRule(NamedRule):
    """One threshold for every cell."""

    kind: Literal["fixed"] = "fixed"
    threshold: float = Field(ge=0, description="Background-subtracted marker intensity, in counts.")

    @property
    def name(self) -> str:
        """Value of the coordinate `rule`."""
        return f"fixed_{self.threshold:g}"


class DetectedRule(NamedRule):
    """Every instance that holds a nucleus is positive; all cells are the nuclei of another run."""

    kind: Literal["detected"] = "detected"
    nuclei_run: str = Field(min_length=1, description="Run on DAPI alone, over the same tiles.")


IntensityRule = Annotated[OtsuRule | OtsuDonorRule | MixtureRule | FixedRule, Field(discriminator="kind")]
"""A rule that needs nothing but the intensities of the cells."""

PositivityRule = Annotated[
    OtsuRule | OtsuDonorRule | MixtureRule | FixedRule | DetectedRule, Field(discriminator="kind")
]


def of_rule(parts: dict[str, xr.DataArray], rule: NamedRule) -> xr.Dataset:
    """`parts` (tile) as the positivity dataset (rule, tile) of `rule`, with its settings in JSON."""
    named = {name: part.assign_attrs(POSITIVITY[name].attrs) for name, part in parts.items()}
    text = json.dumps(rule.as_dict(), sort_keys=True)
    coords = {RULE: np.array([rule.name]), SETTINGS: (RULE, np.array([text]))}
    return check_dataset(xr.Dataset(named).expand_dims(RULE).assign_coords(coords), POSITIVITY)
