"""Which tuned tensors stay at home: those of the parts that ``aggregation.personal`` names.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sealtune.errors import ConfigError, Problem
from sealtune.plan.trace import block_index
from sealtune.tuning.head import is_head

_KEY = "aggregation.personal"
_BASE = "base_model.model."  # peft's prefix


def personal_tensors(
    trainable: Iterable[str], parts: Sequence[str], blocks_name: str
) -> tuple[str, ...]:
    """The tensors of ``parts``, sorted.

    Args:
        trainable: names of all tuned tensors.
        parts: ``head``, or ``layers.<number of a block>``, whatever the model calls its blocks.
        blocks_name: what it calls them.

    Raises:
        ConfigError: nothing tuned is in a part, or everything tuned is in one.
    """
    names = tuple(trainable)
    by_name = {name: _part(name.removeprefix(_BASE), blocks_name) for name in names}
    tuned = sorted({part for part in by_name.values() if part}, key=lambda p: (len(p), p))
    problems = [
        Problem(_KEY, f"names '{part}', in which nothing is tuned; parts are {_few(tuned)}")
        for part in parts
        if part not in tuned
    ]
    personal = tuple(sorted(name for name in names if by_name[name] in parts))
    if personal and len(personal) == len(names):
        problems.append(Problem(_KEY, "names all that is tuned, so nothing is left to share"))
    if problems:
        raise ConfigError("the job", problems)
    return personal


def _part(name: str, blocks_name: str) -> str:
    """The part that a tensor is of; empty: of none that can be named."""
    index = block_index(name, blocks_name)
    return f"layers.{index}" if index >= 0 else "head" if is_head(name) else ""


def _few(parts: Sequence[str]) -> str:
    shown = parts if len(parts) <= 4 else [parts[0], parts[1], "…", parts[-1]]
    return ", ".join(shown) or "none"
