"""One way to a joint adapter, in a process of its own: ``python peers_job.py SETTINGS``.

All parties are objects of this process and exchange the bytes that a network would carry. Every way
trains the same rows in the same order, from the same adapter. What counts is from the first message
to the end of the last round, with the evaluation before the first one.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from demo_rows import draw_rows, first_blocks
from in_process import Objects
from sealtune.baseline.workbench import State, Workbench
from sealtune.job.events import Event
from sealtune.job.sections import JobSpec, LoraSpec, SitesSpec, TrainSpec, TuningSpec
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.memory import peak_mib

SITES = ("north", "south", "west")
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """What a way took, and what it learned."""

    seconds: float
    up: int
    down: int
    correct: int
    total: int


def run(settings: Settings) -> dict[str, Any]:
    """What one way costs, and how many test rows its adapter answers right.

    Args:
        settings: ``way`` (of ``WAYS``); ``model`` and ``data``, folders; ``set``, ``blocks``,
            ``rows``, ``test``, ``tokens``, ``rounds``, ``steps``, ``rate``, ``seed``.

    Returns:
        ``seconds`` of the processor, ``up`` and ``down``, ``correct`` of ``total``, and ``mib``, at
        most, above what the process holds when all is imported.
    """
    words = [sys.executable, __file__, json.dumps(settings)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the job ------------------------------------------------------------------------------------


def make_job(settings: Settings, folder: Path) -> Job:
    """A job of Method 1, masked."""
    rows = draw_rows(
        Path(settings["data"]) / settings["set"], folder, train=settings["rows"],
        test=settings["test"], seed=settings["seed"],
    )  # fmt: skip
    model = first_blocks(Path(settings["model"]), settings["blocks"])
    return Job(
        job=JobSpec(name="peers", rounds=settings["rounds"], seed=settings["seed"]),
        model=ModelSpec(path=str(model)),
        data=DataSpec(
            train=rows.train, test=rows.test, labels=rows.labels, max_tokens=settings["tokens"]
        ),
        sites=SitesSpec(names=SITES, partition="dirichlet", alpha=5.0),
        tuning=TuningSpec(lora=LoraSpec(rank=8)),
        train=TrainSpec(
            steps_per_round=settings["steps"], batch_size=8, learning_rate=settings["rate"]
        ),
    )


def _changed(job: Job, /, **sections: Mapping[str, Any]) -> Job:
    """The same job with other values in some sections."""
    values = job.model_dump(exclude_unset=True)
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Job.model_validate(values)


# --- sealtune -----------------------------------------------------------------------------------


class _Counted(Objects):
    """Notes what has been spent when the last round ends."""

    last = 0
    spent: tuple[float, int, int] = (0.0, 0, 0)

    def emit(self, event: Event) -> None:
        """Keep an event."""
        super().emit(event)
        said = event.fields()
        if said["event"] == "round" and said["round"] == self.last:
            self.spent = (time.process_time(), self.up, self.down)


def _sealtune(job: Job, folder: Path) -> Cost:
    objects = _Counted(job, folder / "run")
    objects.last = job.job.rounds
    server, begun = objects.server(), time.process_time()
    objects.carry(server)
    end, up, down = objects.spent
    final = objects.of("final")[-1]
    return Cost(end - begun, up, down, final["correct"], final["total"])


def masked(job: Job, folder: Path) -> Cost:
    """Method 1: a small enclave at each site, an accelerator that nobody trusts."""
    return _sealtune(job, folder)


def enclave(job: Job, folder: Path) -> Cost:
    """The whole model in each site's enclave."""
    return _sealtune(_changed(job, protection={"compute": "enclave"}), folder)


def secure_aggregation(job: Job, folder: Path) -> Cost:
    """No enclave."""
    trust = {"trust": "secure-aggregation"}
    return _sealtune(_changed(job, job=trust, aggregation={"norm_bound": "none"}), folder)


def split(job: Job, folder: Path) -> Cost:
    """Method 2: one enclave trains behind the cut, as many steps as all sites together."""
    steps = job.train.steps_per_round
    assert isinstance(steps, int)
    sections = {"job": {"method": "split"}, "split": {"cut": 0.5},
                "train": {"steps_per_round": steps * len(SITES)}}  # fmt: skip
    return _sealtune(_changed(job, **sections), folder)


# --- peers --------------------------------------------------------------------------------------


class _Plain:
    """Sites that train with plain PEFT, each with a model of its own."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.benches = {site: Workbench(job) for site in SITES}
        first = self.benches[SITES[0]]
        self.initial = first.initial
        self.rows = {site: len(data.train) for site, data in first.sites.items()}

    def train(self, site: str, state: State, number: int) -> State:
        """A round at a site."""
        steps, bench = self.job.train.steps_per_round, self.benches[site]
        assert isinstance(steps, int)
        return bench.train(
            state, bench.sites[site].train, round=number, site=site, steps=steps,
            first=(number - 1) * steps, on_step=lambda info: None,
        )[0]  # fmt: skip

    def test(self, state: State) -> tuple[int, int]:
        """Right answers of all, over every site's rows."""
        found = self.benches[SITES[0]].test(state).values()
        return sum(one.correct for one in found), sum(one.total for one in found)


def _flower(job: Job, *, secure: bool) -> Cost:
    from peers_flower import Arrays, fly

    plain = _Plain(job)
    names = list(plain.initial)

    def train(site: str, arrays: Arrays, number: int) -> tuple[Arrays, int]:
        given = {n: _tensor(array) for n, array in zip(names, arrays, strict=True)}
        after = plain.train(site, given, number)
        return [after[name].numpy() for name in names], plain.rows[site]

    begun = time.process_time()
    plain.test(plain.initial)
    initial = [plain.initial[name].numpy() for name in names]
    flown = fly(SITES, initial, train, job.job.rounds, secure=secure)
    seconds = time.process_time() - begun
    adapter = {n: _tensor(array) for n, array in zip(names, flown.adapter, strict=True)}
    return Cost(seconds, flown.up, flown.down, *plain.test(adapter))


def _tensor(array: Any) -> torch.Tensor:
    """A copy; SecAgg+ gives back float64."""
    return torch.from_numpy(array.astype(np.float32))


def flower(job: Job, folder: Path) -> Cost:
    """Flower's FedAvg: the server reads every update."""
    return _flower(job, secure=False)


def flower_secaggplus(job: Job, folder: Path) -> Cost:
    """Flower's SecAgg+."""
    return _flower(job, secure=True)


def ckks(job: Job, folder: Path) -> Cost:
    """The server adds ciphertexts."""
    from peers_ckks import Ckks

    plain = _Plain(job)
    like = plain.initial

    def flat(state: State) -> Any:
        return np.concatenate([t.numpy().ravel() for t in state.values()]).astype(np.float64)

    def whole(vector: Any) -> State:
        pieces = torch.from_numpy(vector).float().split([t.numel() for t in like.values()])
        shaped = zip(like.items(), pieces, strict=True)
        return {name: piece.view(tensor.shape) for (name, tensor), piece in shaped}

    begun = time.process_time()
    plain.test(like)
    federation, adapter = Ckks(plain.rows), flat(like)
    for number in range(1, job.job.rounds + 1):
        adapter = federation.round(
            adapter, number, lambda site, vector, n: flat(plain.train(site, whole(vector), n))
        )
    seconds = time.process_time() - begun
    return Cost(seconds, federation.up, federation.down, *plain.test(whole(adapter)))


WAYS: Mapping[str, Callable[[Job, Path], Cost]] = {
    way.__name__: way
    for way in (flower, flower_secaggplus, ckks, enclave, masked, secure_aggregation, split)
}


def main() -> None:
    """One of them; the figures are the last line."""
    settings = json.loads(sys.argv[1])
    logging.disable(logging.INFO)  # Flower's
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        job, idle = make_job(settings, Path(name)), peak_mib()
        cost = WAYS[settings["way"]](job, Path(name))
    figures = asdict(cost) | {"seconds": round(cost.seconds, 2), "mib": round(peak_mib() - idle)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
