"""How well each model does in two views: on all sites' test rows together, and on each site's own.

A joint adapter is one model, so its two figures are the same. Of models that differ by site, the
first is the mean over them, each on all rows; in the second each row is answered by the model of
its own site. What a site's own adapter makes of other sites' rows is known where somebody has all
rows: ``sealtune run --baseline local`` measures it.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Mapping

from sealtune.job.training_events import Personal
from sealtune.report import quality
from sealtune.report.log import RunLog
from sealtune.report.quality import Score
from sealtune.report.values import Json, number, table, text

NAMES = {
    "joint": "joint adapter",
    "personal": "sites' own adapters",
    "local": "each site alone",
    "pooled": "all data in one place",
    "plain-federated": "federated, unprotected",
}


def views(log: RunLog, job_id: str | None) -> Json:
    """Model -> ``all_rows``, ``own_rows`` and the same of every site; those that were measured.

    Args:
        job_id: of the run; what a baseline measured of another run's adapters is left out.
    """
    parts = table(log.job.get("aggregation")).get("personal")
    last, went_on = quality.after(log), _personal(log)
    found: Json = {}
    if last and not parts:
        score = quality.pool(last)
        every = score.accuracy if score else None
        found["joint"] = _view(log, last, every, dict.fromkeys(last, every))
    if own := went_on or (last if parts else {}):
        measured = table(table(log.baselines.get("local")).get("personal"))
        if text(measured.get("job_id")) != job_id:
            measured = {}
        found["personal"] = _view(
            log, own, number(measured.get("accuracy_after")), _sites(measured, "accuracy_all_rows")
        )
    for kind, figures in log.baselines.items():
        of_site = {
            "all_rows": _sites(figures, "accuracy_all_rows"),
            "own_rows": _sites(figures, "accuracy"),
        }
        found[kind] = {
            "all_rows": number(figures.get("accuracy_after")),
            "own_rows": number(figures.get("accuracy_own_rows")),
            "per_site": {
                site: {view: values.get(site) for view, values in of_site.items()}
                for site in log.sites
            },
        }
    return found


def _view(
    log: RunLog,
    own: Mapping[str, Score],
    every: float | None,
    every_by_site: Mapping[str, float | None],
) -> Json:
    """Of models that answered ``own`` rows, with accuracies on all rows as they are known."""
    score = quality.pool(dict(own))
    return {
        "all_rows": every,
        "own_rows": score.accuracy if score else None,
        "per_site": {
            site: {
                "all_rows": every_by_site.get(site),
                "own_rows": own[site].accuracy if site in own else None,
            }
            for site in log.sites
        },
    }


def _personal(log: RunLog) -> dict[str, Score]:
    """What each site's enclave said of the adapter that it went on with alone."""
    found = {}
    for site in log.sites:
        for event in log.of(Personal, f"client:{site}"):
            found[site] = Score(event.correct, event.total, event.loss)
    return found


def _sites(figures: Json, key: str) -> dict[str, float | None]:
    of_sites = table(figures.get("per_site"))
    return {site: number(table(value).get(key)) for site, value in of_sites.items()}
