"""Three organisations with rows of their own, and the jobs that they do together."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.demo.consortium import ACCELERATOR, Consortium, Site
from sealtune.demo.hosts import Hosts, missing
from sealtune.demo.party import SEALTUNE, Party
from tests.model.tiny import LABELS, make_texts
from tests.sample_job import as_toml, write_rows

SITES = ("charity", "county", "university")
FAR = "county"  # the one behind a slow link
PARTS = {"train": 24, "test": 8}
_ONE = threading.Lock()  # the process has one working folder

needs_hosts = pytest.mark.skipif(bool(missing()), reason=missing())


def job_values(**sections: Any) -> dict[str, Any]:
    """The job file that goes round.

    A site's standing beside the others is measured under a key of the server's own, so it is only
    reported: the losses are then the same wherever the job runs.
    """
    return {
        "job": {"name": "tiny", "seed": 3, "rounds": 3},
        "model": {"task": "classification"},
        "data": {"max_tokens": 24},
        "sites": {"names": list(SITES)},
        "tuning": {"rank": 4},
        "train": {"steps_per_round": 3, "batch_size": 4, "learning_rate": 5e-3},
        "aggregation": {"outliers": "report"},
        "network": {"deadline": 240.0},
    } | sections


def write_site_rows(folder: Path) -> dict[str, dict[str, Path]]:
    """Rows of each site, in texts that no other site has: site -> part -> file."""
    files: dict[str, dict[str, Path]] = {}
    for number, site in enumerate(SITES):
        for part, count in PARTS.items():
            texts = make_texts(count, 2 * number + (part == "test"))
            rows = [
                {"text": f"{t.text} {site[:2]}{at:03}{part}", "label": LABELS[t.label or 0]}
                for at, t in enumerate(texts)
            ]
            path = write_rows(folder / f"{site}-{part}.jsonl", rows)
            files.setdefault(site, {})[part] = path
    return files


def one_machine_job(folder: Path, model: Path, values: dict[str, Any]) -> Path:
    """The same job as ``sealtune run`` takes it, with the same rows."""
    files = write_site_rows(folder)
    data: dict[str, Any] = {
        part: {site: str(own[part]) for site, own in files.items()} for part in PARTS
    }
    placed = values | {
        "model": values["model"] | {"path": str(model)},
        "data": values["data"] | data,
    }
    path = folder / "job.toml"
    path.write_text(as_toml(placed))
    return path


class Quick(Consortium):
    """Its commands can run in the test's own process, which has loaded what they need.

    Attributes:
        in_hosts: whether they run on the hosts all the same.
    """

    in_hosts = False

    def run(self, name: str, *arguments: str) -> str:
        """One command after another, in the host's folder and with its home."""
        if self.in_hosts:
            return super().run(name, *arguments)
        home = self.folder(name) / ".host" / "home"
        with _ONE, pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder(name)):
            for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "SEALTUNE_CACHE"):
                patch.delenv(variable, raising=False)
            patch.setenv("HOME", str(home))
            done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{name}: {arguments}\n{done.output}{done.exception}"
        return done.output

    def begin_anew(self) -> None:
        """Another job of the same cards: a new manifest that all sign; nobody has begun."""
        for host in self.hosts:
            host.stop()
            shutil.rmtree(host.folder / host.name, ignore_errors=True)
        self.build("--force")
        self.sign()
        self.merge()


@contextmanager
def consortium(folder: Path, model: Path, values: dict[str, Any]) -> Iterator[Quick]:
    """Six hosts, one of them far away, before any of them knows of the job."""
    given = folder / "given"
    given.mkdir()
    files = write_site_rows(given)
    sites = {
        site: Site(
            own["train"],
            own["test"],
            delay_ms=25.0 if site == FAR else 0.0,
            mbit=20.0 if site == FAR else 0.0,
        )
        for site, own in files.items()
    }
    split = values["job"].get("method") == "split"
    masked = values["job"].get("trust") == "secure-aggregation"
    with Hosts(folder / "hosts", shared=[Path(__file__).parent], hidden=[given]) as hosts:
        yield Quick(
            hosts,
            as_toml(values),
            sites,
            model,
            accelerated=not (split or masked),
            server_trains=split,
        )


def losses(events: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What is computed in each round, from a server's events: none of it hangs on time or place."""
    keys = ("train_loss", "loss", "correct", "total", "norm_ratio", "clipped")
    return {
        event["round"]: {key: event[key] for key in keys if key in event}
        for event in events
        if event["event"] == "round"
    }


def events_of(metrics: Path) -> list[dict[str, Any]]:
    """All events of a ``metrics.jsonl``."""
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def start_all(
    group: Consortium, stack: ExitStack, *, but: Collection[str] = ()
) -> dict[str, Party]:
    """Start each party's own command: host -> party."""
    names = [host.name for host in group.hosts if host.name not in but]
    return {name: stack.enter_context(group.start(name)) for name in names}


def end_all(parties: Mapping[str, Party]) -> dict[str, int]:
    """Wait for the end of the job: host -> exit code."""
    codes = {name: party.end() for name, party in parties.items() if name != ACCELERATOR}
    if ACCELERATOR in parties:  # it serves until it is told to end
        codes[ACCELERATOR] = parties[ACCELERATOR].stop()
    return codes


def run_on_one_machine(folder: Path, model: Path, values: dict[str, Any]) -> Path:
    """Run the same job with ``sealtune run``; returns the run's folder."""
    own = folder / "alone"
    own.mkdir()
    job = one_machine_job(own, model, values)
    done = subprocess.run(
        [SEALTUNE, "run", job.name], cwd=own, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return own / "runs" / "tiny"
