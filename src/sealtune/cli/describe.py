"""``sealtune site describe``, ``server describe``, ``coordinator describe``: each party's card.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sealtune.attest.policy import AppraisalPolicy
    from sealtune.job.card import Card, Signer
    from sealtune.job.job_file import JobFile
    from sealtune.job.local import Local
    from sealtune.job.method import Attested

_Job = Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file that goes round.")]
_Key = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Private key of your organisation; signs the card."),
]
_Org = Annotated[
    str | None,
    typer.Option("--org", metavar="ORG", help="Your organisation [default: the key file's name]."),
]
_Local = Annotated[
    Path | None, typer.Option("--local", metavar="FILE", help="Take places from this local file.")
]
_LocalOut = Annotated[
    Path | None,
    typer.Option("--local-out", metavar="FILE", help="Also write a local file to start from."),
]
_Model = Annotated[
    str | None, typer.Option("--model", metavar="FOLDER", help="The base model here, or a hub id.")
]
_Policy = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="What to accept as evidence of this enclave, as JSON [default: simulated, of here].",
    ),
]
_TlsKey = Annotated[
    Path | None,
    typer.Option("--tls-key", metavar="FILE", help="Its TLS key; made if it is not there."),
]
_SHOWN = 12  # labels on the screen
_Days = Annotated[int, typer.Option("--days", min=1, max=366, help="How long the card is good.")]
_Note = Annotated[str, typer.Option("--note", help="A line for whoever builds the manifest.")]


def describe_site(
    job_file: _Job,
    key: Annotated[
        Path,
        typer.Option("--key", metavar="FILE", help="Private key of your organisation."),
    ],
    site: Annotated[
        str | None, typer.Option("--site", metavar="SITE", help="Which of the job's sites.")
    ] = None,
    org: _Org = None,
    train: Annotated[
        Path | None, typer.Option("--train", metavar="FILE", help="The site's training file.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", metavar="FILE", help="The site's test file.")
    ] = None,
    model: _Model = None,
    local: _Local = None,
    policy: _Policy = None,
    node_key: Annotated[
        Path | None,
        typer.Option("--node-key", metavar="FILE", help="Its node key; made if it is not there."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Card to write [SITE.card.json]."),
    ] = None,
    local_out: _LocalOut = None,
    days: _Days = 30,
    note: _Note = "",
) -> None:
    """Make the card of a site, on its own machine: what others have to know of its data and keys.

    The card names digests and numbers of rows, labels, how many texts are cut, the model's digest,
    code and evidence, memory and cores; no path, no text and no private key. Where the job file
    names all classes (`data.labels`), the card names none.

    Examples:

        sealtune site describe job.toml --site north --key north.key --train train.jsonl
        --test test.jsonl --model models/small --local-out north.toml

        sealtune site describe job.toml --key north.key --local north.toml
    """
    from rich.console import Console

    from sealtune.errors import ConfigError, Problem
    from sealtune.job.network_keys import made_node_key

    own = _read_local(local, "site")
    site = site or (own.site if own else None)
    if site is None:
        raise ConfigError("--site", [Problem("--site", "which of the job's sites is this?")])
    job = _load(job_file, site, own, model=model, train=train, test=test)
    signer = _signer(key, org, days)
    out = out or Path(f"{site}.card.json")
    _free(local_out)
    accepted = _accepted(policy, "site", job)
    node_key = node_key or (own.node_key if own else None) or out.with_name(f"{site}.node.key")
    with Console(stderr=True).status("Reading data and model"):
        from sealtune.plan.own_card import site_card

        line = made_node_key(node_key)
        card = site_card(job, site, signer, node_key=line, policy=accepted, note=note)
    _write(card, signer, out)
    if local_out is not None:
        from sealtune.cli.local_text import site_text

        _create(local_out, site_text(job, site, local_out, key=key, node_key=node_key))
    rows = card.data
    cut = f"; cut to {job.data.max_tokens} tokens: {card.cut_train:,} and {card.cut_test:,}"
    typer.echo(f"rows         {rows.train_rows:,} training, {rows.test_rows:,} test{cut}")
    if card.labels:
        typer.echo(f"labels       {_named(card.labels)}")
    _say(job, "site", out, signer, node_key, local_out)


def _named(labels: Sequence[str]) -> str:
    """What others will read on the card."""
    from sealtune.job.printable import printable

    shown = ", ".join(printable(label, 40) for label in labels[:_SHOWN])
    more = ", …" if len(labels) > _SHOWN else ""
    return f"{len(labels):,}, named in the card: {shown}{more}"


def describe_server(
    job_file: _Job,
    key: _Key = None,
    org: _Org = None,
    policy: _Policy = None,
    model: _Model = None,
    local: _Local = None,
    tls_key: _TlsKey = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Card to write.")] = Path(
        "server.card.json"
    ),
    local_out: _LocalOut = None,
    days: _Days = 30,
    note: _Note = "",
) -> None:
    """Make the card of the server: its code, its evidence, and the certificate of its link.

    Whoever runs the server need not be a participant: without --key, the card is signed by a key of
    its own, which is forgotten. Participants compare what counts in the manifest.

    Examples:

        sealtune server describe job.toml --local-out server.toml

        sealtune server describe job.toml --key hub.key --policy snp-server.json
    """
    from sealtune.job.network_keys import certificate
    from sealtune.plan.own_program import server_card

    own = _read_local(local, "server")
    job = _load(job_file, None, own, model=model)
    signer = _signer(key, org or ("server" if key is None else None), days)
    _free(local_out)
    accepted = _accepted(policy, "server", job)
    tls_key = tls_key or (own.tls_key if own else None) or out.with_name("server.tls.key")
    made = certificate(tls_key, "sealtune server", ())
    card = server_card(job, signer, certificate=made, policy=accepted, note=note)
    _write(card, signer, out)
    if local_out is not None:
        from sealtune.cli.local_text import server_text

        _create(local_out, server_text(job, local_out, tls_key=tls_key))
    _say(job, "server", out, signer, tls_key, local_out)


def describe_coordinator(
    job_file: _Job,
    sites_at: Annotated[
        str, typer.Option("--sites-at", metavar="HOST:PORT", help="Where sites reach it.")
    ],
    server_at: Annotated[
        str, typer.Option("--server-at", metavar="HOST:PORT", help="Where the server reaches it.")
    ],
    key: _Key = None,
    org: _Org = None,
    tls_key: _TlsKey = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Card to write.")] = Path(
        "coordinator.card.json"
    ),
    local_out: _LocalOut = None,
    days: _Days = 30,
) -> None:
    """Make the card of the coordinator: where it is reached, and its TLS certificate.

    It carries sealed bytes between sites and server, is trusted with nothing, and is the only party
    that listens to others. HOST is a DNS name or an IP address.

    Examples:

        sealtune coordinator describe job.toml --sites-at hub.example.org:9092
        --server-at hub.example.org:9093 --local-out coordinator.toml
    """
    from pydantic import ValidationError

    from sealtune.errors import ConfigError, Problem
    from sealtune.job.card import CoordinatorCard
    from sealtune.job.network import host_and_port
    from sealtune.job.network_keys import certificate
    from sealtune.job.sections import faults

    hosts, problems = [], []
    for option, address in (("--sites-at", sites_at), ("--server-at", server_at)):
        try:
            hosts.append(host_and_port(address)[0])
        except ValueError as error:
            problems.append(Problem(option, str(error)))
    if problems:
        raise ConfigError("coordinator describe", problems)
    job = _load(job_file, None, None)
    signer = _signer(key, org or ("coordinator" if key is None else None), days)
    _free(local_out)
    tls_key = tls_key or out.with_name("coordinator.tls.key")
    try:
        card = CoordinatorCard(
            role="coordinator",
            sites_at=sites_at,
            server_at=server_at,
            certificate=certificate(tls_key, "sealtune coordinator", hosts),
            **signer.head(job.settings, job.data.labels),
        )
    except ValidationError as error:
        raise ConfigError("coordinator describe", faults(error, "card")) from error
    _write(card, signer, out)
    if local_out is not None:
        from sealtune.cli.local_text import coordinator_text

        addresses = {"sites_at": sites_at, "server_at": server_at}
        _create(local_out, coordinator_text(job, local_out, tls_key=tls_key, **addresses))
    _say(job, "coordinator", out, signer, tls_key, local_out)


def _read_local(path: Path | None, role: str) -> Local | None:
    from sealtune.errors import ConfigError, Problem
    from sealtune.job.local_file import load_local

    if path is None:
        return None
    local = load_local(path)
    if local.role != role:
        problem = Problem("role", f"is '{local.role}', but this is the card of a {role}")
        raise ConfigError(str(path), [problem])
    return local


def _load(
    job_file: Path,
    site: str | None,
    local: Local | None,
    *,
    model: str | None = None,
    train: Path | None = None,
    test: Path | None = None,
) -> JobFile:
    """The job file with the places given: options before the local file."""
    from sealtune.errors import ConfigError, Problem
    from sealtune.job.load import absolute, absolute_model
    from sealtune.job.local import DataPlace, ModelPlace
    from sealtune.job.shared import load_shared

    base = Path.cwd()
    model_place, data = (local.model, local.data) if local else (None, None)
    if model is not None:
        model_place = ModelPlace(path=absolute_model(model, base))
    if (train is None) != (test is None):
        missing = "--train" if train is None else "--test"
        raise ConfigError("options", [Problem(missing, "is missing: give both files, or neither")])
    if train is not None and test is not None:
        data = DataPlace(train=absolute(train, base), test=absolute(test, base))
    here = site is not None
    return load_shared(job_file, site, model=model_place, data=data, holds_model=here)


def _signer(key: Path | None, org: str | None, days: int) -> Signer:
    """Who signs: the organisation, or a key that is made for this card and forgotten."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from sealtune.errors import ConfigError, Problem
    from sealtune.job.card import Signer
    from sealtune.job.key_files import is_name, load_private

    name = org if org is not None else key.stem if key is not None else ""
    if not is_name(name):
        words = f"'{name}' should be a name of lower-case letters, digits and hyphens"
        raise ConfigError("--org", [Problem("--org", words)])
    return Signer(name, Ed25519PrivateKey.generate() if key is None else load_private(key), days)


def _accepted(file: Path | None, role: Attested, job: JobFile) -> AppraisalPolicy | None:
    from sealtune.attest.files import load_policies
    from sealtune.errors import ConfigError, Problem

    roles = job.job.rules.attested
    if role in roles:
        _say_lacking(job.protection.evidence(role))
    if file is None:
        return None
    if role not in roles:
        words = f"the {role} of such a job shows no evidence: leave it out"
        raise ConfigError("--policy", [Problem(str(file), words)])
    return load_policies(file, roles)[role]


def _say_lacking(kind: str) -> None:
    """What this machine lacks to show such evidence; an enclave may be a machine of its own."""
    from sealtune.attest.evidence import Kind
    from sealtune.attest.platforms import platform

    for words in platform(Kind(kind)).missing():
        typer.secho(f"this machine cannot show {kind} evidence: {words}", fg="yellow", err=True)


def _free(path: Path | None) -> None:
    """Raise StorageError if a file is there that people may have changed."""
    from sealtune.errors import StorageError

    if path is not None and path.exists():
        raise StorageError(
            f"{path} is already there, and may have been changed",
            hint="leave --local-out out, or choose another file",
        )


def _create(path: Path, text: str) -> None:
    from sealtune.job.key_files import create_file

    create_file(path, text.encode(), 0o644)


def _write(card: Card, signer: Signer, out: Path) -> None:
    from sealtune.job.card import seal_card
    from sealtune.job.storage import write_atomic

    write_atomic(out, seal_card(card, signer.key).encode())


def _say(
    job: JobFile, role: str, out: Path, signer: Signer, secret: Path, local_out: Path | None
) -> None:
    """What was written, and what comes next."""
    from sealtune.job.key_files import spaced
    from sealtune.job.keys import fingerprint

    typer.echo(f"card         {out}, for the job '{job.job.name}'")
    typer.echo(f"signed by    {signer.org}, key {spaced(fingerprint(signer.key.public_key()))}")
    typer.echo(f"private key  {secret}  (stays on this machine)")
    if local_out is not None:
        typer.echo(f"local file   {local_out}  (for `sealtune {role} --local {local_out}`)")
    typer.echo(f"→ send {out} to whoever runs: sealtune job build JOB.toml --cards *.card.json")
