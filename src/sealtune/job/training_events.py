"""Events of whoever trains, and of the sites that send it their samples.

Trust domain: every enclave; data owner (split).
"""

from __future__ import annotations

from collections.abc import Mapping

from sealtune.job.events import Busy, Count, Event, Number


class Products(Event, event="products"):
    """How masked products are computed in a site's enclave.

    Attributes:
        arithmetic: of ``W r``, see ``sealtune.offload.kernels``.
        native: instructions that the passes over memory use; ``off``: their slow reference works.
        slow: why it does.
    """

    arithmetic: str
    native: str = ""
    slow: str | None = None


class Computing(Event, event="computing"):
    """Where whoever trains computes with its model.

    Attributes:
        device: ``cpu`` or ``cuda``.
        name: of the GPU.
        precision: ``train.precision``.
        slow: why that precision takes longer here than float32.
        stands_in: whether this takes the place of an attested GPU and proves nothing.
    """

    device: str
    name: str | None = None
    precision: str = "fp32"
    slow: str | None = None
    stands_in: bool = False


class CutTexts(Event, event="warning"):
    """``count`` of a site's ``of`` texts exceed ``data.max_tokens``."""

    what: str = "truncated"
    site: str
    part: str
    count: Count
    of: Count


class Phase(Event, event="phase"):
    """A new phase of a round, of ``of`` steps; 0: it is not counted in steps."""

    round: Count
    phase: str
    of: Count = 0


class Step(Event, event="step"):
    """Step ``step`` of ``of`` is done. The loss is that of its batch."""

    round: Count
    step: Count
    of: Count
    loss: Number = None
    tokens: Count | None = None


class Evaluated(Event, event="evaluated"):
    """A site's test rows (``causal-lm``: tokens), and how many were answered rightly."""

    round: Count
    correct: Count
    total: Count
    loss: Number = None


class Worked(Event, event="worked"):
    """A site has answered a question of the server: figures of its own, for its own machine.

    Attributes:
        stage: ``evaluate``, ``train`` or ``release``.
        train_loss: mean over its steps.
    """

    round: Count
    stage: str
    train_loss: Number = None
    seconds: Busy | None = None


class Personal(Event, event="personal"):
    """A site's test rows under the adapter that it went on with alone, ``steps`` from the joint."""

    steps: Count
    correct: Count
    total: Count
    loss: Number = None


class Exported(Event, event="exported"):
    """The adapter was written and read back: largest difference, share of the same answers."""

    difference: Number = None
    agreement: Number = None


class Uploaded(Event, event="uploaded"):
    """A site has made chunk ``chunk`` of ``of``, in so many ``seconds``."""

    chunk: Count
    of: Count
    tokens: Count
    seconds: Number = None


class Repeated(Event, event="repeated"):
    """A site makes a chunk once more: it was lost on its way, or asked for anew."""

    chunk: Count
    of: Count


class Upload(Event, event="upload"):
    """The server enclave has taken in a site's chunk; ``bytes`` have come from the site so far."""

    site: str
    chunk: Count
    of: Count
    bytes: Count


class Heads(Event, event="heads"):
    """The attention heads that SPF chose: module -> group -> numbers of heads."""

    heads: Mapping[str, Mapping[str, tuple[Count, ...]]]
    query_heads: Count | None = None
    key_value_heads: Count | None = None
