"""One round of training as the aggregator sees it: updates come in, each is checked and clipped,
and the job's rule makes the next global adapter of them.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.job.settings import Settings
from sealtune.methods.federated.adapter import AdapterReader, Tensors, adapter_size
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.norm_bound import NormBound
from sealtune.methods.federated.rules.registry import RULES
from sealtune.methods.federated.update import Update, read_update
from sealtune.methods.federated.update_bound import UpdateBound
from sealtune.party.admit import Admitted


class TrainingRound:
    """What becomes of a round's answers.

    Args:
        admitted: the job.
        adapter: bytes of the global adapter, as the sites are sent it.
        norm_ratio: what the round before left (``NormBound.next_ratio``).
    """

    def __init__(self, admitted: Admitted, adapter: bytes, norm_ratio: float) -> None:
        settings: Settings = admitted.settings
        shapes = admitted.plan.trainable
        weights = {site: data.train_rows for site, data in admitted.manifest.data.items()}
        self._reader = AdapterReader(adapter, shapes)
        self.before: Tensors = self._reader.read(adapter)
        largest = {n: max(float(t.max()), -float(t.min())) for n, t in self.before.items()}
        self._limits: Mapping[str, Mapping[str, float]] = {
            site: UpdateBound(settings.train, rows).limits(largest)
            for site, rows in weights.items()
        }
        reach = max(max(limits.values()) for limits in self._limits.values())
        context = RoundContext(shapes, self.before, settings, weights, reach, admitted.state_folder)
        self._weights = weights
        self.norms = NormBound(settings, weights, adapter_size(shapes) // 4, norm_ratio)
        self._rule = RULES[settings.aggregation.rule]()(context)

    def check(self, site: str, answer: bytes) -> Update:
        """Read a site's adapter; changes nothing.

        Raises:
            AdapterMismatchError, UpdateBoundError: it is not an honest site's.
        """
        return read_update(self._reader.read(answer), self.before, self._limits[site])

    def take(self, site: str, update: Update) -> dict[str, Any]:
        """Clip a site's update and add it; returns what the round's event says of it."""
        factor = self.norms.factor(site, update.norm)
        self.norms.note(site, update.norm)
        if factor < 1:
            update.scale(factor)
        self._rule.add(site, update.tensors, self._weights[site])
        return {"norm_bound": self.norms.of(site), "clipped": factor < 1}

    def result(self) -> Tensors:
        """The next global adapter."""
        return self._rule.result()
