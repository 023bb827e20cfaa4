"""``sealtune site describe``, ``server describe``, ``coordinator describe``: each party's card.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealtune.cli.card_writing import (
    accepted,
    create,
    load_job_file,
    read_own,
    refuse_existing,
    say_written,
    signer_of,
    write_card,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sealtune.job.job_file import JobFile

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
    accelerator_operator: Annotated[
        str | None,
        typer.Option(
            "--accelerator-operator",
            metavar="ORG",
            help="Who runs the site's accelerator; needed where the job has pad accelerators.",
        ),
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

    own = read_own(local, "site")
    site = site or (own.site if own else None)
    if site is None:
        raise ConfigError("--site", [Problem("--site", "which of the job's sites is this?")])
    job = load_job_file(job_file, site, own, model=model, train=train, test=test)
    _check_operator(job, accelerator_operator)
    signer = signer_of(key, org, days)
    out = out or Path(f"{site}.card.json")
    refuse_existing(local_out)
    policies = accepted(policy, "site", job)
    node_key = node_key or (own.node_key if own else None) or out.with_name(f"{site}.node.key")
    with Console(stderr=True).status("Reading data and model"):
        from sealtune.plan.own_card import site_card

        line = made_node_key(node_key)
        card = site_card(
            job,
            site,
            signer,
            node_key=line,
            accelerator_operator=accelerator_operator,
            policy=policies,
            note=note,
        )
    write_card(card, signer, out)
    if local_out is not None:
        from sealtune.cli.local_text import site_text

        create(local_out, site_text(job, site, local_out, key=key, node_key=node_key))
    rows = card.data
    cut = f"; cut to {job.data.max_tokens} tokens: {card.cut_train:,} and {card.cut_test:,}"
    typer.echo(f"rows         {rows.train_rows:,} training, {rows.test_rows:,} test{cut}")
    if card.labels:
        typer.echo(f"labels       {_named(card.labels)}")
    say_written(job, "site", out, signer, node_key, local_out)


def _check_operator(job: JobFile, operator: str | None) -> None:
    """Whether the site says who runs its accelerator exactly where that counts."""
    from sealtune.errors import ConfigError, Problem
    from sealtune.job.key_files import is_name

    option, words = "--accelerator-operator", ""
    if job.protection.pads == "enclave":
        if operator is not None:
            words = "is asked for by no job whose enclaves multiply masks themselves: leave it out"
    elif operator is None:
        words = "is missing: whoever runs it must not run the pad accelerator, too"
    elif not is_name(operator):
        words = f"'{operator}' should be a name of lower-case letters, digits and hyphens"
    if words:
        raise ConfigError("site describe", [Problem(option, words)])


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

    own = read_own(local, "server")
    job = load_job_file(job_file, None, own, model=model)
    signer = signer_of(key, org or ("server" if key is None else None), days)
    refuse_existing(local_out)
    policies = accepted(policy, "server", job)
    tls_key = tls_key or (own.tls_key if own else None) or out.with_name("server.tls.key")
    made = certificate(tls_key, "sealtune server", ())
    card = server_card(job, signer, certificate=made, policy=policies, note=note)
    write_card(card, signer, out)
    if local_out is not None:
        from sealtune.cli.local_text import server_text

        create(local_out, server_text(job, local_out, tls_key=tls_key))
    say_written(job, "server", out, signer, tls_key, local_out)


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
    job = load_job_file(job_file, None, None)
    signer = signer_of(key, org or ("coordinator" if key is None else None), days)
    refuse_existing(local_out)
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
    write_card(card, signer, out)
    if local_out is not None:
        from sealtune.cli.local_text import coordinator_text

        addresses = {"sites_at": sites_at, "server_at": server_at}
        create(local_out, coordinator_text(job, local_out, tls_key=tls_key, **addresses))
    say_written(job, "coordinator", out, signer, tls_key, local_out)
