"""Which way to take: rule out what cannot be done, rank the rest, and say why.

Trust domain: operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sealtune.advise.equipment import Equipment
from sealtune.advise.estimate import Option
from sealtune.job.method import METHODS
from sealtune.job.spec import Job
from sealtune.job.units import duration, size
from sealtune.tuning.apply import early_layers

Wish = Literal["time", "cost"]
NEAR = 1.25  # cuts that take at most so many times the fastest one's hours count as good as it
_LINKS = {
    "uplink": ("uplink", "uplink_mbit", "Mbit/s"),
    "downlink": ("downlink", "downlink_mbit", "Mbit/s"),
    "accelerator_link": ("link to the accelerator", "accelerator_gbit", "Gbit/s"),
}


@dataclass(frozen=True)
class Advice:
    """The choice.

    Attributes:
        best: the recommended option, or None.
        reason: one sentence.
        options: all of them, each with what rules it out.
    """

    best: Option | None
    reason: str
    options: tuple[Option, ...]


def choose(options: Sequence[Option], job: Job, equipment: Equipment, prefer: Wish) -> Advice:
    """Pick the fastest or cheapest way that can be done and protects what the job asks for.

    Of a way's cuts that are nearly as good as its best, it is the one that the job names, or the
    earliest: it leaves the most blocks to be tuned, and accuracy is nothing that is known here.
    """
    judged = [replace(o, ruled_out=faults(o, job, equipment)) for o in options]
    usable = sorted((o for o in judged if not o.ruled_out), key=lambda o: _rank(o, prefer))
    if not usable:
        nearest = min(judged, key=lambda o: (o.way == "plain", len(o.ruled_out), o.hours))
        reason = f"nothing fits; nearest is {nearest.name}: {'; '.join(nearest.ruled_out)}"
        return Advice(None, reason, tuple(judged))
    first = usable[0]
    near = [
        o
        for o in usable
        if (o.way, o.protect) == (first.way, first.protect)
        and _rank(o, prefer)[0] <= NEAR * _rank(first, prefer)[0]
    ]
    best = next((o for o in near if o.own), min(near, key=lambda o: o.cut or 0))
    return Advice(best, _reason(best, usable, judged, prefer), tuple(judged))


def faults(option: Option, job: Job, equipment: Equipment) -> tuple[str, ...]:
    """Why an option is out of the question; empty if it is not."""
    spec, wish = equipment.spec, job.protection.protect
    method = METHODS.get(option.way)
    reasons = []
    if option.way == "plain" and wish != "insecure-none":
        reasons.append("protects nothing: all data lie in one place")
    if wish == "adapter+data" and option.protect == "adapter":
        reasons.append("shows the data to the accelerator, and protect is 'adapter+data'")
    if method and "tuning.spf" in method.unused and job.tuning.spf is not None:
        reasons.append("cannot tune with SPF")
    if method and "privacy.unit" in method.unused and job.privacy.unit is not None:
        reasons.append("has no differential privacy, and privacy.unit asks for it")
    for key, early in early_layers(job.tuning, option.cut or 0).items():
        reasons.append(f"{key} names block {min(early)}, below the cut")
    if method and "site" in method.attested and not spec.client_tee:
        reasons.append("needs a TEE at every site, and there is none (client_tee = false)")
    for part, words, key in (
        ("client_enclave", "client TEE", "client_tee_memory_gib"),
        ("server_enclave", "server TEE", "server_tee_memory_gib"),
        ("owner_machine", "data owner's machine", "owner_memory_gib"),
    ):
        needed, there = option.memory_mib[part] / 1024, getattr(spec, key)
        if needed > there:
            reasons.append(f"{words} of {size(there * 2**30)} cannot hold {size(needed * 2**30)}")
    if spec.max_hours is not None and option.hours > spec.max_hours:
        reasons.append(_too_long(option, equipment))
    return tuple(reasons)


def _too_long(option: Option, equipment: Equipment) -> str:
    spec = equipment.spec
    piece = max(option.seconds, key=lambda key: option.seconds[key])
    spent, whole = duration(option.seconds[piece]), duration(option.hours * 3600)
    limit = f"max_hours allows {duration((spec.max_hours or 0) * 3600)}"
    if piece in _LINKS:
        words, key, unit = _LINKS[piece]
        return f"{words} of {getattr(spec, key):g} {unit} needs {spent}; {limit}"
    return f"takes {whole}, {spent} of it '{piece}'; {limit}"


def _rank(option: Option, prefer: Wish) -> tuple[float, float, float]:
    memory = sum(option.memory_mib.values())
    if prefer == "cost":
        return option.cost, option.hours, memory
    return option.hours, option.cost, memory


def _reason(best: Option, usable: Sequence[Option], judged: Sequence[Option], prefer: Wish) -> str:
    if len(usable) == 1:
        return f"{best.name} is the only one of {len(judged)} ways that can be done and is wanted"
    word = "cheapest" if prefer == "cost" else "fastest"
    others = [o for o in usable if (o.way, o.protect) != (best.way, best.protect)]
    if others:
        text = f"{best.name} is the {word} method: {_against(best, others[0], prefer)}"
    else:
        text = f"no other method can be done: {best.name} takes {_figure(best, prefer)}"
    if best is not usable[0]:
        why = "the job names it" if best.own else "it leaves the most blocks to be tuned"
        text += f"; of the cuts at most {NEAR - 1:.0%} slower than the {word}, {why}"
    return text


def _against(best: Option, other: Option, prefer: Wish) -> str:
    text = f"{_figure(best, prefer)}, against {_figure(other, prefer)} for {other.name}"
    piece = max(other.seconds, key=lambda key: other.seconds[key] - best.seconds.get(key, 0.0))
    return f"{text} (its '{piece}' takes {duration(other.seconds[piece])})"


def _figure(option: Option, prefer: Wish) -> str:
    return f"cost {option.cost:.3g}" if prefer == "cost" else duration(option.hours * 3600)
