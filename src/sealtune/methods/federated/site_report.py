"""What a site reports about its work, checked.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from sealtune.errors import FrameError
from sealtune.frames import is_count
from sealtune.job.manifest import DataIdentity

StageKind = Literal["evaluate", "train", "release"]  # what all sites are asked to do
_SECONDS = ("enclave", "accelerator", "pads", "passes")
_LARGEST = 1e12  # beyond any loss or number of seconds


def read_report(
    kind: StageKind,
    number: int,
    meta: Mapping[str, Any],
    signed: DataIdentity,
    questions_per_row: int,
) -> dict[str, Any]:
    """Check what a site reports, and drop what is not asked for.

    What was signed is not asked for: how many training rows a site has is ``signed.train_rows``.

    Args:
        kind: what the site was asked to do.
        number: of the round.
        meta: of the answer.
        signed: the site's data in the manifest.
        questions_per_row: 1, or for ``causal-lm`` how many tokens a text has at most.

    Raises:
        FrameError: a number is missing, of the wrong kind, absurd, or not what was signed; or the
            site does not state that its frozen weights stayed as they were.
    """
    if _count(meta, "round") != number:
        raise FrameError(f"the site answered for another round than {number}")
    fields: dict[str, Any] = {"examples": signed.train_rows}
    if kind == "train":
        fields["train_loss"] = _number(meta, "train_loss")
        if meta.get("frozen_unchanged") is not True:
            raise FrameError("the site does not state that its frozen weights are unchanged")
        fields["frozen_unchanged"] = True
    else:
        correct, total = _count(meta, "correct"), _count(meta, "total")
        most = signed.test_rows * questions_per_row
        if total > most or (questions_per_row == 1 and total < most):
            raise FrameError(f"the site reports {total} questions, its signed rows give {most}")
        if correct > total:
            raise FrameError("the site reports more right answers than questions")
        fields |= {"correct": correct, "total": total, "loss": _number(meta, "loss")}
    seconds = meta.get("seconds")
    if not isinstance(seconds, dict):
        raise FrameError("the site does not report its seconds")
    fields["seconds"] = {key: round(_number(seconds, key), 3) for key in _SECONDS}
    return fields


def _count(meta: Mapping[str, Any], key: str) -> int:
    value = meta.get(key)
    if not is_count(value):
        raise FrameError(f"the site's '{key}' is not a count")
    return value


def _number(meta: Mapping[str, Any], key: str) -> float:
    value = meta.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # JSON has integers that no float holds
        number = float(value) if abs(value) < _LARGEST else math.inf
        if math.isfinite(number):
            return number
    raise FrameError(f"the site's '{key}' is not a finite number")
