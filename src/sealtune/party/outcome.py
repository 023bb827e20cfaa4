"""What became of each site in a stage of the job.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sealtune.errors import SiteLostError
from sealtune.job.events import SiteRound
from sealtune.job.manifest import Manifest

_MAX_REASON = 500  # characters


@dataclass
class SiteOutcome:
    """One site's line in the round report.

    Attributes:
        outcome: of the stage so far.
        reason: why the site failed; empty while it has not.
        rejected: it failed because of what it sent, and nobody on the way can have sent that.
        fields: what it reports about its work, checked (of ``SiteRound``).
        bytes_up: length of its messages, sealed.
        bytes_down: length of the messages to it, sealed.
    """

    outcome: Literal["ok", "late", "failed"] = "failed"
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

    def line(self) -> SiteRound:
        """As in the round's event."""
        return SiteRound(
            outcome=self.outcome,
            reason=self.reason,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            **self.fields,
        )


Outcomes = Mapping[str, SiteOutcome]


def new_outcomes(sites: Iterable[str]) -> dict[str, SiteOutcome]:
    """Nothing has become of ``sites`` yet."""
    return {site: SiteOutcome() for site in sites}


def too_few(
    manifest: Manifest, outcomes: Outcomes, good: Collection[str], done: str
) -> SiteLostError:
    """The error that ends a job of which only the sites ``good`` have ``done`` their part."""
    reasons = "; ".join(f"{s}: {one.reason}" for s, one in outcomes.items() if one.outcome != "ok")
    return SiteLostError(
        f"only {len(good)} of {len(outcomes)} sites {done}; needed are "
        f"{manifest.settings.quorum}, of at least {manifest.min_cohort} organisations: {reasons}",
        hint="bring the site back and continue with --resume, or lower network.min_sites",
    )
