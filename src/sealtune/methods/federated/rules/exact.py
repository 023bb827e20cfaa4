"""``exact``: the mean of the products B A of every LoRA layer, of any ranks, weighted as in fedavg.

It is the mean of the sites' merged weights, as far as the job's rank holds it; the rest is measured
and reported. What is no factor of a product, such as the head, is averaged as in ``fedavg``.

Trust domain: server enclave.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sealtune.errors import ModelError
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.low_rank import Factors, Losses, mean_product
from sealtune.methods.federated.ranks import factor_pairs, first_directions
from sealtune.methods.federated.rules.fedavg import FedAvg
from sealtune.methods.federated.spool import Spool


class Exact:
    """Updates lie in a spool; in memory are the factors of one layer at a time.

    Args:
        context: of the round.
    """

    def __init__(self, context: RoundContext) -> None:
        self._before, self._figures = context.before, context.figures
        self._pairs = factor_pairs(context.shapes)  # A -> B
        self._factors = {*self._pairs, *self._pairs.values()}
        rest = {n: s for n, s in context.shapes.items() if n not in self._factors}
        before = {name: context.before[name] for name in rest}
        self._rest = FedAvg(replace(context, shapes=rest, before=before))
        self._spool = Spool(context.folder)
        self._weights: dict[str, int] = {}

    def add(self, site: str, update: Tensors, weight: int, /) -> None:
        """See ``Rule``; a site's rank is that of its update."""
        self._spool.put(site, {name: update[name] for name in sorted(self._factors)})
        self._rest.add(site, update, weight)
        self._weights[site] = weight

    def result(self) -> dict[str, NDArray[np.float32]]:
        """See ``Rule``.

        Raises:
            ModelError: nothing was added.
            StorageError: the updates on disk were altered.
        """
        if not self._weights:
            raise ModelError("there is nothing to average")
        after, losses = self._rest.result(), Losses()
        with self._spool as spool:
            for a, b in self._pairs.items():
                sites = [self._site(spool, site, a, b) for site in spool.sites]
                after[b], after[a], lost = mean_product(sites, self._before[a])
                losses += lost
        self._figures |= {"residual": losses.residual, "factor_error": losses.factor_error}
        return after

    def _site(self, spool: Spool, site: str, a: str, b: str) -> Factors:
        update = {name: spool.get(site, name) for name in (a, b)}
        sent = first_directions({name: self._before[name] for name in (a, b)}, len(update[a]))
        whole = {name: sent[name].astype(np.float64) + update[name] for name in (a, b)}
        return Factors(self._weights[site] / sum(self._weights.values()), whole[b], whole[a])
