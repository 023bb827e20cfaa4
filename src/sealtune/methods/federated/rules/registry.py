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


def _median() -> Make:
    from sealtune.methods.federated.rules.coordinatewise import Median

    return Median


def _trimmed_mean() -> Make:
    from sealtune.methods.federated.rules.coordinatewise import TrimmedMean

    return TrimmedMean


def _multi_krum() -> Make:
    from sealtune.methods.federated.rules.multi_krum import MultiKrum

    return MultiKrum


RULES: dict[str, Callable[[], Make]] = {
    "exact": _exact,
    "fedavg": _fedavg,
    "median": _median,
    "multi-krum": _multi_krum,
    "trimmed-mean": _trimmed_mean,
}
