"""Sentences of a split job's report: banners and key figures.

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.report import numbers
from sealtune.report.values import Json

SIMULATED = (
    "The server enclave of this run was an ordinary process. Whoever controls its machine could "
    "read all that it held: the sites’ cut activations and labels, and the adapter. Seals and the "
    "handshake were really carried out; the protection by hardware was not there."
)


def banners(s: Json) -> list[tuple[str, str]]:
    """Sites that were lost, and an adapter that stayed: (title, text) of each."""
    found: list[tuple[str, str]] = []
    for site, reason in _left_out(s).items():
        found.append((f"{site} is not in the training.", _why(reason)))
    for site, reason in _without_end(s).items():
        found.append((f"{site} was lost after the training.", _why(reason)))
    if s["split"]["release"] == "never" and s["rounds"]["done"]:
        found.append(
            (
                "The adapter stayed in the server enclave.",
                "The manifest releases it to nobody. The enclave answers the sites’ questions "
                "instead: sealtune predict.",
            )
        )
    return found


def _why(reason: str) -> str:
    return f"The server’s word on it: {reason}." if reason else "See the round table."


def _left_out(s: Json) -> dict[str, str]:
    """Sites whose samples the rounds did not have, with the reason."""
    rounds = [r["sites"] for r in s["outcomes"] if r["stage"] != "final"]
    return _failed(rounds[-1]) if rounds else {}


def _without_end(s: Json) -> dict[str, str]:
    """Sites that took part and did not hear of the end, with the reason."""
    final: Json = next((r["sites"] for r in s["outcomes"] if r["stage"] == "final"), {})
    left_out = _left_out(s)
    return {site: why for site, why in _failed(final).items() if site not in left_out}


def _failed(sites: Json) -> dict[str, str]:
    return {
        site: one["reason"] or ""
        for site, one in sites.items()
        if one["outcome"] not in ("ok", None)
    }


def tiles(s: Json) -> list[tuple[str, str, str]]:
    """Key figures: (name, figure, explanation)."""
    t, rounds, split = s["seconds"], s["rounds"], s["split"]
    planned = f" of {rounds['planned']}" if rounds["planned"] is not None else ""
    ratio = split["uplink_ratio"]
    more = "" if ratio is None else f": {ratio:.2f}{numbers.NBSP}× the bare activations"
    whole = sum(one["samples"] is not None for one in split["sites"].values())
    return [
        ("wall time", numbers.duration(t["total"]), "from start to end, all processes"),
        ("server enclave", numbers.duration(t["server"]), "training and testing"),
        ("first blocks, per site", numbers.duration(t["enclave"]), "once for each sample"),
        (
            "rounds",
            f"{rounds['done']}{planned}",
            f"uploads: {whole} of {len(split['sites'])} sites",
        ),
        ("sites → server", numbers.size(split["bytes_up"]), f"sealed, all sites{more}"),
    ]
