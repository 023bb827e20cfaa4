"""What the commands that describe a party share: read its places, sign its card, write it.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sealtune.attest.policy import AppraisalPolicy
    from sealtune.job.card import Card, Signer
    from sealtune.job.job_file import JobFile
    from sealtune.job.local import Local
    from sealtune.job.method import Attested


def read_own(path: Path | None, role: str) -> Local | None:
    from sealtune.errors import ConfigError, Problem
    from sealtune.job.local_file import load_local

    if path is None:
        return None
    local = load_local(path)
    if local.role != role:
        problem = Problem("role", f"is '{local.role}', but this is the card of a {role}")
        raise ConfigError(str(path), [problem])
    return local


def load_job_file(
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


def signer_of(key: Path | None, org: str | None, days: int) -> Signer:
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


def accepted(file: Path | None, role: Attested, job: JobFile) -> AppraisalPolicy | None:
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


def refuse_existing(path: Path | None) -> None:
    """Raise StorageError if a file is there that people may have changed."""
    from sealtune.errors import StorageError

    if path is not None and path.exists():
        raise StorageError(
            f"{path} is already there, and may have been changed",
            hint="leave --local-out out, or choose another file",
        )


def create(path: Path, text: str) -> None:
    from sealtune.job.key_files import create_file

    create_file(path, text.encode(), 0o644)


def write_card(card: Card, signer: Signer, out: Path) -> None:
    from sealtune.job.card import seal_card
    from sealtune.job.storage import write_atomic

    write_atomic(out, seal_card(card, signer.key).encode())


def say_written(
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
