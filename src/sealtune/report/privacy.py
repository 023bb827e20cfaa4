"""What differential privacy cost: the signed table, as far as the server has come.

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.job.events import PrivacySpent
from sealtune.report.log import RunLog
from sealtune.report.values import Json, number, table, text, whole


def figures(log: RunLog) -> Json | None:
    """``summary.json``'s ``privacy``; None where the manifest states none."""
    dp, settings = table(log.signed.get("dp")), table(log.job.get("privacy"))
    costs = _costs(dp)
    if not costs:
        return None
    spent = {event.round: event for event in log.of(PrivacySpent, "server")}
    last = spent[max(spent)] if spent else None
    budget, rounds = number(settings.get("epsilon")), whole(log.setting("job", "rounds"))
    longest = max(len(cost) for cost in costs.values())
    allowed = sum(
        all(after < len(cost) and cost[after] <= (budget or 0) for cost in costs.values())
        for after in range(longest)
    )
    curve = sorted(spent)
    return {
        "unit": text(settings.get("unit")),
        "clip": number(settings.get("clip")),
        "noise_multiplier": number(dp.get("noise_multiplier")),
        "delta": number(settings.get("delta")),
        "budget": budget,
        "epsilon": last.epsilon if last else None,
        "rounds_allowed": allowed if rounds is None else min(allowed, rounds),
        "ended_early": last.ended if last else False,
        "sites": {
            site: None if last is None else _after(cost, last.round) for site, cost in costs.items()
        },
        "curve": {
            "rounds": curve,
            "worst": [spent[number].epsilon for number in curve],
            "sites": {site: [_after(cost, n) for n in curve] for site, cost in costs.items()},
        },
    }


def _costs(dp: Json) -> dict[str, list[float]]:
    """Site -> epsilon after 1, 2, ... rounds."""
    costs: dict[str, list[float]] = {}
    tables = dp.get("tables")
    for one in tables if isinstance(tables, list) else []:
        listed, sites = table(one).get("epsilon"), table(one).get("sites")
        if isinstance(listed, list) and isinstance(sites, list):
            cost = [x for x in map(number, listed) if x is not None]
            costs |= {str(site): cost for site in sites}
    return costs


def _after(cost: list[float], rounds: int) -> float | None:
    """Of a table; None beyond its end."""
    return 0.0 if rounds == 0 else cost[rounds - 1] if rounds <= len(cost) else None
