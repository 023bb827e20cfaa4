"""What became of each site in a stage of the job, and how much of it leaves the server enclave.

A single site's figures leave only if the manifest says so (``privacy.site_metrics``); otherwise
what they come to over a cohort.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sealtune.errors import SiteLostError
from sealtune.job.events import NOT_ASKED, SiteRound
from sealtune.job.manifest import Manifest

_MAX_REASON = 500  # characters
_PUBLIC = frozenset({"examples", "outlier"})  # in the manifest anyway; a warning to all


@dataclass
class SiteOutcome:
    """One site's line in the round report.

    Attributes:
        outcome: of the stage so far; ``not asked``: the round does without this site.
        reason: why the site failed; empty while it has not.
        rejected: it failed because of what it sent, and nobody on the way can have sent that.
        fields: what it reports about its work, checked (of ``SiteRound``).
        bytes_up: length of its messages, sealed.
        bytes_down: length of the messages to it, sealed.
    """

    outcome: Literal["ok", "late", "failed", "not asked"] = "failed"
    reason: str = ""
    rejected: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    def succeed(self) -> None:
        """The site did its part."""
        self.outcome, self.reason = "ok", ""

    def fail(self, reason: str, *, late: bool = False) -> None:
        """The site did not."""
        self.outcome = "late" if late else "failed"
        self.reason = reason[:_MAX_REASON]

    def line(self, *, site_metrics: bool) -> SiteRound:
        """As in the round's event.

        Args:
            site_metrics: whether the figures of this site alone may leave.
        """
        return SiteRound(
            outcome=self.outcome,
            reason=self.reason,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            **{key: f for key, f in self.fields.items() if site_metrics or key in _PUBLIC},
        )


Outcomes = Mapping[str, SiteOutcome]


def new_outcomes(
    sites: Iterable[str], asked: Collection[str] | None = None
) -> dict[str, SiteOutcome]:
    """Nothing has become of ``sites`` yet; ``asked``: who is to do something; None: all."""
    return {
        site: SiteOutcome("failed" if asked is None or site in asked else NOT_ASKED)
        for site in sites
    }


def reported(manifest: Manifest, outcomes: Outcomes) -> dict[str, Any]:
    """What a round's event says of the sites: a line for each, and totals over a cohort of them.

    Losses and answers have no noise, so where there is differential privacy there are no totals.
    """
    privacy = manifest.settings.privacy
    lines = {site: one.line(site_metrics=privacy.site_metrics) for site, one in outcomes.items()}
    good = {site: one.fields for site, one in outcomes.items() if one.outcome == "ok"}
    public = privacy.unit is None and manifest.is_cohort(good)
    return {"sites": lines, **(_totals(list(good.values())) if public else {})}


def _totals(fields: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of sites that all state the same: answers added up, means of losses."""
    totals: dict[str, Any] = {}
    if all("correct" in own for own in fields):
        totals = {key: sum(own[key] for own in fields) for key in ("correct", "total")}
        totals["loss"] = _mean(fields, "loss", "total")
    if all("train_loss" in own for own in fields):
        totals["train_loss"] = _mean(fields, "train_loss", "examples")
    return totals


def _mean(fields: Sequence[Mapping[str, Any]], key: str, weight: str) -> float | None:
    """Mean of ``key``, weighted; None where nothing weighs."""
    weights = sum(own[weight] for own in fields)
    return sum(own[key] * own[weight] for own in fields) / weights if weights else None


def too_few(
    manifest: Manifest, outcomes: Outcomes, good: Collection[str], done: str
) -> SiteLostError:
    """The error that ends a job of which only the sites ``good`` have ``done`` their part."""
    asked = {site: one for site, one in outcomes.items() if one.outcome != NOT_ASKED}
    reasons = "; ".join(f"{s}: {one.reason}" for s, one in asked.items() if one.outcome != "ok")
    return SiteLostError(
        f"only {len(good)} of {len(asked)} sites {done}; needed are "
        f"{manifest.settings.quorum}, of at least {manifest.min_cohort} organisations: {reasons}",
        hint="bring the site back and continue with --resume, or lower network.min_sites",
    )
