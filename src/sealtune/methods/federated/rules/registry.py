"""Which rules there are. One is loaded when a job names it, and not before.

What settings have to know of them is in ``job.aggregation_rules``.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Callable

from sealtune.methods.federated.aggregation import Make


def _fedavg() -> Make:
    from sealtune.methods.federated.rules.fedavg import FedAvg

    return FedAvg


def _exact() -> Make:
    from sealtune.methods.federated.rules.exact import Exact

    return Exact


RULES: dict[str, Callable[[], Make]] = {"exact": _exact, "fedavg": _fedavg}
