"""What a client enclave trains and tests on: its own rows, rendered and numbered.

    data = load_site(job, "north", labels)
    data.train[0]      # Example(text="...", label=3, row=17)

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sealtune.data.columns import Row
from sealtune.data.readers import read_rows
from sealtune.data.template import Template, kind_of
from sealtune.errors import DataError
from sealtune.job.spec import Job

if TYPE_CHECKING:
    from sealtune.data.partition import Indices

SHOWN = 5  # faulty rows named in one message


@dataclass(frozen=True)
class Example:
    """One row as the model sees it.

    Attributes:
        text: the rendered template, never blank.
        label: place of its label in the job's labels; None for ``causal-lm``.
        row: number of the row in its file, from 1, for messages.
    """

    text: str
    label: int | None
    row: int = 0


@dataclass(frozen=True)
class SiteData:
    """All that one site has."""

    train: list[Example]
    test: list[Example]


@dataclass(frozen=True)
class _Part:
    """A file's rows, and which of them each site owns."""

    path: Path
    rows: list[Row]
    owned: dict[str, Indices]


def discover_labels(job: Job) -> tuple[str, ...]:
    """The classes of ``job`` in their order: ``data.labels``, else sorted from the training files.

    Raises:
        DataError: unreadable files, labels that are not text, or only one class to learn.
    """
    if job.model.task == "causal-lm":
        return ()
    files = job.data.train
    paths = list(files.values()) if isinstance(files, dict) else [files]
    seen: set[str] = set()
    for path in paths:
        seen.update(_labels(job, path, read_rows(path, [job.data.label])))
    if job.data.labels is None:
        check_spelling(job.data.label, seen)
    if len(seen) < 2:
        raise DataError(
            f"all training rows have the same label in column '{job.data.label}'",
            hint="a classifier needs at least two classes: check data.label and data.train",
        )
    return job.data.labels or tuple(sorted(seen))


def labels_of_site(job: Job, site: str) -> tuple[Counter[str], Counter[str]]:
    """How many rows have each label in the training file, and in the test file, of one site with
    files of its own.

    Raises:
        DataError: unreadable files, or labels that are not text.
    """
    files = (job.data.train, job.data.test)
    paths = [own[site] if isinstance(own, dict) else own for own in files]
    train, test = (Counter(_labels(job, path, read_rows(path, [job.data.label]))) for path in paths)
    return train, test


def load_site(job: Job, site: str, labels: tuple[str, ...] | None = None) -> SiteData:
    """Training and test examples of ``site``.

    Args:
        labels: classes in their order (``discover_labels``); found anew when None.

    Raises:
        DataError: lists what is wrong with which rows.
    """
    if site not in job.sites.names:
        raise DataError(f"there is no site '{site}'; the job has {', '.join(job.sites.names)}")
    return load_sites(job, labels, only=(site,))[site]


def load_sites(
    job: Job, labels: tuple[str, ...] | None = None, *, only: Sequence[str] | None = None
) -> dict[str, SiteData]:
    """Examples of several sites (default: all), reading a pooled file once."""
    if labels is None:
        labels = discover_labels(job)
    names = tuple(job.sites.names if only is None else only)
    if isinstance(job.data.train, dict) or isinstance(job.data.test, dict):
        return {name: _load_own(job, name, labels) for name in names}
    train, test = _deal_pooled(job, job.data.train, job.data.test)
    return {
        name: SiteData(_examples(job, train, name, labels), _examples(job, test, name, labels))
        for name in names
    }


def _load_own(job: Job, site: str, labels: tuple[str, ...]) -> SiteData:
    """Per-site files: no other site's file is opened, so limits of rows are split evenly."""
    train_files, test_files = job.data.train, job.data.test
    if not isinstance(train_files, dict) or not isinstance(test_files, dict):
        raise DataError("data.train and data.test must both be tables of site = file")
    train_path, test_path = train_files[site], test_files[site]
    train, test = (read_rows(path, _columns(job)) for path in (train_path, test_path))
    train_rows = _own_rows(job, site, train_path, train, "train")
    test_rows = _own_rows(job, site, test_path, test, "test")
    return SiteData(
        _examples(job, _Part(train_path, train, {site: train_rows}), site, labels),
        _examples(job, _Part(test_path, test, {site: test_rows}), site, labels),
    )


def _own_rows(
    job: Job, site: str, path: Path, rows: Sequence[Row], part: Literal["train", "test"]
) -> Indices:
    """Those of a site's file that count."""
    limit = job.data.max_train_rows if part == "train" else job.data.max_test_rows
    if limit is None:
        return np.arange(len(rows), dtype=np.int64)
    from sealtune.data.partition import apportion, subsample

    share = apportion(np.ones(len(job.sites.names)), limit)[job.sites.names.index(site)]
    classes = _labels(job, path, rows) if _needs_labels(job) else [""] * len(rows)
    return subsample(classes, max(1, int(share)), job.job.seed, part)


def _deal_pooled(job: Job, train_path: Path, test_path: Path) -> tuple[_Part, _Part]:
    from sealtune.data.partition import partition, subsample

    columns = _columns(job)
    train, test = read_rows(train_path, columns), read_rows(test_path, columns)
    train_labels = _labels(job, train_path, train)
    test_labels = _labels(job, test_path, test)
    seed, limits = job.job.seed, job.data
    used = subsample(train_labels, limits.max_train_rows, seed, "train")
    test_rows = subsample(test_labels, limits.max_test_rows, seed, "test")
    scheme = job.sites.partition
    if scheme == "file":
        raise DataError("pooled files need sites.partition = 'dirichlet' or 'label'")
    train_shares, test_shares = partition(
        [train_labels[i] for i in used],
        [test_labels[i] for i in test_rows],
        len(job.sites.names),
        scheme=scheme,
        alpha=job.sites.alpha,
        seed=seed,
    )
    names = job.sites.names
    return (
        _Part(train_path, train, dict(zip(names, (used[t] for t in train_shares), strict=True))),
        _Part(test_path, test, dict(zip(names, (test_rows[t] for t in test_shares), strict=True))),
    )


def _needs_labels(job: Job) -> bool:
    """Classes are needed to learn them, and to deal a pooled file out by them."""
    return job.model.task != "causal-lm" or job.sites.partition != "file"


def _columns(job: Job) -> list[str]:
    columns = list(Template(job.data.template).columns)
    return [*columns, job.data.label] if _needs_labels(job) else columns


def _labels(
    job: Job, path: Path, rows: Sequence[Row], places: Iterable[int] | None = None
) -> list[str]:
    """Labels as text, of rows at ``places`` (from 0; default: the whole file).

    Whole numbers are accepted, since many files number their classes.
    """
    column = job.data.label
    labels: list[str] = []
    faulty: dict[int, str] = {}
    for place, row in zip(places or range(len(rows)), rows, strict=True):
        value = row[column]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value.strip() and not _broken(value):
            labels.append(value)
        else:
            broken = isinstance(value, str) and _broken(value)
            faulty[place + 1] = "broken Unicode" if broken else kind_of(value)
    if faulty:
        raise DataError(
            f"{path}, {_rows(list(faulty))}: label '{column}' is {next(iter(faulty.values()))}",
            hint="labels must be text or whole numbers; fill them in or delete the rows",
        )
    return labels


def _broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def check_spelling(column: str, labels: Iterable[str]) -> None:
    """Raise a DataError if two classes are one word, written in two ways.

    Whoever names all classes in ``data.labels`` means them as they stand there.
    """
    seen: dict[str, str] = {}
    for label in sorted(labels):
        plain = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        if plain in seen:
            raise DataError(
                f"the labels {seen[plain]!r} and {label!r} in column '{column}' differ "
                "only in white space, upper and lower case, or the form of their characters",
                hint="write them alike; if they really are two classes, name all in data.labels",
            )
        seen[plain] = label


def _examples(job: Job, part: _Part, site: str, labels: tuple[str, ...]) -> list[Example]:
    template = Template(job.data.template)
    owned = part.owned[site]
    rows = [part.rows[i] for i in owned]
    numbers: list[int | None] = [None] * len(rows)
    if job.model.task != "causal-lm":
        numbers = list(_numbered(job, part, owned, labels))
    examples: list[Example] = []
    faults: list[tuple[int, DataError]] = []
    for index, row, label in zip(owned, rows, numbers, strict=True):
        place = int(index) + 1
        try:
            text = template.render(row, f"{part.path}, row {place}")
        except DataError as error:
            faults.append((place, error))
        else:
            examples.append(Example(text, label, place))
    if faults:
        first = faults[0][1]
        more = "" if len(faults) == 1 else f" (and {_rows([n for n, _ in faults[1:]])})"
        raise DataError(first.message + more, hint=first.hint) from first
    return examples


def _numbered(job: Job, part: _Part, owned: Indices, labels: tuple[str, ...]) -> list[int]:
    place = {label: k for k, label in enumerate(labels)}
    rows = [part.rows[i] for i in owned]
    named = _labels(job, part.path, rows, owned.tolist())
    unknown = [int(i) + 1 for i, name in zip(owned, named, strict=True) if name not in place]
    if unknown:
        shown = ", ".join(map(repr, labels[:8])) + (", ..." if len(labels) > 8 else "")
        raise DataError(
            f"{part.path}, {_rows(unknown)}: the label is not one of {shown}",
            hint="name all classes in data.labels, or put each into the training data",
        )
    return [place[name] for name in named]


def _rows(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    rest = len(numbers) - SHOWN
    noun = "row" if len(numbers) == 1 else "rows"
    return f"{noun} {shown}" + (f" and {rest} more" if rest > 0 else "")
