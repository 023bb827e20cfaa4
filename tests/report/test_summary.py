"""The summary against figures worked out by hand from the sample's tables."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path

import pytest

from sealtune import report
from sealtune.errors import StorageError
from sealtune.report import build_summary, write
from tests.report import sample_run as sample
from tests.report import sample_split
from tests.report.sample_run import Json, events, fail, flag, resolved, write_run
from tests.report.test_privacy import private_job

DOCS = Path(__file__).parents[2] / "docs" / "summary.md"


@pytest.fixture
def summary(tmp_path: Path) -> Json:
    return build_summary(write_run(tmp_path / "run", baselines=sample.BASELINES))


def test_accuracy_adds_rows_of_all_sites_before_dividing(summary: Json) -> None:
    # 85 + 70 + 39 and 1190 + 966 + 546 of 1700 + 1400 + 867
    assert summary["accuracy_before"] == pytest.approx(194 / 3967)
    assert summary["accuracy_after"] == pytest.approx(2702 / 3967)
    assert summary["test_rows_after"] == 3967
    assert summary["majority_class"] == 0.057
    assert summary["metric"] == "accuracy"
    assert summary["perplexity_after"] is None


def test_interval_is_wilsons(summary: Json) -> None:
    # p = 0.681119, n = 3967: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    assert summary["accuracy_after_95"] == pytest.approx([0.66645, 0.69544], abs=1e-5)


def test_sites(summary: Json) -> None:
    coast = summary["per_site"]["clinic-coast"]
    assert coast["examples"] == 3038
    assert coast["accuracy_before"] == pytest.approx(39 / 867)
    assert coast["accuracy_after"] == pytest.approx(546 / 867)
    assert coast["rounds_ok"] == 4
    # four training rounds and two evaluations
    assert coast["bytes"] == {"up": 4 * 3_700_000 + 2 * 900, "down": 4 * 3_690_000 + 2 * 1_100}


def test_loss_curve_is_weighted_by_examples(summary: Json) -> None:
    curve = summary["loss_curve"]
    assert curve["rounds"] == [1, 2, 3, 4]
    assert curve["sites"]["hospital-south"] == [2.66, 1.70, 1.30, 1.08]
    first = (2.61 * 6400 + 2.66 * 5100 + 2.40 * 3038) / 14538
    assert curve["all"][0] == pytest.approx(first)


def kept_back(happened: list[Json]) -> list[Json]:
    """The same run whose server lets out totals only, and whose sites speak for themselves."""
    changed = []
    for event in json.loads(json.dumps(happened)):
        if event["event"] in ("round", "final"):
            entries = list(event["sites"].values())
            trains = "train_loss" in entries[0]
            stage = "train" if trains else "evaluate" if event["event"] == "round" else "release"
            if trains:
                rows = sum(entry["examples"] for entry in entries)
                losses = sum(entry["train_loss"] * entry["examples"] for entry in entries)
                event["train_loss"] = losses / rows
            else:
                event["correct"], event["total"] = (
                    sum(entry[key] for entry in entries) for key in ("correct", "total")
                )
                event["loss"] = 3.4 if stage == "evaluate" else 1.05
            for site, entry in event["sites"].items():
                worked = {"event": "worked", "round": event["round"], "stage": stage}
                worked |= {"role": f"client:{site}", "seconds": entry.pop("seconds")}
                worked |= {"train_loss": entry.pop("train_loss")} if trains else {}
                changed.append({**worked, "time": event["time"] - 1})
                for key in ("correct", "total"):
                    entry.pop(key, None)
        changed.append(event)
    return changed


def test_sites_speak_for_themselves_where_the_server_keeps_back(
    summary: Json, tmp_path: Path
) -> None:
    found = build_summary(
        write_run(tmp_path / "kept", kept_back(events()), baselines=sample.BASELINES)
    )
    curve, expected = (s.pop("loss_curve") for s in (found, summary))
    assert found == summary
    assert curve["sites"] == expected["sites"]
    assert curve["all"] == pytest.approx(expected["all"])


def test_totals_alone(tmp_path: Path) -> None:
    """As on the server's own machine."""
    server = [e for e in kept_back(events()) if not e["role"].startswith("client:")]
    found = build_summary(write_run(tmp_path / "run", server))
    assert found["accuracy_after"] == pytest.approx(2702 / 3967)
    assert found["loss_after"] == 1.05
    assert found["sites_tested_after"] == list(sample.SITES)
    assert found["accuracy_curve"]["rounds"] == [0, 4]
    assert found["per_site"]["clinic-coast"]["accuracy_after"] is None
    assert found["per_site"]["clinic-coast"]["seconds"]["enclave"] is None
    assert found["loss_curve"]["all"][0] is not None


def test_bytes(summary: Json) -> None:
    assert summary["bytes"] == {
        "up": 3 * 14_801_800,
        "down": 3 * 14_762_200,
        "enclave_to_accelerator": 21_400_000_000,
        "accelerator_to_enclave": 26_900_000_000,
        "accelerator_calls": 9_600,
        "pad_accelerator_to_enclave": None,
    }


def test_the_pad_accelerators_bytes_are_its_own(tmp_path: Path) -> None:
    moved = {"event": "offload", "calls": 7, "bytes_in": 0, "bytes_out": 5}
    more = [{"role": "pad-accelerator", **moved}, {"role": "pad-accelerator", **moved, "calls": 9}]
    found = build_summary(write_run(tmp_path / "run", [*events(), *more]))["bytes"]
    assert found["pad_accelerator_to_enclave"] == 5
    assert found["accelerator_calls"] == 9_600


def test_seconds_add_up_to_the_wall_time(summary: Json) -> None:
    seconds = summary["seconds"]
    # mean over sites of 4 training rounds and 2 evaluations
    whole = 4 * (30 + 28 + 27) / 3 + 2 * 8
    assert seconds["enclave"] == pytest.approx(0.9 * whole)
    assert seconds["passes"] == pytest.approx(0.1 * whole)
    assert seconds["accelerator"] == pytest.approx(4 * (24 + 23 + 22) / 3 + 2 * 6)
    assert seconds["pads"] == pytest.approx(4 * (36 + 35 + 31) / 3 + 2 * 10)
    # slowest site: 90 of 96 s, and 24 of 28 s
    assert seconds["network"] == pytest.approx(4 * 6 + 2 * 4)
    # 90 s less 86 s, and less 80 s
    assert seconds["waiting"] == pytest.approx(4 * (0 + 4 + 10) / 3)
    assert seconds["total"] == 520
    parts = [v for k, v in seconds.items() if k != "total"]
    assert sum(parts) == pytest.approx(520)
    assert sum(summary["shares"].values()) == pytest.approx(1)
    assert summary["shares"]["accelerator"] == pytest.approx(104 / 520)


def test_both_views_of_every_model(tmp_path: Path) -> None:
    """Figures are added up by hand from the sample's tables."""
    right = {"hospital-north": 1343, "hospital-south": 1120, "clinic-coast": 607}
    own = [
        {"event": "personal", "role": f"client:{site}", "steps": 8, "correct": count,
         "total": sample.TOTAL[site], "loss": 0.5}
        for site, count in right.items()
    ]  # fmt: skip
    happened = events()
    run = write_run(tmp_path / "run", [*happened[:-1], *own, happened[-1]])
    job = json.loads((run / "job.manifest.json").read_text())["payload"]
    job_id = hashlib.sha384(base64.b64decode(job)).hexdigest()
    scores = {
        "accuracy_after": 0.556,
        "accuracy_own_rows": 0.66,
        "per_site": {s: {"accuracy": 0.6, "accuracy_all_rows": 0.55} for s in sample.SITES},
    }
    measured = {"job_id": job_id, **scores, "accuracy_after": 0.61}
    (run / "baselines").mkdir()
    write = (run / "baselines" / "local.json").write_text
    write(json.dumps({**scores, "personal": measured}))
    views = build_summary(run)["views"]
    assert list(views) == ["joint", "personal", "local"]
    joint = (1190 + 966 + 546) / 3967
    assert views["joint"]["all_rows"] == views["joint"]["own_rows"] == pytest.approx(joint)
    assert views["joint"]["per_site"]["clinic-coast"] == {
        "all_rows": pytest.approx(joint),
        "own_rows": pytest.approx(546 / 867),
    }
    assert views["personal"]["own_rows"] == pytest.approx((1343 + 1120 + 607) / 3967)
    assert views["personal"]["all_rows"] == 0.61
    assert views["local"]["own_rows"] == 0.66
    assert views["local"]["per_site"]["hospital-north"] == {"all_rows": 0.55, "own_rows": 0.6}
    # what was measured of another run's adapters is not this run's
    write(json.dumps({**scores, "personal": {**measured, "job_id": "00" * 48}}))
    assert build_summary(run)["views"]["personal"]["all_rows"] is None
    page = report.write(run).read_text()
    assert "77.4" in page  # own rows of the sites' own adapters


def test_personal_parts_leave_no_joint_view(tmp_path: Path) -> None:
    job = sample.resolved()
    job["settings"]["aggregation"] = {"personal": ["head"]}
    run = write_run(tmp_path / "run", job=job)
    page, joint = report.write(run).read_text(), report.write(write_run(tmp_path / "joint"))
    assert "Two views of accuracy" in page
    assert "with the parts that stay at the site" in page
    assert "Two views" not in joint.read_text()
    assert "with the parts that stay at the site" not in joint.read_text()
    views = build_summary(run)["views"]
    assert list(views) == ["personal"]
    assert views["personal"]["own_rows"] == pytest.approx((1190 + 966 + 546) / 3967)
    assert views["personal"]["all_rows"] is None


def test_steps_of_a_site_alone_are_no_round(tmp_path: Path) -> None:
    """They come after the last round, on an axis of their own name."""
    happened, site = events(), f"client:{sample.SITES[0]}"
    alone = [
        {"event": "phase", "role": site, "round": 99, "phase": "personal", "of": 2},
        {"event": "step", "role": site, "round": 99, "step": 1, "of": 2, "loss": 0.5},
    ]
    page = report.write(write_run(tmp_path, [*happened[:-1], *alone, happened[-1]])).read_text()
    assert ">alone<" in page
    assert "round 99" not in page


def test_settings_of_a_rule_are_shown_where_they_are_set(tmp_path: Path) -> None:
    job = sample.resolved()
    job["settings"]["aggregation"] = {"rule": "trimmed-mean", "trim": 0.3, "attackers": 1}
    page = report.write(write_run(tmp_path, job=job)).read_text()
    assert "aggregation.trim" in page
    assert "aggregation.attackers" not in page


def test_sites_that_were_not_asked_are_not_lost(tmp_path: Path) -> None:
    happened = [
        {**e, "sites": {**e["sites"], "clinic-coast": {"outcome": "not asked"}}}
        if e["event"] == "round" and e["round"] in (2, 3)
        else e
        for e in events()
    ]
    run = write_run(tmp_path / "run", happened)
    summary = build_summary(run)
    coast = summary["per_site"]["clinic-coast"]
    assert (coast["rounds_ok"], coast["rounds_asked"]) == (2, 2)
    assert summary["per_site"]["hospital-north"]["rounds_asked"] == 4
    page = report.write(run).read_text()
    assert "answers are missing" not in page
    assert "answer is missing" not in page
    assert "not asked" in page
    assert "2 of 2" in page
    assert "16 of 16 answers in" in page  # 6 stages of three sites, less two


def test_baselines_as_ratios(summary: Json) -> None:
    local = summary["baselines"]["local"]
    assert local["accuracy_gain"] == pytest.approx(2702 / 3967 - 0.556)
    assert local["accuracy_ratio"] == pytest.approx(2702 / 3967 / 0.556)
    assert local["seconds_ratio"] == pytest.approx(520 / 305)
    assert local["per_site"]["clinic-coast"] == {"accuracy": 0.529}
    assert list(summary["baselines"]) == ["local", "pooled"]


def test_identity_and_memory(summary: Json) -> None:
    assert summary["job_id"] == sample.job_id(sample.resolved())
    assert summary["plan_digest"] == sample.PLAN_DIGEST
    assert summary["seed"] == 7
    assert summary["outcome"] == "ok"
    assert summary["confidential"] is False
    assert summary["evidence"] == ["simulated"]
    assert summary["versions"] == sample.VERSIONS
    assert summary["peak_memory_mib"] == sample.MEMORY
    assert summary["checks"] == {"trained_moved": True, "frozen_unchanged": True}


def test_summary_is_strict_json(summary: Json) -> None:
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_interrupted_run_gives_null(tmp_path: Path) -> None:
    happened = events()
    cut = next(i for i, e in enumerate(happened) if e["event"] == "round" and e["round"] == 3)
    found = build_summary(write_run(tmp_path / "run", happened[:cut]))
    assert found["outcome"] is None
    assert found["rounds"] == {"planned": 4, "done": 2}
    assert found["accuracy_before"] == pytest.approx(194 / 3967)
    assert found["accuracy_after"] is None
    assert found["accuracy_after_95"] is None
    assert found["per_site"]["clinic-coast"]["accuracy_after"] is None
    assert found["loss_curve"]["rounds"] == [1, 2]
    assert found["peak_memory_mib"] == {}
    times = [e["time"] for e in happened[:cut]]
    assert found["seconds"]["total"] == pytest.approx(times[-1] - times[0])


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_any_beginning_of_a_log_can_be_summarised(tmp_path: Path, length: int) -> None:
    found = build_summary(write_run(tmp_path / "run", events()[:length]))
    assert found["accuracy_after"] is None
    assert found["confidential"] is False  # the job itself names simulated evidence


def test_no_log_at_all(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [])
    (run / "metrics.jsonl").unlink()
    found = build_summary(run)
    assert found["accuracy_before"] is None
    assert found["seconds"]["total"] is None
    assert set(found["per_site"]) == set(sample.SITES)


def test_no_resolved_job(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "job.manifest.json").unlink()
    found = build_summary(run)
    assert found["accuracy_after"] == pytest.approx(2702 / 3967)
    assert found["job_id"] == sample.job_id(sample.resolved())
    assert found["confidential"] is False


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a run folder"):
        build_summary(tmp_path)


def test_torn_line_is_counted_not_fatal(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "memory", "pe')
    found = build_summary(run)
    assert found["unreadable_lines"] == 1
    assert found["outcome"] == "ok"


def test_failed_client_is_named_in_its_round(tmp_path: Path) -> None:
    happened = fail(events(), "clinic-coast", 2, "failed", "process ended")
    found = build_summary(write_run(tmp_path / "run", happened))
    entry = next(o for o in found["outcomes"] if o["round"] == 2)
    assert entry["sites"]["clinic-coast"] == {
        "outcome": "failed", "reason": "process ended", "outlier": None
    }  # fmt: skip
    assert found["per_site"]["clinic-coast"]["rounds_ok"] == 3
    # steps it did before it failed are known, and its loss does not enter as 0
    assert found["loss_curve"]["sites"]["clinic-coast"][1] is None
    two = (1.62 * 6400 + 1.70 * 5100) / 11500
    assert found["loss_curve"]["all"][1] == pytest.approx(two)


def test_outliers_are_counted(tmp_path: Path) -> None:
    summary = build_summary(write_run(tmp_path / "run", flag(events(), "clinic-coast", (2, 4))))
    assert {site: own["rounds_outlier"] for site, own in summary["per_site"].items()} == {
        "hospital-north": 0, "hospital-south": 0, "clinic-coast": 2,
    }  # fmt: skip
    flags = [r["sites"]["clinic-coast"]["outlier"] for r in summary["outcomes"]]
    assert flags == [None, False, True, False, True, None]


def test_updates_that_nobody_compared_have_no_outliers(summary: Json) -> None:
    assert {own["rounds_outlier"] for own in summary["per_site"].values()} == {None}


def test_site_missing_from_the_last_evaluation(tmp_path: Path) -> None:
    happened = events()
    final = next(e for e in happened if e["event"] == "final")
    final["sites"]["clinic-coast"] = {"outcome": "late", "reason": "no answer within 600 s"}
    found = build_summary(write_run(tmp_path / "run", happened))
    assert found["accuracy_after"] == pytest.approx((1190 + 966) / 3100)
    assert found["sites_tested_after"] == ["hospital-north", "hospital-south"]
    assert len(found["sites_tested_before"]) == 3


def test_nan_loss_is_null_and_counted(tmp_path: Path) -> None:
    happened = events()
    step = next(e for e in happened if e["event"] == "step")
    step["loss"] = math.nan
    closing = next(e for e in happened if e["event"] == "round" and e["round"] == 1)
    closing["sites"]["hospital-north"]["train_loss"] = math.inf
    found = build_summary(write_run(tmp_path / "run", happened))
    assert found["losses_not_finite"] == 2
    assert found["loss_curve"]["sites"]["hospital-north"][0] is None
    json.dumps(found, allow_nan=False)


def test_loss_that_an_enclave_wrote_as_null_is_counted(tmp_path: Path) -> None:
    happened = events()
    next(e for e in happened if e["event"] == "step")["loss"] = None
    found = build_summary(write_run(tmp_path / "run", happened))
    assert found["losses_not_finite"] == 1


def test_failed_site_has_no_times(tmp_path: Path) -> None:
    happened = fail(events(), "hospital-north", 1, "failed", "gone")
    closing = next(e for e in happened if e["event"] == "round" and e["round"] == 1)
    closing["sites"]["hospital-north"] |= {
        "train_loss": None, "examples": None, "bytes_up": 0, "bytes_down": 10,
        "seconds": {"enclave": 0.0, "accelerator": 0.0, "pads": 0.0},
    }  # fmt: skip
    found = build_summary(write_run(tmp_path / "run", happened))
    assert found["per_site"]["hospital-north"]["seconds"]["accelerator"] == 3 * 24 + 2 * 6
    assert found["per_site"]["hospital-north"]["seconds"]["waiting"] == 0
    # in round 1 the slowest is now hospital-south with 86 s
    assert found["seconds"]["network"] == pytest.approx(10 + 3 * 6 + 2 * 4)
    assert found["losses_not_finite"] == 0
    assert found["per_site"]["hospital-north"]["bytes"]["up"] == 3 * 3_700_000 + 2 * 900


def test_resumed_run_keeps_what_only_the_first_start_said(tmp_path: Path) -> None:
    again = {"event": "start", "role": "launcher", "resume": True}
    found = build_summary(write_run(tmp_path / "run", [*events()[:30], again]))
    assert found["majority_class"] == 0.057
    assert found["versions"] == sample.VERSIONS


@pytest.mark.parametrize(
    ("party", "kept", "words"),
    [
        ("server", ("server", "launcher"), "Steps, time and memory of sites"),
        ("site-hospital-north", ("client:hospital-north", "launcher"), "outcomes of all are in"),
        ("coordinator", ("flower", "launcher"), "It carried sealed bytes"),
        ("accelerator", ("accelerator", "launcher"), "It multiplied masked numbers"),
    ],
)
def test_the_log_of_one_party_says_what_it_cannot_know(
    tmp_path: Path, party: str, kept: tuple[str, ...], words: str
) -> None:
    happened = [event for event in events() if event["role"] in kept]
    happened[0] = {**happened[0], "event": "start", "role": "launcher", "party": party}
    run = write_run(tmp_path / "run", happened)
    found = build_summary(run)
    assert found["party"] == party
    assert (found["rounds"]["done"] > 0) == (party == "server")
    page = write(run).read_text()
    assert f"This is the log of one party: {party}." in page
    assert words in page


def test_causal_lm_has_perplexity(tmp_path: Path) -> None:
    job = resolved(model__task="causal-lm")
    found = build_summary(write_run(tmp_path / "run", job=job))
    assert found["metric"] == "token accuracy"
    assert found["perplexity_before"] == pytest.approx(math.exp(3.4))
    assert found["perplexity_after"] == pytest.approx(math.exp(1.05))


def _with_hardware() -> list[Json]:
    happened = events()
    for event in happened:
        if event["event"] == "attested":
            event |= {"kind": "sev-snp", "confidential": True}
    return happened


def test_confidential_needs_every_pair_bound_to_this_job(tmp_path: Path) -> None:
    job = resolved(protection__attestation="sev-snp")
    happened = _with_hardware()
    assert build_summary(write_run(tmp_path / "a", happened, job))["confidential"] is True
    attested = [e for e in happened if e["event"] == "attested"]
    fewer = [e for e in happened if e is not attested[-1]]
    assert build_summary(write_run(tmp_path / "b", fewer, job))["confidential"] is False
    attested[0]["job_id"] = "00" * 48
    assert build_summary(write_run(tmp_path / "c", happened, job))["confidential"] is False


def test_nobody_tells_of_another_ones_verdict(tmp_path: Path) -> None:
    """A site's process cannot make the server have accepted hardware, nor have refused it."""
    happened = _with_hardware()
    theirs = [e for e in happened if e["event"] == "attested" and e["by"] == "server"]
    told = [e | {"role": f"client:{e['who']}"} for e in theirs]
    elsewhere = [told[theirs.index(e)] if e in theirs else e for e in happened]
    job = resolved(protection__attestation="sev-snp")
    assert build_summary(write_run(tmp_path / "a", elsewhere, job))["confidential"] is False


def test_unmasked_run_is_never_confidential(tmp_path: Path) -> None:
    job = resolved(protection__attestation="sev-snp", protection__protect="insecure-none")
    found = build_summary(write_run(tmp_path / "run", _with_hardware(), job))
    assert found["confidential"] is False


def test_resumed_run_adds_times_and_counters(tmp_path: Path) -> None:
    happened = events()
    cut = next(i for i, e in enumerate(happened) if e["event"] == "round" and e["round"] == 3)
    stop = {"event": "end", "outcome": "interrupted", "seconds": 200.0, "role": "launcher"}
    again = [e for e in happened if e.get("round", 9) >= 3]
    offload = [e for e in again if e["event"] == "offload"]
    offload[0] |= {"calls": 10}
    offload[1:] = [e | {"calls": 20} for e in offload[1:]]
    again = [e for e in again if e["event"] != "offload"] + offload
    found = build_summary(write_run(tmp_path / "run", [*happened[:cut], stop, *again]))
    assert found["attempts"] == 2
    assert found["outcome"] == "ok"
    assert found["seconds"]["total"] == pytest.approx(200 + 520)
    assert found["bytes"]["accelerator_calls"] == 7200 + 20  # it began again from 0
    assert found["rounds"]["done"] == 4


def test_error_behind_a_failure(tmp_path: Path) -> None:
    lost = {"event": "error", "role": "server", "code": 8, "error": "SiteLostError"}
    error = {
        "event": "error", "role": "accelerator", "code": 5, "error": "AcceleratorLostError",
        "message": "gone", "hint": "look",
    }  # fmt: skip
    end = {"event": "end", "outcome": "failed", "seconds": 9.0}
    found = build_summary(write_run(tmp_path / "run", [*events()[:20], lost, error, end]))
    assert found["outcome"] == "failed"
    assert found["error"] == {
        "code": 5, "error": "AcceleratorLostError", "message": "gone", "hint": "look",
        "role": "accelerator",
    }  # fmt: skip


ODD: list[object] = [None, "x", -1, [], {}, True, 1e400, {"a": 1}, [1], 10**400]


@pytest.mark.parametrize("odd", ODD, ids=[str(i) for i in range(len(ODD))])
def test_odd_values_never_crash(tmp_path: Path, odd: object) -> None:
    for key in ("sites", "round", "seconds", "loss", "peak_mib", "calls", "versions", "time"):
        happened = [e | {key: odd} if key in e else e for e in events()]
        run = write_run(tmp_path / key, happened)
        json.dumps(build_summary(run), allow_nan=False)


def test_docs_list_exactly_the_real_keys(tmp_path: Path, summary: Json) -> None:
    error = {"event": "error", "role": "server", "code": 1, "error": "E", "message": "", "hint": ""}
    failed = build_summary(write_run(tmp_path / "failed", [*events()[:-1], error]))
    job, happened = sample_split.resolved(), sample_split.events()
    split = build_summary(write_run(tmp_path / "split", happened, job))["split"]
    private = build_summary(write_run(tmp_path / "private", None, private_job(2.0)))["privacy"]
    real = _paths({**summary, "error": failed["error"], "split": split, "privacy": private})
    real |= {"error", "split", "split.heads", "privacy"}
    lines = DOCS.read_text().splitlines()
    documented = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert len(documented) == len(set(documented))
    assert set(documented) == real


def _paths(value: object, path: str = "") -> set[str]:
    """Key paths, with names of sites, roles, packages and baselines replaced by their kind."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _paths(value[0], f"{path}[]")
    if not isinstance(value, dict):
        return {path}
    stand_ins = {
        "versions": "<package>", "peak_memory_mib": "<role>", "baselines": "<kind>",
        "views": "<model>",
        "per_site": "<site>", "sites": "<site>", "heads": "<module>", "<module>": "<group>",
    }  # fmt: skip
    stand_in = stand_ins.get(path.rpartition(".")[2])
    found: set[str] = set()
    for key, inner in value.items():
        found |= _paths(inner, f"{path}.{stand_in or key}".lstrip("."))
    return found


def test_what_the_rank_could_not_hold(tmp_path: Path) -> None:
    happened = events()
    for event in happened:
        if event["event"] == "round" and event["round"] > 0:
            event |= {"residual": 0.021, "factor_error": 0.125, "norm_ratio": 0.5, "clipped": 1}
    folder = write_run(tmp_path / "run", happened)
    outcomes = build_summary(folder)["outcomes"]
    trained = [one for one in outcomes if one["stage"] == "train"]
    assert {(one["residual"], one["factor_error"]) for one in trained} == {(0.021, 0.125)}
    assert {(one["norm_ratio"], one["clipped"]) for one in trained} == {(0.5, 1)}
    assert outcomes[0]["residual"] is outcomes[-1]["residual"] is None
    page = write(folder).read_text()
    assert page.count("residual 2.1\N{NO-BREAK SPACE}%") == len(trained)
    assert page.count("of factors 12.5\N{NO-BREAK SPACE}%") == len(trained)
    assert "Residual: the share of the mean" in page


def test_other_rules_have_no_residual(tmp_path: Path) -> None:
    page = write(write_run(tmp_path / "run")).read_text()
    assert "esidual" not in page
