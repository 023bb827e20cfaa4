"""``summary.json``: the figures of one run under stable keys, explained in ``docs/summary.md``.

    from sealtune.report import build_summary
    build_summary(Path("runs/icd10"))["accuracy_after"]

Missing parts of an interrupted run are ``None``; nothing is guessed.

Trust domain: server operator.
"""

from __future__ import annotations

from pathlib import Path

from sealtune import __version__
from sealtune.job.event_log import End
from sealtune.job.events import Error, Event, Round
from sealtune.report import costs, evidence, privacy, quality
from sealtune.report.log import RunLog, read_run
from sealtune.report.methods import View, view_of
from sealtune.report.quality import Score
from sealtune.report.values import Json, number, ratio, table, text, whole
from sealtune.report.views import views

FORMAT = 1
CAUSAL_LM = "causal-lm"


def build_summary(run_dir: Path) -> Json:
    """The summary of a run folder.

    Raises:
        StorageError: not a run folder, or it cannot be read.
    """
    return summarise(read_run(run_dir))


def summarise(log: RunLog) -> Json:
    """The summary of a run that has been read."""
    view = view_of(log.method)
    seconds, shares = costs.seconds(log)
    return {
        "format": FORMAT,
        **_identity(log, view),
        **_course(log),
        **_quality(log, view),
        "views": views(log, _job_id(log)),
        "per_site": _per_site(log, view),
        "loss_curve": quality.loss_curve(log, view),
        "accuracy_curve": quality.accuracy_curve(log),
        "split": view.figures(log),
        "privacy": privacy.figures(log),
        "bytes": costs.traffic(log, view),
        "seconds": seconds,
        "shares": shares,
        "peak_memory_mib": costs.peak_memory(log),
        "outcomes": _outcomes(log),
        "checks": {name: _check(log, name) for name in ("trained_moved", "frozen_unchanged")},
        "baselines": {kind: _baseline(log, figures) for kind, figures in log.baselines.items()},
    }


def _identity(log: RunLog, view: View) -> Json:
    seed = whole(log.setting("job", "seed"))
    versions = log.start.versions
    return {
        "sealtune": versions.get("sealtune", __version__),
        "versions": versions,
        "name": text(log.setting("job", "name")),
        "party": log.start.party,
        "method": log.method,
        "trust": "enclaves" if view.method.attested else "secure-aggregation",
        "task": text(log.setting("model", "task")),
        "job_id": _job_id(log),
        "plan_digest": text(log.signed.get("plan_digest")) or log.start.plan_digest,
        "model_digest": text(log.signed.get("model_digest")),
        "seed": seed if seed is not None else log.start.seed,
        "protect": view.level(log),
        "compute": view.compute(log),
        "pad_operators": log.pad_operators,
        "confidential": evidence.confidential(log, view),
        "evidence": evidence.kinds(log, view),
    }


def _job_id(log: RunLog) -> str | None:
    return text(log.signed.get("job_id")) or log.start.job_id


def _course(log: RunLog) -> Json:
    last_attempt = log.attempts[-1] if log.attempts else log.events
    end = next((e for e in reversed(last_attempt) if isinstance(e, End)), None)
    outcome = end.outcome if end else None
    error = None if outcome == "ok" else _cause(last_attempt)
    keys = ("code", "error", "message", "hint", "role")
    return {
        "outcome": outcome,
        "error": None if error is None else {key: getattr(error, key) for key in keys},
        "attempts": len(log.attempts),
        "rounds": {
            "planned": whole(log.setting("job", "rounds")),
            "done": len(log.training_rounds),
        },
        "unreadable_lines": log.unreadable,
    }


def _cause(events: tuple[Event, ...]) -> Error | None:
    """The error behind a failure: the launcher's verdict, the accelerator's word, or the first.

    One process that stops makes others report that they lost it, so the last word is no guide.
    """
    errors = [event for event in events if isinstance(event, Error)]
    for role in ("launcher", "accelerator", "pad-accelerator"):
        errors = [e for e in errors if e.role == role] or errors
    return errors[0] if errors else None


def _quality(log: RunLog, view: View) -> Json:
    causal = log.setting("model", "task") == CAUSAL_LM
    figures: Json = {"metric": "token accuracy" if causal else "accuracy"}
    final = log.final
    for when, event, stage in (
        ("before", log.rounds.get(0), 0),
        ("after", final, final.round if final else None),
    ):
        score = quality.joint(log, event, stage)
        figures[f"accuracy_{when}"] = score.accuracy if score else None
        figures[f"accuracy_{when}_95"] = score.interval if score else None
        figures[f"loss_{when}"] = score.loss if score else None
        figures[f"perplexity_{when}"] = quality.perplexity(score.loss) if score and causal else None
        figures[f"test_rows_{when}"] = score.total if score else None
        figures[f"sites_tested_{when}"] = quality.tested(log, event, stage)
    figures["majority_class"] = log.start.majority_class
    figures["losses_not_finite"] = quality.broken_losses(log, view)
    return figures


def _per_site(log: RunLog, view: View) -> Json:
    first, last, times = quality.before(log), quality.after(log), costs.site_seconds(log)
    empty = Score(0, 0, None)
    result: Json = {}
    for site in log.sites:
        before, after = first.get(site, empty), last.get(site, empty)
        result[site] = {
            "examples": quality.examples(log, site),
            "test_rows": after.total or before.total or None,
            "accuracy_before": before.accuracy,
            "accuracy_after": after.accuracy,
            "loss_before": before.loss,
            "loss_after": after.loss,
            "rounds_ok": quality.rounds_ok(log, site),
            "rounds_asked": quality.rounds_asked(log, site),
            "rounds_outlier": quality.rounds_outlier(log, site),
            "bytes": view.site_bytes(log, site),
            "seconds": times[site],
        }
    return result


def _outcomes(log: RunLog) -> list[Json]:
    """Every client's outcome in every round; a site that the server did not list is ``None``."""
    return [
        {
            "round": event.round,
            "stage": "final" if event is log.final else "train" if event.round else "before",
            "seconds": event.seconds,
            "norm_ratio": event.norm_ratio,
            "clipped": event.clipped,
            "residual": event.residual,
            "factor_error": event.factor_error,
            "sites": {site: _outcome(event, site) for site in log.sites},
        }
        for event in log.stages
    ]


def _outcome(event: Round, site: str) -> Json:
    listed = event.sites.get(site)
    return {key: listed and getattr(listed, key) for key in ("outcome", "reason", "outlier")}


def _check(log: RunLog, name: str) -> bool | None:
    """A check that runs after each round: true only if it held every time it was recorded.

    Each site states it of itself, the server of all.
    """
    stated = [getattr(event, name) for event in log.stages]
    stated += [getattr(own, name, None) for event in log.stages for own in event.sites.values()]
    recorded = [value for value in stated if value is not None]
    return all(recorded) if recorded else None


def _baseline(log: RunLog, figures: Json) -> Json:
    """A comparison run's own figures, and this run's against them."""
    score = quality.joint(log, log.final, None)
    accuracy, seconds = number(figures.get("accuracy_after")), number(figures.get("seconds"))
    reached = score.accuracy if score else None
    compared = reached is not None and accuracy is not None
    curve = figures.get("loss_curve")
    return {
        "accuracy_before": number(figures.get("accuracy_before")),
        "accuracy_after": accuracy,
        "per_site": {
            site: {"accuracy": number(table(value).get("accuracy"))}
            for site, value in table(figures.get("per_site")).items()
        },
        "loss_curve": [number(x) for x in curve] if isinstance(curve, list) else [],
        "seconds": seconds,
        "accuracy_gain": (reached or 0.0) - (accuracy or 0.0) if compared else None,
        "accuracy_ratio": ratio(reached, accuracy),
        "seconds_ratio": ratio(costs.total_seconds(log), seconds),
    }
