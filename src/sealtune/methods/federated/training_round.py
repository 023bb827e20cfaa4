"""One round of training as the aggregator sees it: updates come in, each is checked and clipped,
and the job's rule makes the next global adapter of them.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.job.dp_terms import DpTerms
from sealtune.job.settings import Settings
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext, Rule
from sealtune.methods.federated.norm_bound import NormBound
from sealtune.methods.federated.ranks import Outgoing
from sealtune.methods.federated.rules.registry import RULES
from sealtune.methods.federated.update import Update, read_update
from sealtune.methods.federated.update_bound import UpdateBound
from sealtune.party.admit import Admitted


class TrainingRound:
    """What becomes of a round's answers.

    Args:
        admitted: the job.
        outgoing: the global adapter, as the sites are sent it.
        norm_ratio: what the round before left (``NormBound.next_ratio``).
    """

    def __init__(self, admitted: Admitted, outgoing: Outgoing, norm_ratio: float) -> None:
        settings: Settings = admitted.settings
        self._settings = settings
        shapes = admitted.plan.shared
        weights = {site: data.train_rows for site, data in admitted.manifest.data.items()}
        self._outgoing, self.before = outgoing, outgoing.whole.tensors
        largest = {n: max(float(t.max()), -float(t.min())) for n, t in self.before.items()}
        self._limits: Mapping[str, Mapping[str, float]] = {
            site: UpdateBound(settings.train, rows).limits(largest)
            for site, rows in weights.items()
        }
        reach = max(max(limits.values()) for limits in self._limits.values())
        context = RoundContext(shapes, self.before, settings, weights, reach, admitted.state_folder)
        self._figures = context.figures
        self._weights = weights
        numbers = {s: sum(t.size for t in outgoing.to(s).tensors.values()) for s in weights}
        self.norms = NormBound(settings, weights, numbers, norm_ratio)
        self._rule = _rule(context, admitted.manifest.dp)

    def check(self, site: str, answer: bytes) -> Update:
        """Read a site's adapter; changes nothing.

        Raises:
            AdapterMismatchError, UpdateBoundError: it is not an honest site's.
        """
        sent = self._outgoing.to(site)
        return read_update(sent.reader.read(answer), sent.tensors, self._limits[site])

    def take(self, site: str, update: Update) -> dict[str, Any]:
        """Clip a site's update and add it; returns what the round's event says of it."""
        factor = self.norms.clip(site, update.norm)
        if factor < 1:
            update.scale(factor)
        self._rule.add(site, update.tensors, self._weights[site])
        return {"norm_bound": self.norms.of(site), "clipped": factor < 1}

    def figures(self) -> dict[str, Any]:
        """What the round's event says of clipping and rule, after ``result``."""
        if self._settings.privacy.unit == "site":
            return {}  # how many were clipped is no noisy answer
        auto = self._settings.aggregation.norm_bound == "auto"
        ratio = {"norm_ratio": self.norms.ratio} if auto else {}
        return {**ratio, "clipped": len(self.norms.clipped), **self._figures}

    def result(self) -> Tensors:
        """The next global adapter."""
        return self._rule.result()


def _rule(context: RoundContext, dp: DpTerms | None) -> Rule:
    """The job's, or in its place the one that hides each site."""
    privacy = context.settings.privacy
    if dp is None or privacy.unit != "site":
        return RULES[context.settings.aggregation.rule]()(context)
    from sealtune.methods.federated.rules.private_mean import PrivateMean

    return PrivateMean(context, privacy.clip * dp.noise_multiplier)
