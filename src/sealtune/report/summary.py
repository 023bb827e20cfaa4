"""``summary.json``: the figures of one run under stable keys, explained in ``docs/summary.md``.

    from sealtune.report import build_summary
    build_summary(Path("runs/icd10"))["accuracy_after"]

Missing parts of an interrupted run are ``None``; nothing is guessed.

Trust domain: server operator.
"""

from __future__ import annotations

from pathlib import Path

from sealtune import __version__
from sealtune.report import costs, evidence, quality, split
from sealtune.report.log import RunLog, read_run
from sealtune.report.quality import Score
from sealtune.report.values import Json, flag, number, ratio, table, text, whole

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
    return {
        "format": FORMAT,
        **_identity(log),
        **_course(log),
        **_quality(log),
        "per_site": _per_site(log),
        "loss_curve": quality.loss_curve(log),
        "accuracy_curve": quality.accuracy_curve(log),
        "split": split.facts(log),
        **_costs(log),
        "outcomes": _outcomes(log),
        "checks": {name: _check(log, name) for name in ("trained_moved", "frozen_unchanged")},
        "baselines": {kind: _baseline(log, b) for kind, b in log.baselines.items()},
    }


def _identity(log: RunLog) -> Json:
    seed = whole(log.setting("job", "seed"))
    versions = {k: str(v) for k, v in table(log.started_with("versions")).items()}
    return {
        "sealtune": versions.get("sealtune", __version__),
        "versions": versions,
        "name": log.name(),
        "method": log.method,
        "task": text(log.setting("model", "task")),
        "job_id": text(log.resolved.get("job_id")) or text(log.started_with("job_id")),
        "plan_digest": text(log.resolved.get("plan_digest"))
        or text(log.started_with("plan_digest")),
        "model_digest": text(log.resolved.get("model_digest")),
        "seed": seed if seed is not None else whole(log.started_with("seed")),
        "protect": _protect(log),
        "confidential": evidence.confidential(log),
        "evidence": evidence.kinds(log),
    }


def _protect(log: RunLog) -> str | None:
    if log.is_split:  # the job file's level is one of the accelerator, and there is none
        return "split"
    return text(log.setting("protection", "protect")) or text(log.started_with("protect"))


def _course(log: RunLog) -> Json:
    last_attempt = log.attempts[-1] if log.attempts else log.events
    end = next((e for e in reversed(last_attempt) if e.get("event") == "end"), {})
    error = None if end.get("outcome") == "ok" else _cause(last_attempt)
    keys = ("error", "message", "hint", "role")
    return {
        "outcome": text(end.get("outcome")),
        "error": None
        if error is None
        else {"code": whole(error.get("code")), **{k: text(error.get(k)) for k in keys}},
        "attempts": len(log.attempts),
        "rounds": {
            "planned": whole(log.setting("job", "rounds")),
            "done": len(log.training_rounds),
        },
        "unreadable_lines": log.unreadable,
    }


def _cause(events: tuple[Json, ...]) -> Json | None:
    """The error behind a failure: the launcher's verdict, the accelerator's word, or the first.

    One process that stops makes others report that they lost it, so the last word is no guide.
    """
    errors = [event for event in events if event.get("event") == "error"]
    for role in ("launcher", "accelerator"):
        errors = [e for e in errors if e.get("role") == role] or errors
    return errors[0] if errors else None


def _quality(log: RunLog) -> Json:
    first, last = quality.before(log), quality.after(log)
    before, after = quality.pool(first), quality.pool(last)
    causal = log.setting("model", "task") == CAUSAL_LM
    figures: Json = {"metric": "token accuracy" if causal else "accuracy"}
    for when, score, parts in (("before", before, first), ("after", after, last)):
        figures[f"accuracy_{when}"] = score.accuracy if score else None
        figures[f"accuracy_{when}_95"] = score.interval if score else None
        figures[f"loss_{when}"] = score.loss if score else None
        figures[f"perplexity_{when}"] = quality.perplexity(score.loss) if score and causal else None
        figures[f"test_rows_{when}"] = score.total if score else None
        figures[f"sites_tested_{when}"] = list(parts)
    figures["majority_class"] = number(log.started_with("majority_class"))
    figures["losses_not_finite"] = quality.broken_losses(log)
    return figures


def _per_site(log: RunLog) -> Json:
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
            "bytes": costs.site_bytes(log, site),
            "seconds": times[site],
        }
    return result


def _costs(log: RunLog) -> Json:
    seconds, shares = costs.seconds(log)
    return {
        "bytes": costs.traffic(log),
        "seconds": seconds,
        "shares": shares,
        "peak_memory_mib": costs.peak_memory(log),
    }


def _outcomes(log: RunLog) -> list[Json]:
    """Every client's outcome in every round; a site that the server did not list is ``None``."""
    events = [*log.rounds.values(), *([log.final] if log.final else [])]
    return [
        {
            "round": whole(event.get("round")),
            "stage": "final" if event is log.final else "train" if event["round"] else "before",
            "seconds": number(event.get("seconds")),
            "sites": {
                site: {key: text(log.entry(event, site).get(key)) for key in ("outcome", "reason")}
                for site in log.sites
            },
        }
        for event in events
    ]


def _check(log: RunLog, name: str) -> bool | None:
    """A check that runs after each round: true only if it held every time it was recorded."""
    stated = [flag(event.get(name)) for event in log.events]
    for event in (*log.rounds.values(), log.final):
        stated += [flag(log.entry(event, site).get(name)) for site in log.sites]
    known = [value for value in stated if value is not None]
    return all(known) if known else None


def _baseline(log: RunLog, found: Json) -> Json:
    """A comparison run's own figures, and this run's against them."""
    score = quality.pool(quality.after(log))
    accuracy = number(found.get("accuracy_after"))
    seconds = number(found.get("seconds"))
    mine = score.accuracy if score else None
    curve = found.get("loss_curve")
    return {
        "accuracy_before": number(found.get("accuracy_before")),
        "accuracy_after": accuracy,
        "per_site": {
            site: {"accuracy": number(table(value).get("accuracy"))}
            for site, value in table(found.get("per_site")).items()
        },
        "loss_curve": [number(x) for x in curve] if isinstance(curve, list) else [],
        "seconds": seconds,
        "accuracy_gain": mine - accuracy if mine is not None and accuracy is not None else None,
        "accuracy_ratio": ratio(mine, accuracy),
        "seconds_ratio": ratio(costs.total_seconds(log), seconds),
    }
