"""``sealtune validate``: check a job file and the data that it names, before anything is started.

Trust domain: data owner's machine; reads the data, prints counts only.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sealtune.advise.estimate import Option
    from sealtune.data.site import SiteData
    from sealtune.job.spec import Job
    from sealtune.model.files import ModelFiles


def validate(
    path: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file to check.")],
    settings_only: Annotated[
        bool, typer.Option("--settings-only", help="Do not look at data and model files.")
    ] = False,
) -> None:
    """Check a job file and its data; show what each site would train and test on.

    Example: `sealtune validate job.toml`
    """
    from sealtune.job.load import check_files, load_job

    job = load_job(path)
    if settings_only:
        typer.echo(f"{path}: the settings are fine")
        return
    check_files(job)
    from rich.console import Console

    with Console(stderr=True).status("Reading data and model"):
        from sealtune.advise.assess import assess
        from sealtune.plan.resolve import check

        checked = check(job)
        own = assess(checked.job, checked.labels, job.equipment, probing=False).own
    _show(job, checked.labels, checked.sites)
    _show_steps(job, checked.sites, own)
    _show_privacy(job, checked.sites)
    _show_model(checked.files)
    show_state(job)
    typer.echo(f"{path}: settings, data and model are fine")


def show_state(job: Job) -> None:
    """Say so where what an enclave seals ends with its process."""
    from sealtune.attest.evidence import Kind
    from sealtune.attest.platforms import platform
    from sealtune.party.trust import SERVER

    kind = Kind(job.protection.evidence(SERVER))
    if not platform(kind).keeps_state:
        typer.echo(
            f"note: a {kind.upper()} guest has no sealing key: what the server enclave seals ends "
            "with its process, so --resume and `predict --run` will be refused"
        )
    if job.aggregation.personal:
        kind = Kind(job.protection.evidence("site"))
        if not platform(kind).keeps_state:
            typer.echo(
                f"note: a {kind.upper()} guest has no sealing key: personal parts are gone with a "
                "site's enclave, so --resume will be refused"
            )


def _show_steps(job: Job, sites: dict[str, SiteData], own: Option | None) -> None:
    """Steps and time, since a run of too few looks broken and one of too many never ends."""
    from sealtune.job.units import duration

    rows = {name: len(data.train) for name, data in sites.items()}
    rounds = job.job.rounds
    if job.job.rules.server_trains:
        steps = job.train.steps(sum(rows.values()))
        shown = f"{steps} in the server enclave"
    else:
        steps = max(job.train.steps(count) for count in rows.values())
        shown = ", ".join(f"{name} {job.train.steps(count)}" for name, count in rows.items())
    size, alone = job.train.batch_size, job.aggregation.personal_steps
    more = f", and {alone} more of each site alone" if alone else ""
    typer.echo(
        f"steps a round, {size} rows each: {shown}; {rounds} rounds: {rounds * steps} steps{more}"
    )
    if own is not None:
        typer.echo(
            f"estimated time: {duration(own.hours * 3600)}, with a machine for each party: what "
            "[equipment] states, else 2 reference cores; `sealtune advise` measures this machine"
        )


def _show_privacy(job: Job, sites: dict[str, SiteData]) -> None:
    """What the rounds cost, and how many the budget pays for."""
    from sealtune.accounting.terms import make_terms

    terms = make_terms(job.settings, {name: len(data.train) for name, data in sites.items()})
    if terms is not None:
        rounds, of = terms.rounds(job.privacy.epsilon or 0.0), job.job.rounds
        noise, delta = terms.noise_multiplier, job.privacy.delta
        typer.echo(
            f"privacy of each {job.privacy.unit}: epsilon {terms.spent(rounds):g} after {rounds} "
            f"of {of} rounds, delta {delta:g}, noise multiplier {noise:g}"
        )


def _show_model(files: ModelFiles) -> None:
    from sealtune.job.printable import printable

    where = f"{files.folder}{f', commit {files.revision}' if files.revision else ''}"
    typer.echo(f"model: {where}, digest {files.digest[:16]}…, read from")
    for name in files.names:
        typer.echo(f"  {files.digests[name][:16]}…  {name}")
    if files.surplus:
        surplus = ", ".join(printable(name) for name in files.surplus)
        typer.echo(f"not read, though it lies there: {surplus}")


def _show(job: Job, labels: tuple[str, ...], sites: dict[str, SiteData]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sealtune.job.printable import printable

    table = Table(title=f"job '{job.job.name}': {job.job.rounds} rounds, {len(sites)} sites")
    table.add_column("site")
    table.add_column("train rows", justify="right")
    table.add_column("test rows", justify="right")
    if labels:
        table.add_column("classes", justify="right")
        table.add_column("most frequent classes in training", overflow="fold")
    for name, data in sites.items():
        row = [name, f"{len(data.train):,}", f"{len(data.test):,}"]
        if labels:
            counts = Counter(labels[e.label] for e in data.train if e.label is not None)
            most = counts.most_common(4)
            common = (f"{printable(label)} {n / len(data.train):.0%}" for label, n in most)
            row += [f"{len(counts)} of {len(labels)}", escape(", ".join(common))]
        table.add_row(*row)
    Console().print(table)
    if labels:
        tests = Counter(e.label for data in sites.values() for e in data.test)
        share = max(tests.values()) / sum(tests.values())
        typer.echo(f"always guessing the most frequent class: {share:.1%} of all test rows")
