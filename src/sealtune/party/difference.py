"""By whose part two jobs' results differ.

What is compared is coarse on purpose: a learning rate of another last digit, other rounds or
another seed make no other job, nor does a label more, or secure aggregation in the place of
enclaves. Data are the same where their digests are. Digests follow from the rendered texts and the
order of labels, and where rows are drawn, from the draw; where those settings differ, organisations
are compared, with and without the number of their rows: what leaves fewer to differ counts.

Trust domain: client enclave (federated); data owner (split).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sealtune.job.manifest import Manifest, canonical


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Part(_Strict):
    """A site's share in a job.

    Attributes:
        org, key: the organisation that answers for it.
        data: digest of its training rows.
        rows: how many.
    """

    org: str
    key: str
    data: str
    rows: int


class Training(_Strict):
    """What of a job decides with which others it can be compared.

    Attributes:
        model: digest of the base model.
        kind: digest of method (whoever is trusted with it), task and tuners.
        rendering: digest of what rows are made of: template, label column, labels in their order,
            and which rows are drawn.
        parts: of all sites.
        cohort: organisations whose part an aggregate holds at least.
        spare: sites without which an aggregate can be made.
        out_after: round of this site's after which somebody may have the result.
    """

    model: str
    kind: str
    rendering: str
    parts: tuple[Part, ...] = Field(min_length=1, max_length=64)
    cohort: int = Field(ge=1)
    spare: int = Field(ge=0)
    out_after: int = Field(ge=1)

    def is_like(self, other: Training) -> bool:
        """Whether the difference of the two results says something of data."""
        return (self.model, self.kind) == (other.model, other.kind)


def training_of(manifest: Manifest) -> Training:
    """What of a manifest is compared."""
    settings, sites = manifest.settings, manifest.settings.sites.names
    owners = {site: manifest.participant(site) for site in sites}
    tuners = settings.tuning.model_dump(exclude_none=True)
    kind = {
        "method": settings.job.method,
        "task": settings.model.task,
        "tuners": sorted(tuners),
    }
    most = settings.data.max_train_rows
    rendering = {
        "template": settings.data.template,
        "label": settings.data.label,
        "labels": list(manifest.labels),
        # each site's share of the rows that are drawn follows from all sites
        "drawn": most and [most, settings.job.seed, *sites],
    }
    spare = len(sites) - settings.quorum
    return Training(
        model=manifest.model.digest,
        kind=_digest(kind),
        rendering=_digest(rendering),
        parts=tuple(
            Part(
                org=owners[site].org,
                key=owners[site].key,
                data=manifest.data[site].train,
                rows=manifest.data[site].train_rows,
            )
            for site in sites
        ),
        cohort=manifest.min_cohort,
        spare=spare,
        # the server of secure aggregation, which is not trusted, sees each round's sum
        out_after=1 if spare or settings.job.rules.sums_only else manifest.rounds,
    )


def differing(one: Training, other: Training) -> list[Part]:
    """The parts that only one of two jobs has."""
    marks = [_data] if one.rendering == other.rendering else [_owner_and_rows, _owner]
    found = [
        [
            *_without(one.parts, Counter(map(mark, other.parts)), mark),
            *_without(other.parts, Counter(map(mark, one.parts)), mark),
        ]
        for mark in marks
    ]
    return min(filter(None, found), key=may_differ_by, default=[])


def _data(part: Part) -> str:
    return part.data


def _owner_and_rows(part: Part) -> tuple[str, int]:
    return part.key, part.rows


def _owner(part: Part) -> str:
    return part.key


def _without(parts: Sequence[Part], known: Counter[Any], mark: Any) -> list[Part]:
    """Those that are not among the known ones, each of which stands for one."""
    odd = []
    for part in parts:
        if known[mark(part)]:
            known[mark(part)] -= 1
        else:
            odd.append(part)
    return odd


def may_differ_by(parts: Sequence[Part]) -> int:
    """Organisations among ``parts``; one with a new name, or with a new key, is no second one."""
    return min(len({part.org for part in parts}), len({part.key for part in parts}))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()
