"""``sealtune job build``: write a job's manifest, from what is here or from its parties' cards.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealtune.cli.job_options import Accept, Participants, say_state

if TYPE_CHECKING:
    from sealtune.attest.policy import AppraisalPolicy
    from sealtune.job.manifest import Manifest
    from sealtune.plan.from_cards import Gathered


class Release(StrEnum):
    """Who gets the adapter in the end."""

    PARTICIPANTS = "participants"
    QUORUM = "quorum"
    NEVER = "never"


def build(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    card_files: Annotated[
        list[Path] | None, typer.Argument(metavar="[CARDS]", help="With --cards: the cards.")
    ] = None,
    from_cards: Annotated[
        bool,
        typer.Option("--cards", help="Of the cards that follow, one of each party."),
    ] = False,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Manifest to write.")] = (
        Path("job.manifest.json")
    ),
    participant: Participants = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="FOLDER", help="With --cards: the base model here."),
    ] = None,
    policy: Accept = None,
    release: Annotated[
        Release, typer.Option("--release", help="Who gets the adapter in the end.")
    ] = Release.PARTICIPANTS,
    epoch: Annotated[
        int, typer.Option("--epoch", min=1, max=10_000, help="Rounds between attestations.")
    ] = 5,
    days: Annotated[
        int, typer.Option("--days", min=1, max=366, help="How long a run may be started.")
    ] = 30,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
) -> None:
    """Work out everything that a job leaves open and write its manifest, not yet signed.

    With --cards, data, keys and addresses follow from the parties' cards, and only the model has
    to be here. Otherwise all of the job's data has to be on this machine, and each site answers for
    itself with SITE.pub in this folder, unless --participant says who does.

    Examples:

        sealtune job build job.toml --cards *.card.json --model models/small

        sealtune job build job.toml -o job.manifest.json

        sealtune job build job.toml --participant north=north.pub --participant south=south.pub

        sealtune job build job.toml --participant clinics:east,west=clinics.pub --days 7
    """
    from sealtune.errors import StorageError
    from sealtune.job.proposal import wrap
    from sealtune.job.storage import write_atomic

    _check_options(card_files, from_cards, participant, model)
    if out.exists() and not force:
        raise StorageError(
            f"{out} is already there, with whatever signatures it has",
            hint="--force to replace it, or another -o",
        )
    terms = {"release": release.value, "epoch": epoch, "valid": timedelta(days=days)}
    if card_files:
        manifest = _of_cards(job_file, card_files, model, policy, terms)
    else:
        manifest = _of_files(job_file, participant or [], policy, terms)
    envelope = wrap(manifest)
    write_atomic(out, envelope.encode())
    missing = [member.org for member in manifest.participants]
    say_state(out, envelope.payload, manifest, missing, policy)


def _check_options(
    cards: Sequence[Path] | None, wanted: bool, participant: Sequence[str] | None, model: str | None
) -> None:
    from sealtune.errors import ConfigError, Problem

    problems = []
    if wanted and not cards:
        problems.append(Problem("--cards", "no card is given: write --cards *.card.json"))
    if cards and not wanted:
        words = f"one job file is enough; if {cards[0]} is a card, write --cards before it"
        problems.append(Problem("arguments", words))
    if wanted and participant:
        problems.append(Problem("--participant", "follows from the cards: leave it out"))
    if model is not None and not wanted:
        problems.append(Problem("--model", "is for --cards: the job file names the model"))
    if problems:
        raise ConfigError("job build", problems)


def _of_files(
    job_file: Path, participant: Sequence[str], policy: Path | None, terms: dict[str, Any]
) -> Manifest:
    """A manifest of a job whose data is all here."""
    from rich.console import Console

    from sealtune.cli.signing import propose, read_participants
    from sealtune.errors import ConfigError, Problem
    from sealtune.job.load import check_files, load_job

    settings = load_job(job_file)
    if settings.protection.pads == "second-accelerator":
        words = "is second-accelerator: its operator's key comes with its card; use --cards"
        raise ConfigError("job build", [Problem("protection.pads", words)])
    participants = read_participants(settings, participant)
    accepted = _policies(policy, settings.job.rules.attested)
    check_files(settings)
    with Console(stderr=True).status("Checking data and model, planning what runs where"):
        from sealtune.plan.resolve import resolve

        return propose(resolve(settings), participants, accepted, **terms)


def _of_cards(
    job_file: Path,
    card_files: Sequence[Path],
    model: str | None,
    policy: Path | None,
    terms: dict[str, Any],
) -> Manifest:
    """A manifest of a job whose data is at its sites."""
    from rich.console import Console

    from sealtune.cli.signing import propose
    from sealtune.errors import ManifestError, Problem
    from sealtune.job.card import Card, read_card
    from sealtune.job.load import absolute_model
    from sealtune.job.local import ModelPlace
    from sealtune.job.shared import load_shared

    place = None if model is None else ModelPlace(path=absolute_model(model, Path.cwd()))
    job = load_shared(job_file, model=place)
    accepted = _policies(policy, job.job.rules.attested)
    cards: dict[str, Card] = {}
    unread: list[Problem] = []
    for file in card_files:
        try:
            cards[str(file)] = read_card(file)
        except ManifestError as error:
            unread.append(Problem(str(file), error.message))
    with Console(stderr=True).status("Checking cards and model, planning what runs where"):
        from sealtune.plan.from_cards import from_cards

        made = from_cards(job, cards, unread)
        manifest = propose(
            made.resolution,
            made.participants,
            made.policies | (accepted or {}),
            network=made.network,
            pad_accelerators=made.pad_accelerators,
            **terms,
        )
    _say_cards(made, cards)
    return manifest


def _policies(file: Path | None, roles: Sequence[str]) -> dict[str, AppraisalPolicy] | None:
    from sealtune.attest.files import load_policies

    return None if file is None else load_policies(file, roles)


def _say_cards(made: Gathered, cards: dict[str, Any]) -> None:
    """What each party gives to the job, as far as it says so."""
    from sealtune.job.card import CoordinatorCard, PadAcceleratorCard, SiteCard
    from sealtune.job.printable import printable

    for card in cards.values():
        if isinstance(card, PadAcceleratorCard):
            typer.echo(f"pads         of {card.org}, for {', '.join(card.sites)}")
            continue
        if isinstance(card, CoordinatorCard):
            typer.echo(f"coordinator  {card.sites_at} for sites, {card.server_at} for the server")
            continue
        machine = card.machine
        words = f"{machine.cores} cores, {machine.memory_mib:,} MiB"
        if isinstance(card, SiteCard):
            rows, cut = card.data, card.cut_train + card.cut_test
            words = f"{rows.train_rows:,} and {rows.test_rows:,} rows, {cut:,} cut; {words}"
        name = card.site if isinstance(card, SiteCard) else "server"
        note = f"; {printable(machine.note)}" if machine.note else ""
        typer.echo(f"{name:<11}  of {card.org}: {words}{note}")
    if made.resolution.labels:
        typer.echo(f"labels       {len(made.resolution.labels):,}, of all sites")
