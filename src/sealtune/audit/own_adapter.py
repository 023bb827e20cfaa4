"""Membership inference on the very adapter that a run let out, by loss threshold.

    own_findings(subject, NAME, measure, miniature)

Members are training rows of the run. The others are rows of the same file that it left out
(``data.max_train_rows``): test rows may be of another kind, as those of the demo are, and would be
told apart by that. Shadow adapters of whole jobs take too long for LiRA.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sealtune.audit.adapter import log_odds_of
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.statistics import auc
from sealtune.audit.subject import Subject
from sealtune.data.site import Example, load_sites
from sealtune.model.batches import sorted_batches
from sealtune.tuning.folder import LoadedAdapter, load_adapter

ROWS, LEAST_ROWS = 200, 50
_AT_ONCE = 32


def own_findings(subject: Subject, attack: str, measure: str, miniature: Rate) -> list[Finding]:
    """One finding, beside what the same attack reaches on an adapter that knows rows by heart.

    None: no adapter was let out, or too few rows were left out.
    """
    members, others = rows_apart(subject)
    if subject.adapter is None or min(len(members), len(others)) < LEAST_ROWS:
        return []
    loaded = load_adapter(subject.adapter, base=subject.job.model.path)
    rate = auc(*(answers(loaded, rows) for rows in (members, others)), seed=subject.seed)
    limit = rate.low > 0.5 and subject.job.privacy.unit is None
    return [
        Finding(
            attack, "loss threshold, this run's adapter", measure, 0.5, miniature, rate, limit,
            f"{len(members)} training rows and {len(others)} that the run left out; the baseline "
            "is an adapter that learned its rows by heart",
        )
    ]  # fmt: skip


def rows_apart(subject: Subject) -> tuple[list[Example], list[Example]]:
    """Some training rows of the run, and as many of the same pooled file that no site has."""
    job = subject.job
    taken = [row for data in subject.sites.values() for row in data.train]
    if not isinstance(job.data.train, Path) or len(subject.sites) < len(job.sites.names):
        return taken, []
    data = job.data.model_copy(update={"max_train_rows": None})
    whole = load_sites(job.model_copy(update={"data": data}), subject.labels)
    numbers = {row.row for row in taken}
    left = sorted(
        (row for data in whole.values() for row in data.train if row.row not in numbers),
        key=lambda row: row.row,
    )
    draw = np.random.default_rng(subject.seed)
    count = min(len(taken), len(left), subject.scaled(ROWS, LEAST_ROWS))
    some = [[rows[i] for i in draw.permutation(len(rows))[:count]] for rows in (taken, left)]
    return some[0], some[1]


def answers(loaded: LoadedAdapter, rows: Sequence[Example]) -> NDArray[np.float64]:
    """Log-odds of each row's own class."""
    texts, found = loaded.encode(rows), np.empty(len(rows))
    with torch.no_grad():
        for chosen in sorted_batches(texts.lengths, _AT_ONCE):
            batch = texts.batch(chosen)
            assert batch.labels is not None
            found[chosen] = log_odds_of(loaded.task.scores(loaded.model, batch), batch.labels)
    return found
