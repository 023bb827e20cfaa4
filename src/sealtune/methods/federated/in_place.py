"""In the place of an accelerator: everything is computed here, nothing is masked.

Trust domain: client enclave; data owner (secure aggregation).
"""

from __future__ import annotations

from torch import nn


class InPlace:
    """The model's own layers, with the weights as they are published.

    Attributes:
        seconds: of an accelerator, pads and passes; there are none.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("accelerator", "pads", "passes"), 0.0)

    def install(self, model: nn.Module) -> None:
        """Leave every layer as it is."""

    def rest(self) -> None:
        """There is nothing to make ahead."""
