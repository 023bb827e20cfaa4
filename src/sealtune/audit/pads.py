"""Masks used twice, and two accelerators that tell each other what they know.

What is compared are codes: an accelerator that sees c = round(f x) + r for two rows under one mask
r has their difference, whatever r is.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sealtune.audit import statistics
from sealtune.audit.attack import Attack, Report
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.miniature import Miniature
from sealtune.audit.subject import Subject
from sealtune.audit.watched import Seen, Watched, watched
from sealtune.model.texts import Batch
from sealtune.offload.pad_wire import Streams

_KEPT = bytes(range(32))  # the key of an enclave that keeps it where it can be put back
_TEXTS, _TOKENS, _BLOCKS = 16, 32, 2
_MEASURE = "cosine of a row of activations and what is made of its code, mean"
_NO_PADS = "no accelerator takes part: nothing is masked"
_BARE = "the run has no masks: protect = insecure-none"
_GUESS = "by symmetry, a guess has cosine 0 in the mean"


@dataclass(frozen=True)
class _Scene:
    """A part of the run, and two batches of the same texts in another order."""

    subject: Subject
    small: Miniature
    batches: tuple[Batch, Batch]

    def seen(self, *batches: Batch, masked: bool = True, kept: bytes | None = None) -> list[Seen]:
        """Codes of the first masked group, one of each batch, in one process."""
        with watched(self.small, self.subject.job_id, masked=masked, kept_secret=kept) as one:
            answer(one, batches)
            first = self.first_group
            return [call for call in one.watcher.seen if call.group == first]

    @property
    def first_group(self) -> str:
        """Of the run's own plan; without masks there may be others before it."""
        return self.small.plan.groups[0].name

    def rate(self, found: Tensor, truth: Tensor) -> Rate:
        """Mean cosine of rows, of those whose truth is not zero."""
        there = truth.double().norm(dim=1) > 0
        pair = found[there].double(), truth[there].double()
        cosines = torch.nn.functional.cosine_similarity(*pair, dim=1)
        return statistics.mean(cosines.numpy(), seed=self.subject.seed)


def answer(one: Watched, batches: Sequence[Batch]) -> None:
    """A pass over each batch."""
    one.model.eval()
    with torch.no_grad():
        for batch in batches:
            one.model(**batch.inputs())


def _scene(subject: Subject) -> _Scene:
    count = 2 * subject.scaled(_TEXTS // 2, 4)
    small = subject.miniature(blocks=_BLOCKS, train=count, test=4, tokens=_TOKENS)
    rows = [row for data in small.sites.values() for row in data.train][:count]
    forth = small.texts(rows).batch(range(len(rows)))
    back = small.texts(rows).batch(range(len(rows))[::-1])
    return _Scene(subject, small, (forth, back))


# ---- a mask for two calls ------------------------------------------------------------------------


def _reuse(subject: Subject, report: Report) -> list[Finding]:
    report(0.0, "cutting the model")
    scene = _scene(subject)
    forth, back = scene.batches
    report(0.2, "without masks, to know what is true")
    bare = scene.seen(forth, back, masked=False)
    truth = _difference(*bare)
    report(0.4, "two starts of an enclave that keeps its key")
    kept = [scene.seen(batch, kept=_KEPT)[0] for batch in scene.batches]
    baseline = scene.rate(_difference(*kept), truth)
    report(0.6, "one start of the run's own")
    own = scene.seen(forth, back)
    report(0.8, "another start of it")
    again = scene.seen(back)
    return [
        Finding(
            "pad-reuse",
            variant,
            "cosine of two rows' difference and the difference of their codes, mean",
            0.0,
            baseline,
            scene.rate(_difference(*pair), truth),
            note=f"unprotected: the mask's key outlives the enclave; {_GUESS}",
        )
        for variant, pair in (
            ("two calls of one process", own),
            ("before and after a restart", (own[0], again[0])),
        )
    ]


def _difference(first: Seen, second: Seen) -> Tensor:
    """Mod 2^32, so that a mask in both is gone."""
    return first.codes - second.codes


def _has_masks(subject: Subject) -> str:
    if not subject.job.accelerated:
        return _NO_PADS
    return _BARE if subject.job.protection.protect == "insecure-none" else ""


PAD_REUSE = Attack(
    "pad-reuse",
    "Subtracts codes of two calls that might lie under the same mask.",
    "whoever runs the accelerator, and can stop and start the enclave",
    _reuse,
    _has_masks,
)


# ---- two accelerators that collude ---------------------------------------------------------------


def _collude(subject: Subject, report: Report) -> list[Finding]:
    report(0.0, "cutting the model")
    scene = _scene(subject)
    report(0.3, "without masks, to know what is true")
    (truth,) = scene.seen(scene.batches[0], masked=False)
    baseline = scene.rate(truth.codes, truth.codes)
    report(0.6, "with the pads of a pad accelerator")
    with watched(scene.small, subject.job_id) as one:
        answer(one, scene.batches[:1])
        (streams,), calls = one.streams, len(one.watcher.seen)
        call = next(seen for seen in one.watcher.seen if seen.group == scene.first_group)
    together = unmask(call.codes, streams, calls)
    return [
        Finding(
            "collusion",
            variant,
            _MEASURE,
            0.0,
            baseline,
            scene.rate(codes, truth.codes),
            limit=variant == "both together",
            note=note,
        )
        for variant, codes, note in (
            ("the accelerator alone", call.codes, _GUESS),
            ("both together", together, "which is why their operators must be independent"),
        )
    ]


def unmask(codes: Tensor, streams: Streams, indices: int) -> Tensor:
    """Codes without the mask: of all that the pad accelerator knows, the one that leaves least.

    Args:
        codes: int32 [T, K].
        streams: of the seed.
        indices: how many pads there were at most.
    """
    tried = (codes - streams.mask.mask(index, *codes.shape) for index in range(indices))
    return min(tried, key=lambda left: float(left.double().norm()))


def _has_two(subject: Subject) -> str:
    if why_not := _has_masks(subject):
        return why_not
    if subject.job.protection.pads != "second-accelerator":
        return "the enclave makes its pads itself: there is no pad accelerator to collude with"
    return ""


COLLUSION = Attack(
    "collusion",
    "Takes the masks off with the seed that the pad accelerator was given.",
    "accelerator and pad accelerator of one operator, or of two who share what they know",
    _collude,
    _has_two,
)
