"""Hold a manifest against what a participant has itself: files, keys, cards.

Trust domain: a participant's own machine; manifests and cards come from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sealtune.errors import ConfigError, DigestMismatchError, Problem

if TYPE_CHECKING:
    from pydantic import JsonValue

    from sealtune.job.card import Card, PadAcceleratorCard, ServerCard, SiteCard
    from sealtune.job.local import Local
    from sealtune.job.manifest import Manifest


_TELEPHONE = "their fingerprints by telephone"


class Compared(NamedTuple):
    """What was found equal, and what nobody has looked at, in words."""

    checks: list[str]
    left: list[str]


def compare(
    manifest: Manifest,
    *,
    job_file: Path | None = None,
    site: str | None = None,
    local: Path | None = None,
    cards: Sequence[Path] = (),
    participants: Sequence[str] = (),
) -> Compared:
    """All that the options ``--job``, ``--site``, ``--local``, ``--card`` and ``--participant`` ask
    for. A party's own card is looked for beside its local file.

    Raises:
        ManifestError, ConfigError: it is not what was signed; see below.
    """
    from sealtune.cli.signing import check_keys
    from sealtune.job.local_file import load_local

    check_keys(manifest, participants)
    checks = [f"key of {word.partition('=')[0]}: the one you gave" for word in participants]
    files, party = list(cards), None if local is None else load_local(local)
    if party is not None and local is not None:
        own = local.with_name(f"{party.site or party.role}.card.json")
        if own.exists() and not any(own.samefile(file) for file in cards if file.exists()):
            files.append(own)
        checks += compare_local(manifest, party, job_file)
    elif job_file is not None:
        checks += compare_files(manifest, job_file, site)
    checks += compare_cards(manifest, files)
    return Compared(checks, _left(manifest, party, files, job_file, participants))


def _left(
    manifest: Manifest,
    local: Local | None,
    cards: Sequence[Path],
    job_file: Path | None,
    participants: Sequence[str],
) -> list[str]:
    """What a party that compares should compare as well."""
    from sealtune.job.card import PadAcceleratorCard, SiteCard, read_card

    if local is None:
        return []
    left = [] if cards or job_file else ["settings: --job JOB.toml, or --card with your own"]
    given = [read_card(file) for file in cards]
    read = [card for card in given if isinstance(card, SiteCard)]
    pads = {site for card in given if isinstance(card, PadAcceleratorCard) for site in card.sites}
    if local.site in manifest.pad_accelerators and local.site not in pads:
        one = manifest.pad_accelerators[local.site]
        left.append(f"pad accelerator of {one.operator}: --card with its card, or {_TELEPHONE}")
    known = {word.partition("=")[0].partition(":")[0] for word in participants}
    known |= {card.org for card in read}
    if local.site in manifest.data:
        known.add(manifest.participant(local.site).org)
    others = [one.org for one in manifest.participants if one.org not in known]
    if others:
        words = f"--participant ORG=KEY.pub, or {_TELEPHONE}"
        left.append(f"keys of {', '.join(others)}: {words}")
    return left


def say(compared: Compared) -> None:
    """Print it."""
    import typer

    for check in compared.checks:
        typer.echo(f"ok  {check}")
    for words in compared.left:
        typer.secho(f"??  not compared: {words}", fg="yellow")


def compare_files(manifest: Manifest, job_file: Path, site: str | None) -> list[str]:
    """Against a job file with its places, whose model and data are here.

    Returns:
        what was found equal, in words.

    Raises:
        ManifestError: it is not what was signed.
    """
    from rich.console import Console

    from sealtune.job.load import load_job

    settings = load_job(job_file)
    with Console(stderr=True).status("Reading model and data, planning what runs where"):
        from sealtune.party.found import check_found, check_settings
        from sealtune.plan.resolve import work_out

        check_settings(manifest, settings.settings)
        compared = check_found(manifest, work_out(settings, manifest, site))
        return [f"{what}: as the manifest says" for what in ("settings", *compared)]


def compare_local(manifest: Manifest, local: Local, job_file: Path | None) -> list[str]:
    """Against a party's own local file, and the job file that went round.

    Returns, raises: as for ``compare_files``; ConfigError where the local file names no key that
    the manifest vouches for.
    """
    from rich.console import Console

    from sealtune.plan.roles import ROLES

    checks = []
    if job_file is not None:
        checks.append(_same_settings(manifest, local, job_file))
    role = ROLES[manifest.method].get(local.role)
    if role is None:
        problem = Problem("role", f"is '{local.role}', which no {manifest.method} job has")
        raise ConfigError("local file", [problem])
    checks += _own_keys(manifest, local)
    if role.holds is not None:
        missing = [
            key for key in ("model", "data") if key in role.needs and not getattr(local, key)
        ]
        if missing:
            raise ConfigError("local file", [Problem(key, "is missing") for key in missing])
        with Console(stderr=True).status("Reading what is here, planning what runs where"):
            role.holds(manifest, local)
        data = [f"data.{local.site}"] if local.role == "site" else []
        checks += [f"{what}: as the manifest says" for what in ("model", "slice plan", *data)]
    if local.role == "site":
        from sealtune.cli.job_remembered import compare_remembered

        checks.append(compare_remembered(manifest, local))
    return checks


def _same_settings(manifest: Manifest, local: Local, job_file: Path) -> str:
    from sealtune.job.shared import load_shared
    from sealtune.party.found import check_settings

    is_site = local.role == "site"
    job = load_shared(
        job_file,
        local.site,
        model=local.model,
        data=local.data,
        holds_model=is_site,
    )
    check_settings(manifest, job.settings)
    if job.data.labels is not None and job.data.labels != manifest.labels:
        raise DigestMismatchError("the manifest has other labels than data.labels in the job file")
    return "settings: as the manifest says"


def _own_keys(manifest: Manifest, local: Local) -> list[str]:
    """The keys of a party that the manifest names."""
    from sealtune.job.key_files import load_private
    from sealtune.launch.network import check_network_key
    from sealtune.party.signer import check_key

    checks, site = [], local.site or ""
    if local.role == "site":
        if site not in manifest.data:
            words = f"is '{site}'; the manifest has {', '.join(sorted(manifest.data))}"
            raise ConfigError("local file", [Problem("site", words)])
        if local.key is None:
            words = "is missing: without it nobody can tell whether the manifest names yours"
            raise ConfigError("local file", [Problem("key", words)])
        check_key(manifest, site, load_private(local.key))
        checks.append("key: the manifest names yours")
    if not local.accelerates and (manifest.network or local.node_key or local.tls_key):
        check_network_key(local, manifest)
        name = "node key" if local.role == "site" else "TLS certificate"
        checks.append(f"{name}: the manifest names yours")
    return checks


def compare_cards(manifest: Manifest, files: Sequence[Path]) -> list[str]:
    """Against cards that came from their parties, not from whoever built the manifest.

    Returns, raises: as for ``compare_files``; CardError: a file holds no card.
    """
    from sealtune.job.card import read_card

    cards = {file: read_card(file) for file in files}
    differing = {file: list(_differing(manifest, card)) for file, card in cards.items()}
    found = [f"{file}: {', '.join(keys)}" for file, keys in differing.items() if keys]
    found += _of_nobody(manifest, list(cards.values()))
    if found:
        raise DigestMismatchError(
            f"the manifest says other than the cards given; these differ: {'; '.join(found)}",
            hint="do not sign before you know why: ask who built the manifest",
        )
    return [f"{file}: as the manifest says" for file in files]


def _differing(manifest: Manifest, card: Card) -> Iterator[str]:
    from sealtune.job.card import (
        CoordinatorCard,
        PadAcceleratorCard,
        ServerCard,
        SiteCard,
        settings_digest,
    )

    digests = {settings_digest(manifest.settings, one) for one in (None, manifest.labels)}
    if card.settings not in digests:
        yield "settings"
    network = manifest.network
    if isinstance(card, CoordinatorCard):
        pairs = [(name, name) for name in ("sites_at", "server_at", "certificate")]
    elif isinstance(card, PadAcceleratorCard):
        yield from _of_pads(manifest, card)
        pairs = []
    elif isinstance(card, SiteCard):
        yield from _of_site(manifest, card)
        pairs = []
    else:
        pairs = [("server_certificate", "server_certificate")]
    for here, there in pairs:
        if network is None or getattr(card, here) != getattr(network, there):
            yield f"network.{there}"
    if isinstance(card, SiteCard | ServerCard):
        for program, digest in card.code.items():
            if manifest.code.get(program) != digest:
                yield f"code.{program}"
        if not _accepts(manifest, card):
            yield f"appraisal.{card.role}"


def _accepts(manifest: Manifest, card: SiteCard | ServerCard) -> bool:
    """Whether the manifest takes the simulated evidence that the card announces: its development
    key is known from nowhere else. What is accepted of hardware, ``--policy`` says.
    """
    announced = _announced(card)
    return announced == {"any"} or announced <= _development_keys(manifest.appraisal.get(card.role))


def _of_nobody(manifest: Manifest, cards: Sequence[Card]) -> Iterator[str]:
    """Roles of which the manifest takes a key that none of their cards, all given, announces."""
    from sealtune.job.card import ServerCard, SiteCard

    servers = [card for card in cards if isinstance(card, ServerCard)]
    sites = [card for card in cards if isinstance(card, SiteCard)]
    complete = {card.site for card in sites} >= set(manifest.settings.sites.names)
    for role, known, all_given in (("server", servers, bool(servers)), ("site", sites, complete)):
        taken = _development_keys(manifest.appraisal.get(role))
        if all_given and taken - {key for card in known for key in _announced(card)}:
            yield f"appraisal.{role}: the development key of no card"


def _announced(card: SiteCard | ServerCard) -> Set[str]:
    return _development_keys(card.evidence.policy if card.evidence else None)


def _development_keys(policy: Mapping[str, JsonValue] | None) -> Set[str]:
    """Whose simulated evidence a policy takes; "any": everybody's."""
    from sealtune.attest.evidence import Kind
    from sealtune.attest.policy import parse_policy

    kinds = parse_policy(policy, "policy").kinds if policy is not None else {}
    signers = kinds[Kind.SIMULATED].signers if Kind.SIMULATED in kinds else ()
    return {signers} if isinstance(signers, str) else set(signers)


def _of_pads(manifest: Manifest, card: PadAcceleratorCard) -> Iterator[str]:
    for site in card.sites:
        there = manifest.pad_accelerators.get(site)
        if there is None or (there.operator, there.key) != (card.org, card.pad_key):
            yield f"pad_accelerators.{site}"


def _of_site(manifest: Manifest, card: SiteCard) -> Iterator[str]:
    if card.site not in manifest.data:
        yield f"data.{card.site}"
        return
    participant, network = manifest.participant(card.site), manifest.network
    pads = manifest.pad_accelerators.get(card.site)
    model = (manifest.model.digest, manifest.model.tokenizer_digest)
    for what, here, there in (
        ("organisation", card.org, participant.org),
        ("key", card.key, participant.key),
        ("data", card.data, manifest.data[card.site]),
        ("node key", card.node_key, network and network.nodes[card.site]),
        ("accelerator's operator", card.accelerator_operator, pads and pads.accelerator),
        ("model", (card.model.digest, card.model.tokenizer_digest), model),
        ("labels", set(card.labels) - set(manifest.labels), set()),
    ):
        if here != there:
            yield f"{what} of {card.site}"
