"""Carry attacks out and keep what they found: ``RUN/audit.json``.

    {"format": 1, "job_id": ..., "attacks": [{"name": ..., "findings": [{"verdict": ...}]}]}

It holds rates and verdicts, and no text, number of a model or secret of the run. docs/audit.md has
its keys.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import sealtune
from sealtune.audit.attack import Attack
from sealtune.audit.finding import Finding, Verdict
from sealtune.audit.statistics import LEVEL
from sealtune.audit.subject import Subject
from sealtune.job.storage import write_atomic

AUDIT = "audit.json"
_PACKAGES = ("torch", "transformers", "peft", "numpy")
Progress = Callable[[Attack, float, str], None]  # share of the attack that is done, what goes on


def carry_out(
    subject: Subject, attacks: Sequence[Attack], progress: Progress, kept: Sequence[Any] = ()
) -> dict[str, Any]:
    """Run every attack that applies, and write the file after each.

    Args:
        kept: entries of ``entries`` that stay as they are, of attacks that are not run anew.

    Returns:
        what is in the file.

    Raises:
        StorageError: it cannot be written.
        SealtuneError: an attack cannot be carried out.
    """
    names = {attack.name for attack in attacks}
    entries = {entry["name"]: entry for entry in kept if entry["name"] not in names}
    for attack in attacks:
        entries[attack.name] = _one(subject, attack, progress)
        record = _record(subject, list(entries.values()))
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(subject.folder / AUDIT, text.encode())
    return record if attacks else _record(subject, list(entries.values()))


def entries(folder: Path, job_id: str) -> list[dict[str, Any]]:
    """What an earlier audit of the same job by the same version found; empty: there was none."""
    try:
        found = json.loads((folder / AUDIT).read_bytes())
        versions = found["versions"] == _versions()
        return list(found["attacks"]) if found["job_id"] == job_id and versions else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def broken(record: Mapping[str, Any]) -> list[str]:
    """Names of the attacks that succeed where they should not."""
    return [
        entry["name"]
        for entry in record["attacks"]
        if any(finding["verdict"] == Verdict.BROKEN for finding in entry["findings"])
    ]


def _one(subject: Subject, attack: Attack, progress: Progress) -> dict[str, Any]:
    start, why_not = perf_counter(), attack.applies(subject)
    progress(attack, 0.0, "")
    found = [] if why_not else attack.run(subject, lambda done, what: progress(attack, done, what))
    progress(attack, 1.0, "")
    return {
        "name": attack.name,
        "what": attack.what,
        "adversary": attack.adversary,
        "not_applicable": why_not,
        "quick": subject.quick,
        "seconds": round(perf_counter() - start, 1),
        "findings": [_finding(finding) for finding in found],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "verdict": str(finding.verdict)}


def _record(subject: Subject, attacks: list[Any]) -> dict[str, Any]:
    return {
        "format": 1,
        "job_id": subject.job_id,
        "name": subject.job.job.name,
        "seed": subject.seed,
        "same_code": subject.same_code,
        "level": LEVEL,
        "versions": _versions(),
        "attacks": attacks,
    }


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"sealtune": sealtune.__version__, "python": platform.python_version(), **packages}
