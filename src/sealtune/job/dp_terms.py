"""What a manifest says of differential privacy: the noise, and what each round costs.

    manifest.dp.rounds(settings.privacy.epsilon)    # so many rounds, then training ends
    manifest.dp.spent(3)                            # epsilon of the site with the least privacy

No enclave computes an epsilon: it follows the signed table, which every participant can work out
anew (``sealtune.accounting``).

Trust domain: every process; manifests come from outside.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from sealtune.job.federated_sections import NoiseMultiplier
from sealtune.job.sections import Name, Strict, TrainSpec
from sealtune.job.settings import Settings

Epsilon = Annotated[float, Field(ge=0)]


class EpsilonTable(Strict):
    """Epsilon of some sites that have the same.

    Attributes:
        sites: which.
        epsilon: after 1, 2, ... rounds.
    """

    sites: tuple[Name, ...] = Field(min_length=1, max_length=64)
    epsilon: tuple[Epsilon, ...] = Field(min_length=1, max_length=10_000)


class DpTerms(Strict):
    """What follows from ``[privacy]`` and the number of rows.

    Attributes:
        noise_multiplier: deviation of the noise over ``privacy.clip``.
        accountant: ``rdp``: Renyi differential privacy (Mironov, arXiv 1702.07476).
        computed_by: library and version, for people; nothing depends on it.
        tables: each site stands in one of them.
    """

    noise_multiplier: NoiseMultiplier
    accountant: Literal["rdp"]
    computed_by: str = Field(max_length=200)
    tables: tuple[EpsilonTable, ...] = Field(min_length=1, max_length=64)

    def epsilons(self, rounds: int) -> dict[str, float]:
        """Site -> epsilon after so many rounds."""
        return {
            site: table.epsilon[rounds - 1] if rounds else 0.0
            for table in self.tables
            for site in table.sites
        }

    def spent(self, rounds: int) -> float:
        """The largest of them."""
        return max(self.epsilons(rounds).values())

    def rounds(self, budget: float) -> int:
        """How many rounds no site pays for with more than ``budget``."""
        return min(sum(cost <= budget for cost in table.epsilon) for table in self.tables)


def sampling_rate(train: TrainSpec, rows: int) -> float:
    """With which probability each of a site's rows is in a step, where the unit is an example."""
    return min(train.batch_size, rows) / rows


def check_dp(dp: DpTerms | None, settings: Settings) -> None:
    """Raise ValueError unless ``dp`` is of this form for these settings.

    Whether its numbers are right is for ``sealtune.accounting`` to say.
    """
    privacy = settings.privacy
    if dp is None or privacy.unit is None or privacy.epsilon is None:
        if (dp is None) != (privacy.unit is None):
            given, lacking = ("dp", "no unit") if privacy.unit is None else ("a unit", "no dp")
            raise ValueError(f"there is {given}, but {lacking}: both or neither belong into it")
        return
    if privacy.noise_multiplier not in (None, dp.noise_multiplier):
        raise ValueError(
            f"noise_multiplier is {dp.noise_multiplier}, in the settings {privacy.noise_multiplier}"
        )
    named = sorted(site for table in dp.tables for site in table.sites)
    if named != sorted(settings.sites.names):
        raise ValueError("the tables are not of each site of the job, once")
    for table in dp.tables:
        _check_table(table.epsilon, settings)
    if not dp.rounds(privacy.epsilon):
        raise ValueError(f"the first round costs more than the budget of {privacy.epsilon}")


def _check_table(epsilon: tuple[float, ...], settings: Settings) -> None:
    rounds, privacy = settings.job.rounds, settings.privacy
    if len(epsilon) != rounds:
        raise ValueError(f"a table has {len(epsilon)} rounds, the job {rounds}")
    if any(later < earlier for earlier, later in pairwise(epsilon)):
        raise ValueError("a later round costs less than an earlier one")
    # noise that is worked out lasts for all rounds
    if privacy.noise_multiplier is None and epsilon[-1] > (privacy.epsilon or 0):
        raise ValueError(f"{epsilon[-1]} after all rounds exceeds the budget of {privacy.epsilon}")
