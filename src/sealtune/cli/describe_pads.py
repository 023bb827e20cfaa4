"""``sealtune pad-accelerator describe``: the card of a pad accelerator.

Trust domain: operator of a pad accelerator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sealtune.cli.card_writing import (
    create,
    load_job_file,
    refuse_existing,
    say_written,
    signer_of,
    write_card,
)


def describe_pad_accelerator(
    job_file: Annotated[
        Path, typer.Argument(metavar="JOB.toml", help="The job file that goes round.")
    ],
    sites: Annotated[
        list[str], typer.Option("--site", metavar="SITE", help="A site to serve; repeat it.")
    ],
    key: Annotated[
        Path,
        typer.Option(
            "--key", metavar="FILE", help="Private key of your organisation; signs the card."
        ),
    ],
    org: Annotated[
        str | None,
        typer.Option(
            "--org", metavar="ORG", help="Your organisation [default: the key file's name]."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="FOLDER", help="The base model here.")
    ] = None,
    pad_key: Annotated[
        Path | None,
        typer.Option("--pad-key", metavar="FILE", help="Its HPKE key; made if it is not there."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Card to write.")] = Path(
        "pad-accelerator.card.json"
    ),
    local_out: Annotated[
        Path | None,
        typer.Option("--local-out", metavar="FILE", help="Also write a local file to start from."),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=366, help="How long the card is good.")
    ] = 30,
) -> None:
    """Make the card of a pad accelerator: whom it serves, and the key that seeds are sealed to.

    It learns nothing by itself. Together with whoever runs a site's accelerator, or sees what the
    site's enclave sends there, it would learn everything: so its operator must be another.

    Examples:

        sealtune pad-accelerator describe job.toml --site north --site south --key cloud.key
        --model models/small --local-out pads.toml
    """
    from pydantic import ValidationError

    from sealtune.channel.pad_key import made_pad_key
    from sealtune.errors import ConfigError, Problem
    from sealtune.job.card import PadAcceleratorCard
    from sealtune.job.key_files import spaced
    from sealtune.job.pad_operators import key_digest
    from sealtune.job.sections import faults

    job = load_job_file(job_file, None, None, model=model)
    if job.protection.pads == "enclave":
        words = 'is "enclave": such a job has no pad accelerators'
        raise ConfigError(str(job_file), [Problem("protection.pads", words)])
    if unknown := sorted(set(sites) - set(job.sites.names)):
        words = f"there is no site {', '.join(unknown)}; the job has {', '.join(job.sites.names)}"
        raise ConfigError("pad-accelerator describe", [Problem("--site", words)])
    signer = signer_of(key, org, days)
    refuse_existing(local_out)
    pad_key = pad_key or out.with_name("pads.hpke.key")
    public = made_pad_key(pad_key).public_bytes.hex()
    try:
        card = PadAcceleratorCard(
            role="pad-accelerator",
            sites=tuple(dict.fromkeys(sites)),
            pad_key=public,
            **signer.head(job.settings, job.data.labels),
        )
    except ValidationError as error:
        raise ConfigError("pad-accelerator describe", faults(error, "card")) from error
    write_card(card, signer, out)
    if local_out is not None:
        from sealtune.cli.local_text import pads_text

        create(local_out, pads_text(job, local_out, pad_key=pad_key))
    typer.echo(f"seeds' key   {spaced(key_digest(public))}")
    say_written(job, "pad-accelerator", out, signer, pad_key, local_out)
