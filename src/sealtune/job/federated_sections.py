"""Sections of a job file that only federated jobs have: how updates become one, and privacy.

Trust domain: every process; settings only.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sealtune.job.sections import Name, NonEmpty, Section, distinct

PART = re.compile(r"head|layers\.(0|[1-9][0-9]{0,3})")
# less noise hides nothing, and its grid would be too fine for the values under it
NoiseMultiplier = Annotated[float, Field(ge=0.01, le=1e6, strict=True)]
ServerOptimizer = Literal["none", "fedavgm", "fedadam", "fedyogi"]


class AggregationSpec(Section):
    """``[aggregation]``: what the server makes of the sites' updates."""

    rule: Name = "fedavg"
    """`fedavg`: mean weighted by signed rows. `exact`: mean of the products B A, of any ranks.
    `median`, `trimmed-mean`: of each number, one vote a site. `multi-krum`: mean of the updates
    that lie closest, weighted by rows. These three bear sites that attack, and cost accuracy."""
    norm_bound: Annotated[float, Field(gt=0, strict=True)] | Literal["auto", "none"] = "auto"
    """L2 norm to which a site's update is clipped; `auto` follows the median of the last round."""
    trim: float = Field(default=0.2, gt=0, lt=0.5, strict=True)
    """For `trimmed-mean`: share of the sites left out at each end of every coordinate."""
    attackers: int = Field(default=1, ge=1, le=31, strict=True)
    """For `multi-krum`: how many sites may attack; it needs at least 2 attackers + 3 sites."""
    outliers: Literal["discount", "report"] = "discount"
    """A site whose updates point elsewhere than the others' is named in the round report;
    `discount`: from the next round on its rows count a sixteenth, as long as they do, in a job of
    five sites or more. Of fewer, two that are alike would decide over a third."""
    server_optimizer: ServerOptimizer = "none"
    """What moves the global adapter, with the mean update in the place of a gradient."""
    server_learning_rate: Annotated[float, Field(gt=0, le=100, strict=True)] | None = Field(
        default=None, examples=[0.01]
    )
    """Of the server optimizer; without it, 1 for `fedavgm`. `fedadam` and `fedyogi` need it: they
    move each number by about so much in a round, however small the updates are."""
    server_momentum: float = Field(default=0.9, ge=0, lt=1, strict=True)
    """Of the server optimizer: decay of the mean of updates."""
    server_second_momentum: float = Field(default=0.99, ge=0, lt=1, strict=True)
    """For `fedadam` and `fedyogi`: decay of the mean of squares."""
    server_adaptivity: float = Field(default=1e-3, gt=0, strict=True)
    """For `fedadam` and `fedyogi`: added to the root of the mean of squares."""
    proximal: float = Field(default=0.0, ge=0, strict=True)
    """FedProx: weight of mu / 2 |w - w_global|^2 in each site's loss."""
    participation: float = Field(default=1.0, gt=0, le=1, strict=True)
    """Share of the sites that train in each round, drawn from the seed."""
    personal: tuple[NonEmpty, ...] = Field(default=(), examples=[["head"]])
    """Tuned parts that stay at home: `head`, or blocks such as `layers.29`."""
    personal_steps: int = Field(default=0, ge=0, strict=True)
    """Steps that each site goes on from the joint adapter in the end, for an adapter of its own."""

    @property
    def optimizer_rate(self) -> float:
        """``server_learning_rate``, given or not."""
        return 1.0 if self.server_learning_rate is None else self.server_learning_rate

    @field_validator("personal")
    @classmethod
    def _are_parts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        odd = [part for part in value if not PART.fullmatch(part)]
        if odd:
            raise ValueError(f'names {odd[0]!r}: a part is "head", or a block such as "layers.29"')
        return distinct(value)

    def asked(self, sites: int) -> int:
        """How many of so many sites train in a round."""
        return math.ceil(round(self.participation * sites, 9))  # 0.1 * 30 is above 3


class PrivacySpec(Section):
    """``[privacy]``: differential privacy of the released adapter, and what else leaves."""

    unit: Literal["site", "example"] | None = Field(default=None, examples=["site"])
    """Whose presence is hidden: a whole site's (noise in the aggregator), or one row's (noise in
    each site's enclave); without it, there is no differential privacy."""
    epsilon: Annotated[float, Field(gt=0, strict=True)] | None = Field(default=None, examples=[8.0])
    """Budget: training ends before it is exceeded, and keeps the last adapter."""
    delta: float = Field(default=1e-5, gt=0, lt=1, strict=True)
    """Probability with which the guarantee may fail; less than 1 over the number of sites, or of a
    site's rows."""
    clip: float = Field(default=1.0, gt=0, le=1e6, strict=True)
    """L2 norm to which a site's update, or an example's gradient, is clipped before noise."""
    noise_multiplier: NoiseMultiplier | None = Field(default=None, examples=[1.0])
    """Deviation of the noise over `clip`; without it, the least that all rounds' budget allows."""
    insecure_difference_releases: bool = Field(default=False, strict=True)
    """Take part although this result less an earlier one shows the part of few organisations; for
    those who sign it."""
    site_metrics: bool = Field(default=False, strict=True)
    """Whether the server lets out each site's losses, answers and seconds, or only totals."""

    @model_validator(mode="after")
    def _has_a_budget(self) -> Self:
        if self.unit is not None and self.epsilon is None:
            raise ValueError(f'unit is "{self.unit}", so epsilon must be given')
        return self
