"""The cost section's bars: where the wall time went, and the memory of each process.

Trust domain: server operator.
"""

from __future__ import annotations

from markupsafe import Markup

from sealtune.report import numbers
from sealtune.report.bars import Bar, Part, bars, stacked
from sealtune.report.values import Json, add

FEDERATED_PARTS = {
    "enclave": "in the enclave",
    "accelerator": "accelerator, with transfer",
    "pads": "making pads",
    "network": "network and server",
    "waiting": "waiting for other sites",
    "other": "start and export",
}
SPLIT_PARTS = {
    "enclave": "first blocks, at the site",
    "server": "in the server enclave",
    "network": "network",
    "waiting": "waiting for other sites",
    "other": "start and end",
}


def time_chart(s: Json) -> Markup | None:
    """Where the wall time went: the mean of all sites, then every site."""
    if s["seconds"]["enclave"] is None:
        return None
    mean, names = s["seconds"], SPLIT_PARTS if s["split"] else FEDERATED_PARTS
    rows = [("mean of sites" if len(s["per_site"]) > 1 else "run", mean)]
    if len(s["per_site"]) > 1:
        rows += [
            (site, {**v["seconds"], "other": mean["other"]}) for site, v in s["per_site"].items()
        ]
    drawn = [
        (name, numbers.duration(add(parts[p] for p in names)), _parts(parts, names))
        for name, parts in rows
    ]
    return stacked(drawn, _parts(mean, names))


def _parts(seconds: Json, names: dict[str, str]) -> list[Part]:
    return [
        Part(name, seconds[key] or 0.0, numbers.duration(seconds[key]), f"part-{key}")
        for key, name in names.items()
    ]


def memory_chart(s: Json) -> Markup | None:
    """Peak memory of every process."""
    peaks = s["peak_memory_mib"]
    if not peaks:
        return None
    client = "site" if s["split"] else "client enclave"
    return bars([Bar(_role(role, client), mib, numbers.mib(mib)) for role, mib in peaks.items()])


def _role(role: str, client: str) -> str:
    kind, _, site = role.partition(":")
    names = {"server": "server enclave", "client": client, "flower": "Flower, all processes"}
    return f"{names.get(kind, kind)} {site}".strip()
