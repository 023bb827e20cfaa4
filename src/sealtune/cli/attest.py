"""``sealtune attest``: appraise evidence in a file, make evidence, write an appraisal policy.

Evidence that is refused is shown all the same, as far as it can be read, and apart: what signatures
prove, and what it merely says of itself.

Trust domain: whoever appraises an enclave; ``collect`` runs inside one.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sealtune.attest.evidence import NONCE_SIZE, REPORT_DATA_SIZE, Evidence, Kind
from sealtune.cli.attest_verdict import as_object, judge, show, strict_policy
from sealtune.errors import AttestationError

attest = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Appraise evidence of what runs in an enclave, or make some.",
)

# Evidence made by a command answers a command, and nothing in a handshake of a run.
COMMAND_DOMAIN = "sealtune/attest/command/v1"
# a participant's signature is made and checked in a handshake only: it shows no machine
_MACHINES = tuple(kind for kind in Kind if kind not in (Kind.PARTICIPANT, Kind.UNATTESTED))


_MARKS = {True: ("  found    ", "green"), False: ("  MISSING  ", "red"), None: ("  ?        ", "")}


def _machine(word: str) -> Kind:
    if word not in _MACHINES:
        raise typer.BadParameter(f"{word!r} is not one of {', '.join(_MACHINES)}")
    return Kind(word)


_KindOption = Annotated[
    Kind,
    typer.Option(
        "--kind",
        parser=_machine,
        metavar=f"[{'|'.join(_MACHINES)}]",
        help="What made the evidence.",
    ),
]
_NonceOption = typer.Option("--nonce", metavar="HEX", help="The challenge: 32 bytes, 64 digits.")


def challenge_data(kind: Kind, nonce: bytes) -> bytes:
    """What evidence made by ``attest collect`` over ``nonce`` is bound to.

    Returns:
        64 bytes of report data; for GPUs a nonce of 32 bytes.
    """
    from sealtune.attest.evidence import gpu_nonce, report_data

    if kind is Kind.NVIDIA_GPU:
        return gpu_nonce("command", nonce, COMMAND_DOMAIN.encode(), b"")
    return report_data(COMMAND_DOMAIN, "command", nonce=nonce, job_id=b"", public_key=b"")


# ---- verify -------------------------------------------------------------------------------------


@attest.command("verify")
def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The evidence.")
    ],
    kind: _KindOption,
    policy_file: Annotated[
        Path | None,
        typer.Option(
            "--policy", metavar="FILE", exists=True, dir_okay=False, help="What is accepted."
        ),
    ] = None,
    collateral: Annotated[
        list[Path] | None,
        typer.Option(
            "--collateral",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Vendor data, once for each file. SGX, TDX: Intel's JSON. SEV-SNP: certificates. "
            "GPU: manifests of driver and VBIOS.",
        ),
    ] = None,
    at: Annotated[
        str,
        typer.Option("--at", metavar="TIME", help="Appraise for this time, UTC. Default: now."),
    ] = "",
    nonce: Annotated[str, _NonceOption] = "",
    report_data: Annotated[
        str,
        typer.Option("--report-data", metavar="HEX", help="What the evidence must be over."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Appraise evidence: show its claims, and whether the policy accepts them.

    Without `--policy` the strictest one applies: no code is accepted, so the answer is "refused",
    and shows which code it is. `sealtune attest policy` writes a policy to start from.

    `--nonce` is for evidence from `sealtune attest collect`, `--report-data` for any other. With
    neither, the evidence shows what ran somewhere at some time, not that it answers a challenge.

    Exit code: 0 accepted, 70 to 89 refused (see docs/attestation.md).

    Example: sealtune attest verify quote.bin --kind tdx --collateral collateral.json --policy
    policy.json --at 2025-07-01
    """
    from sealtune.attest.files import load_policy

    when = _time(at)
    bound = _bound(kind, nonce, report_data)
    given = load_policy(policy_file) if policy_file else None
    verdict = judge(file, kind, collateral or [], given or strict_policy(kind), when, bound)
    if as_json:
        typer.echo(json.dumps(as_object(verdict, file), indent=2))
    else:
        show(verdict, file, given)
    if verdict.refusal is not None:
        raise typer.Exit(verdict.refusal.exit_code)


# ---- collect ------------------------------------------------------------------------------------


@attest.command("collect")
def collect(
    kind: _KindOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")],
    nonce: Annotated[str, _NonceOption],
    collateral: Annotated[
        Path | None,
        typer.Option(
            "--collateral", metavar="FILE", exists=True, dir_okay=False, help="Send this along."
        ),
    ] = None,
) -> None:
    """Make evidence on a machine that has the hardware; say what is missing on any other.

    Whoever wants the proof draws the nonce (`openssl rand -hex 32`) and appraises with the same
    one: `sealtune attest verify FILE --kind … --nonce HEX …`.

    Example: sealtune attest collect --kind tdx --nonce "$NONCE" --out evidence.bin
    """
    from sealtune.attest.errors import AttesterUnavailableError
    from sealtune.attest.platforms import platform
    from sealtune.job.storage import write_atomic

    data = challenge_data(kind, _nonce(nonce))
    sent = collateral.read_bytes() if collateral else b""
    try:
        made, endorsements = platform(kind).collect(data)
    except AttesterUnavailableError:
        _print_needs(kind)
        raise
    evidence = Evidence(kind, made, sent or endorsements)
    write_atomic(out, evidence.encode())
    typer.echo(f"wrote {out}: {kind} evidence, {len(evidence.data)} bytes")
    typer.echo(f"{'nonce' if kind is Kind.NVIDIA_GPU else 'report data'} {data.hex()}")
    if not kind.confidential:
        typer.secho(
            "simulated: NOT confidential, it proves nothing about hardware", fg="red", err=True
        )


def _print_needs(kind: Kind) -> None:
    """List on stderr what is there and what is not."""
    from rich.console import Console
    from rich.text import Text

    from sealtune.attest.platforms import platform

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"{kind} evidence needs:", "bold"))
    for need in platform(kind).needs():
        text = need.what if need.there else f"{need.what}: {need.remedy}"
        console.print(Text.assemble(_MARKS[need.there], text))


# ---- policy -------------------------------------------------------------------------------------


@attest.command("policy")
def policy(
    kind: _KindOption,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Evidence whose measurement to name. It is copied, not verified.",
        ),
    ] = None,
) -> None:
    """Print a strict policy of one kind, with every key, as a file to start from.

    It accepts the code that `--from` states (for `simulated`: the code installed here), else none,
    and firmware at least as new as stated there.

    Example: sealtune attest policy --kind tdx --from quote.bin > policy.json
    """
    measurements: tuple[str, ...] = ()
    more: dict[str, Any] = {}
    if source is not None:
        from sealtune.cli.attest_stated import minimums, stated

        measurements = tuple({v: "" for name, v in stated(source, kind) if name == "measurement"})
        if not measurements:
            raise AttestationError(f"{source} states no measurement that can be read")
        more = minimums(source, kind)
        typer.secho(
            "the measurement is copied from the file: compare it with that of the code you built",
            fg="yellow",
            err=True,
        )
        if kind is Kind.SEV_SNP and not more:
            typer.secho(
                "the report does not name its product: fill in min_tcb by hand",
                fg="yellow",
                err=True,
            )
    elif kind is Kind.SIMULATED:
        from sealtune.attest.platforms.simulated import own_measurement

        measurements = (own_measurement().hex(),)
    typer.echo(strict_policy(kind, measurements, **more).model_dump_json(indent=2))


# ---- arguments ----------------------------------------------------------------------------------


def _time(text: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no time such as 2025-07-01 or 2025-07-01T12:00:00Z", param_hint="--at"
        ) from error
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _bound(kind: Kind, nonce: str, report_data: str) -> bytes | None:
    if nonce and report_data:
        raise typer.BadParameter("give --nonce or --report-data, not both")
    if nonce:
        return challenge_data(kind, _nonce(nonce))
    if not report_data:
        return None
    size = NONCE_SIZE if kind is Kind.NVIDIA_GPU else REPORT_DATA_SIZE
    return _hex(report_data, size, "--report-data")


def _nonce(text: str) -> bytes:
    example = secrets.token_hex(NONCE_SIZE)
    return _hex(text, NONCE_SIZE, "--nonce", f"; a fresh one: {example}")


def _hex(text: str, size: int, option: str, more: str = "") -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != size:
        raise typer.BadParameter(
            f"needs {size} bytes as {2 * size} hex digits{more}", param_hint=option
        )
    return raw
