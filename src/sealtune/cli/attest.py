"""``sealtune attest``: appraise evidence in a file, make evidence, write an appraisal policy.

Evidence that is refused is shown all the same, as far as it can be read, and apart: what signatures
prove, and what it merely says of itself.

Trust domain: whoever appraises an enclave; ``collect`` runs inside one.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sealtune.attest.evidence import NONCE_SIZE, REPORT_DATA_SIZE, Claims, Evidence, Kind
from sealtune.attest.policy import AppraisalPolicy, KindPolicy
from sealtune.errors import AttestationError

attest = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Appraise evidence of what runs in an enclave, or make some.",
)

# Evidence made by a command answers a command, and nothing in a handshake of a run.
COMMAND_DOMAIN = "sealtune/attest/command/v1"
_KindOption = Annotated[Kind, typer.Option("--kind", help="What made the evidence.")]
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
            help="Vendor data, once for each file. SGX, TDX: Intel's JSON. SEV-SNP: certificates, "
            "that of the chip first. GPU: manifests of driver and VBIOS.",
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

    Exit code: 0 accepted, 70 to 89 refused (see docs/errors.md).

    Example: sealtune attest verify quote.bin --kind tdx --collateral collateral.json --policy
    policy.json --at 2025-07-01
    """
    from sealtune.attest.verify import load_policy

    when = _time(at)
    bound = _bound(kind, nonce, report_data)
    policy = load_policy(policy_file) if policy_file else strict_policy(kind)
    verdict = judge(file, kind, collateral or [], policy, when, bound)
    if as_json:
        typer.echo(json.dumps(_as_object(verdict, file), indent=2))
    else:
        _print(verdict, file, given_policy=policy_file is not None)
    if verdict.refusal is not None:
        raise typer.Exit(verdict.refusal.exit_code)


@dataclass(frozen=True)
class Verdict:
    """The outcome of an appraisal.

    Attributes:
        kind: of evidence.
        at: the time it holds for.
        bound: what the evidence had to be over; None: nothing was asked.
        refusal: why it was refused; None: it was accepted.
        claims: what the signatures prove, also where the policy refuses it.
        stated: what the evidence says of itself, where nothing is proved.
    """

    kind: Kind
    at: datetime
    bound: bytes | None
    refusal: AttestationError | None = None
    claims: Claims | None = None
    stated: tuple[tuple[str, str], ...] = ()


def judge(
    file: Path,
    kind: Kind,
    collateral: list[Path],
    policy: AppraisalPolicy,
    at: datetime,
    bound: bytes | None,
) -> Verdict:
    """Appraise ``file``; see `sealtune.attest.appraise` for the arguments."""
    from sealtune.attest import appraise
    from sealtune.cli.attest_stated import stated

    try:
        claims = appraise(file, kind, collateral, policy, at, report_data=bound)
        return Verdict(kind, at, bound, claims=claims)
    except AttestationError as error:
        refusal = error
    try:
        claims = appraise(file, kind, collateral, _any_policy(kind), at)
    except AttestationError:
        return Verdict(kind, at, bound, refusal, stated=tuple(stated(file, kind)))
    return Verdict(kind, at, bound, refusal, claims)


def strict_policy(kind: Kind, measurements: tuple[str, ...] = ()) -> AppraisalPolicy:
    """Firmware up to date, no open advisory, and only the given code."""
    statuses = {
        Kind.SEV_SNP: ("MinimumMet",),
        Kind.NVIDIA_GPU: ("RimMatched",),
        Kind.SIMULATED: ("Simulated",),
    }
    accepted = KindPolicy(measurements=measurements, tcb_statuses=statuses.get(kind, ("UpToDate",)))
    return AppraisalPolicy(kinds={kind: accepted})


def _any_policy(kind: Kind) -> AppraisalPolicy:
    """Accepts whatever is genuine: to tell what is proved from what is stated, never to trust."""
    intel = (
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
        "Revoked",
    )
    anything = KindPolicy(
        measurements="any",
        tcb_statuses=(*intel, "MinimumMet", "RimMatched", "Unchecked", "Simulated"),
        advisories="any",
        allow=("smt", "dynamic-platform", "cached-keys"),
        max_vmpl=3,
    )
    return AppraisalPolicy(kinds={kind: anything})


def _as_object(verdict: Verdict, file: Path) -> dict[str, Any]:
    refusal = verdict.refusal
    claims = verdict.claims.model_dump(mode="json") if verdict.claims else None
    return {
        "file": str(file),
        "kind": str(verdict.kind),
        "at": verdict.at.isoformat(),
        "verdict": "refused" if refusal else "accepted",
        "exit_code": refusal.exit_code if refusal else 0,
        "error": type(refusal).__name__ if refusal else None,
        "reason": refusal.message if refusal else "",
        "hint": refusal.hint if refusal else "",
        "report_data_checked": verdict.bound is not None,
        "claims": claims,
        "stated": dict(verdict.stated),
    }


def _print(verdict: Verdict, file: Path, *, given_policy: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from sealtune.attest.verify import claims_table

    # Soft wrap: digests stay whole, so they can be copied.
    console = Console(highlight=False, soft_wrap=True)
    rows = list(verdict.stated)
    title = f"{verdict.kind} evidence in {file}, as it says of itself: NOT VERIFIED"
    if verdict.claims:
        rows = claims_table(verdict.claims, report_data_checked=verdict.bound is not None)
        title = f"{verdict.kind} evidence in {file}: signatures are genuine"
    if rows:
        console.print(Text(title, "bold" if verdict.claims else "bold yellow"))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            loud = value.startswith(("NO:", "YES")) or (
                name.endswith("advisories") and value != "-"
            )
            line = Text(f"  {name:{width}}  ", "dim")
            console.print(line + Text(_plain(value), "red" if loud else "default"))
        console.print()
    for note in _notes(verdict, given_policy=given_policy):
        console.print(Text(f"note: {_plain(note)}", "yellow"))
    if verdict.refusal is None:
        console.print(Text("ACCEPTED", "bold green"))
        return
    name, code = type(verdict.refusal).__name__, verdict.refusal.exit_code
    reason = Text(f": {_plain(verdict.refusal.message)}  ({name}, exit code {code})")
    console.print(Text("REFUSED", "bold red") + reason)
    if verdict.refusal.hint:
        console.print(Text(f"→ {_plain(verdict.refusal.hint)}", "cyan"))


def _notes(verdict: Verdict, *, given_policy: bool) -> list[str]:
    notes = []
    if not given_policy:
        notes.append(
            "without --policy no code is accepted; start one with: "
            f"sealtune attest policy --kind {verdict.kind} --from FILE > policy.json"
        )
    if verdict.bound is None and verdict.claims:
        notes.append(
            "neither --nonce nor --report-data was given: this shows what ran somewhere at some "
            "time, and could be a copy"
        )
    if verdict.claims and verdict.claims.tcb_status == "Unchecked":
        needed = (
            'AMD gives no verdict on firmware: state "min_tcb" in the policy'
            if verdict.kind is Kind.SEV_SNP
            else "no manifests were given, so firmware was compared with nothing: --collateral"
        )
        notes.append(f'{needed}; or accept the status "Unchecked"')
    return notes


def _plain(text: str) -> str:
    """Certificates are made by others: nothing in them may steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


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
    from sealtune.cli.attest_needs import print_needs
    from sealtune.job.storage import write_atomic

    data = challenge_data(kind, _nonce(nonce))
    sent = collateral.read_bytes() if collateral else b""
    try:
        evidence = _make(kind, data, sent)
    except AttesterUnavailableError:
        print_needs(kind)
        raise
    write_atomic(out, evidence.encode())
    typer.echo(f"wrote {out}: {kind} evidence, {len(evidence.data)} bytes")
    typer.echo(f"{'nonce' if kind is Kind.NVIDIA_GPU else 'report data'} {data.hex()}")
    if not kind.confidential:
        typer.secho(
            "simulated: NOT confidential, it proves nothing about hardware", fg="red", err=True
        )


def _make(kind: Kind, data: bytes, collateral: bytes) -> Evidence:
    if kind is Kind.NVIDIA_GPU:
        from sealtune.attest.collect import GpuCollector

        return Evidence(kind, GpuCollector().collect(data), collateral)
    if kind is Kind.SIMULATED:
        from sealtune.attest.simulated import SimulatedAttester

        return SimulatedAttester().collect(data)
    from sealtune.attest.collect import attester_for

    return attester_for(kind, collateral=collateral).collect(data)


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

    It accepts the code that `--from` states (for `simulated`: the code installed here), else none.

    Example: sealtune attest policy --kind tdx --from quote.bin > policy.json
    """
    measurements: tuple[str, ...] = ()
    if source is not None:
        from sealtune.cli.attest_stated import stated

        measurements = tuple({v: "" for name, v in stated(source, kind) if name == "measurement"})
        if not measurements:
            raise AttestationError(f"{source} states no measurement that can be read")
        typer.secho(
            "the measurement is copied from the file: compare it with that of the code you built",
            fg="yellow",
            err=True,
        )
    elif kind is Kind.SIMULATED:
        from sealtune.attest.measure import own_measurement

        measurements = (own_measurement().hex(),)
    typer.echo(strict_policy(kind, measurements).model_dump_json(indent=2))


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
