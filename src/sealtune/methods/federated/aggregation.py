"""How a round's updates become the next global adapter.

A rule is one file in ``rules``, a line in ``rules.registry`` and one in ``job.aggregation_rules``:

    class Median:
        def __init__(self, context: RoundContext) -> None: ...
        def add(self, site: str, update: Tensors, weight: int, /) -> None: ...
        def result(self) -> Tensors: ...

Updates are added as they arrive, checked and clipped. The result may not depend on their order, so
that a resumed run gives the same bytes.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sealtune.job.settings import Settings
from sealtune.methods.federated.adapter import Shapes, Tensors


@dataclass(frozen=True)
class RoundContext:
    """What a rule knows of its round when it begins.

    Attributes:
        shapes: names and shapes of the tensors.
        before: the global adapter that the sites were sent, float32; not to be changed.
        settings: the job's; the rule's own are in ``aggregation``.
        weights: site -> its signed number of training rows, of every site of the job.
        reach: no number of an update is larger than this.
        folder: for sealed files of the enclave's own.
        figures: where a rule puts what the round's event says of its result (fields of ``Round``).
    """

    shapes: Shapes
    before: Tensors
    settings: Settings
    weights: Mapping[str, int]
    reach: float
    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)


class Rule(Protocol):
    """One round of aggregation."""

    def add(self, site: str, update: Tensors, weight: int, /) -> None:
        """Take in a site's update.

        Args:
            site: who sent it.
            update: float32, what the site's adapter differs by from ``before``; a tensor is
                computed each time that it is asked for, and is the rule's own.
            weight: at most that of ``RoundContext.weights``, and at least 1.
        """

    def result(self) -> Tensors:
        """The new global adapter, float32; asked for once, after at least one ``add``."""


Make = Callable[[RoundContext], Rule]
