"""``sealtune image measure``: the measurement that evidence of an image must have.

Trust domain: operator (untrusted), and whoever compares.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sealtune.attest.evidence import Kind
    from sealtune.images.image import Image

KINDS = ("sev-snp", "tdx")
FILL = "FILL IN"
# Parts of the TCB before Turin; a report's product decides.
_PARTS = ("bootloader", "tee", "snp", "microcode")
_ROLES = {"site-enclave": "site"}  # every other program is the server's


def _hex48(word: str) -> bytes:
    try:
        raw = bytes.fromhex(word)
    except ValueError:
        raw = b""
    if len(raw) != 48:
        raise typer.BadParameter("needs 48 bytes as 96 hex digits")
    return raw


def _kind(word: str) -> str:
    if word and word not in KINDS:
        raise typer.BadParameter(f"{word!r} is not one of {', '.join(KINDS)}")
    return word


def measure(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="A built image.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar=f"[{'|'.join(KINDS)}]",
            callback=_kind,
            help="What makes the evidence. Default: sev-snp with --ovmf, else tdx.",
        ),
    ] = "",
    ovmf: Annotated[
        Path | None,
        typer.Option(
            "--ovmf",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="SEV-SNP: the firmware, a build of AmdSevX64.dsc.",
        ),
    ] = None,
    vcpus: Annotated[
        int, typer.Option("--vcpus", min=1, max=512, help="SEV-SNP: number of processors.")
    ] = 1,
    vcpu_type: Annotated[
        str, typer.Option("--vcpu-type", metavar="CPU", help="SEV-SNP: QEMU's model of them.")
    ] = "EPYC-Genoa",
    features: Annotated[
        str, typer.Option("--guest-features", metavar="HEX", help="SEV-SNP: SEV_FEATURES.")
    ] = "0x1",
    mrtd: Annotated[
        bytes | None,
        typer.Option("--mrtd", metavar="HEX", parser=_hex48, help="TDX: the firmware's register."),
    ] = None,
    rtmr0: Annotated[
        bytes | None,
        typer.Option("--rtmr0", metavar="HEX", parser=_hex48, help="TDX: the machine's register."),
    ] = None,
    initrd_last: Annotated[
        bool,
        typer.Option("--initrd-last", help="TDX: with firmware up to edk2 2025.02."),
    ] = False,
    evidence: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Evidence of such a machine, whatever it booted: gives MRTD and RTMR0 (TDX) or "
            "versions of firmware (SEV-SNP), and is compared. Copied, not verified.",
        ),
    ] = None,
    event_log: Annotated[
        Path | None,
        typer.Option(
            "--event-log",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="TDX: the log of the boot that --from is a quote of; says which event differs.",
        ),
    ] = None,
    policy_out: Annotated[
        Path | None,
        typer.Option(
            "--policy-out",
            metavar="FILE",
            help="Write what `job build --policy` takes; another role in FILE is kept.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Work out the measurement that evidence of this image must have, on no hardware at all.

    **SEV-SNP**: the launch measurement, over firmware, kernel, initial file system, command line
    and processors. **TDX**: RTMR1 and RTMR2; with MRTD and RTMR0, which are of the firmware and of
    the machine's shape, the digest over all of them that a policy names.

    What is not known yet stands in the policy as "FILL IN", and is refused until it is.

    Examples:

        sealtune image measure images/aggregator --ovmf OVMF.amdsev.fd --vcpus 4 --vcpu-type
        EPYC-Genoa --from report.bin --policy-out policy.json

        sealtune image measure images/site --kind tdx --from quote.bin --policy-out policy.json
    """
    from sealtune.attest.evidence import Kind
    from sealtune.images.image import Image

    image = Image.read(folder)
    chosen = Kind(kind or ("sev-snp" if ovmf else "tdx"))
    if chosen is Kind.SEV_SNP:
        found = _snp(image, ovmf, vcpus, vcpu_type, features)
    else:
        given = {"MRTD": mrtd, "RTMR0": rtmr0}
        found = _tdx(image, evidence, given, initrd_last=initrd_last)
    document = {
        "kind": str(chosen),
        "program": image.contents.program,
        "code": image.contents.code,
        "image": image.contents.digest,
        **found,
    }
    if evidence is not None:
        document["evidence"] = _compared(evidence, chosen, found)
    if event_log is not None:
        if chosen is not Kind.TDX or evidence is None:
            raise typer.BadParameter("needs --from, a TDX quote of the same boot")
        document["events"] = _events(image, event_log, evidence, initrd_last=initrd_last)
    if policy_out is not None:
        _write_policy(policy_out, image, chosen, document["measurement"], evidence)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        _show(document, policy_out)


def _snp(
    image: Image, ovmf: Path | None, vcpus: int, vcpu_type: str, features: str
) -> dict[str, Any]:
    from sealtune.images.measure_snp import SnpLaunch, qemu_options, snp_measurement

    if ovmf is None:
        raise typer.BadParameter("sev-snp needs the firmware", param_hint="--ovmf")
    try:
        bits = int(features, 16)
    except ValueError as error:
        raise typer.BadParameter("is no hex number", param_hint="--guest-features") from error
    launch = SnpLaunch(ovmf=ovmf, vcpus=vcpus, vcpu_type=vcpu_type, guest_features=bits)
    measurement = snp_measurement(image, launch).hex()
    return {
        "measurement": measurement,
        "ovmf_sha256": hashlib.sha256(ovmf.read_bytes()).hexdigest(),
        "vcpus": vcpus,
        "vcpu_type": vcpu_type,
        "guest_features": f"{bits:#x}",
        "qemu": qemu_options(image, launch),
    }


def _tdx(
    image: Image, evidence: Path | None, given: dict[str, bytes | None], *, initrd_last: bool
) -> dict[str, Any]:
    from sealtune.attest.evidence import Kind
    from sealtune.cli.attest_stated import stated
    from sealtune.images.measure_tdx import qemu_options, tdx_measurement, tdx_registers

    machine = {}
    if evidence is not None:
        rows = stated(evidence, Kind.TDX)
        machine = {
            name: bytes.fromhex(value) for name, value in rows if name.startswith(("MR", "RTMR"))
        }
        if not machine:
            raise typer.BadParameter(f"{evidence} is no TDX quote", param_hint="--from")
    machine |= {name: value for name, value in given.items() if value is not None}
    registers = tdx_registers(image, initrd_last=initrd_last)
    known = any(machine.get("MRTD", b"")) and any(machine.get("RTMR0", b""))
    return {
        "measurement": (
            tdx_measurement(image, machine, initrd_last=initrd_last).hex() if known else None
        ),
        **{name: value.hex() for name, value in {**machine, **registers}.items()},
        "qemu": qemu_options(image),
    }


def _compared(evidence: Path, kind: Kind, found: dict[str, Any]) -> dict[str, Any]:
    """What evidence states of the same, not verified."""
    from sealtune.cli.attest_stated import stated

    rows = dict(stated(evidence, kind))
    if not rows:
        raise typer.BadParameter(f"{evidence} is no {kind} evidence", param_hint="--from")
    names = [name for name in ("measurement", "RTMR1", "RTMR2") if name in rows]
    return {
        "file": str(evidence),
        "measurement": rows["measurement"],
        "differs": [name for name in names if rows[name] != found.get(name)],
    }


def _events(image: Image, log: Path, quote: Path, *, initrd_last: bool) -> list[dict[str, Any]]:
    """The log's events beside the image's, if the quote's registers follow from the log."""
    from sealtune.attest.evidence import Kind
    from sealtune.cli.attest_stated import stated
    from sealtune.images.event_log import compared, read_log, replayed

    events, rows = read_log(log), dict(stated(quote, Kind.TDX))
    other = [name for name, value in replayed(events).items() if rows[name] != value.hex()]
    if other:
        raise typer.BadParameter(
            f"{', '.join(other)} of {quote} do not follow from {log}: it is of another boot",
            param_hint="--event-log",
        )
    return [row._asdict() for row in compared(image, events, initrd_last=initrd_last)]


def _write_policy(
    path: Path, image: Image, kind: Kind, measurement: str | None, evidence: Path | None
) -> None:
    """The strictest policy of this image's role, beside what the file has of another role."""
    from sealtune.cli.attest_stated import minimums
    from sealtune.cli.attest_verdict import strict_policy
    from sealtune.errors import ConfigError, Problem
    from sealtune.job.storage import write_atomic

    more = minimums(evidence, kind) if evidence is not None else {}
    policy = strict_policy(kind, (measurement,) if measurement else (), **more)
    content = policy.model_dump(mode="json", exclude_defaults=True)
    of_kind = content["kinds"][str(kind)]
    of_kind["measurements"] = [measurement or f"{FILL}: needs MRTD and RTMR0, from a quote"]
    if kind == "sev-snp" and not more:
        least = f"{FILL}: smallest accepted versions, of a report: attest policy --from"
        of_kind["snp"] = {"min_tcb": {"Genoa": dict.fromkeys(_PARTS, least)}}
    role = _ROLES.get(image.contents.program, "server")
    try:
        table = json.loads(path.read_bytes()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), [Problem("(file)", f"cannot be read: {error}")]) from error
    if not isinstance(table, dict) or not table.keys() <= {"server", "site"}:
        raise ConfigError(
            str(path), [Problem("(file)", "is no table of the roles server and site")]
        )
    table[role] = {"version": 1, **content}
    write_atomic(path, json.dumps(table, indent=2).encode() + b"\n")


def _show(document: dict[str, Any], policy_out: Path | None) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)  # digests stay whole, to be copied
    rows = {name: value for name, value in document.items() if name not in ("evidence", "events")}
    if rows["measurement"] is None:
        rows["measurement"] = "not known without MRTD and RTMR0: --from a quote of such a machine"
    rows["qemu"] = shlex.join(document["qemu"])
    width = max(map(len, rows))
    for name, value in rows.items():
        style = "bold green" if name == "measurement" and document[name] else ""
        console.print(Text(f"{name:{width}}  ", "dim") + Text(str(value), style))
    if evidence := document.get("evidence"):
        console.print()
        differs = evidence["differs"]
        said = f"differs in {', '.join(differs)}" if differs else "states the same"
        style = "yellow" if differs else "green"
        console.print(Text(f"{evidence['file']} (not verified) {said}", style))
    for event in document.get("events", []):
        mark, style = ("same  ", "green") if event["same"] else ("OTHER ", "red")
        line = Text.assemble((f"  {mark}", style), f"{event['register']}  {event['what']}")
        console.print(line if event["same"] else line + Text(f": the log has {event['found']}"))
    if policy_out is not None:
        console.print(Text(f"\nwrote {policy_out}", "dim"))
        if FILL in policy_out.read_text():
            console.print(Text(f"it is refused until every {FILL!r} in it is replaced", "yellow"))
