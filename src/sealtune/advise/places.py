"""Where a site's frozen layers could be computed: each way's training step, measured here.

    places = measure_places(job, shape, batch, variables)
    best = choose_place(places, memory_gib)

Miniatures are trained for five seconds in a process of their own (``measure``); a step of the whole
model takes as many times as long as it has more blocks, tokens and vocabulary.

Trust domain: operator.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealtune.advise.costs import Batch, step_work
from sealtune.advise.shape import Shape, read_shape
from sealtune.errors import ModelError
from sealtune.job.printable import printable
from sealtune.job.sections import TuningSpec
from sealtune.job.spec import Job

_SMALL = 20_000_000  # parameters of a block of which two are timed, otherwise one
_FLOPS = 12e9  # of a timed step on each core
_VALUES = 1 << 24  # of the timed part of an output matrix
_PATIENCE = 300.0  # seconds


@dataclass(frozen=True)
class Place:
    """One way to compute a site's training step.

    Attributes:
        name: for people.
        setting: what the job file says for it.
        needs: what must be there and be trusted, besides the site's enclave.
        seconds: of a step, by piece; ``pads`` on top if they are made within the step.
        precision: of the enclave's own arithmetic.
        cpu: seconds of processor time of a step, the accelerator's included.
    """

    name: str
    setting: str
    needs: str
    seconds: Mapping[str, float]
    precision: str
    cpu: float

    @property
    def step(self) -> float:
        """Seconds of a step in a long run."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Measured:
    """What ``measure`` printed, and how much larger the job is.

    Attributes:
        parts: way -> seconds of its pieces.
        blocks: times that a miniature's blocks make the model's, tokens included.
        head: times that a miniature's output matrix makes the model's.
        of: blocks of the miniature.
    """

    parts: Mapping[str, Mapping[str, float]]
    blocks: float
    head: float
    of: int

    def step(self, device: str, clock: str = "step") -> float:
        """A step in one place, without an accelerator: such as ``cpu/fp32``.

        Args:
            device: place and precision.
            clock: ``cpu`` for processor time.
        """
        return self.body(device, clock) + self.head_seconds(device, clock)

    def body(self, way: str, clock: str = "step") -> float:
        """All blocks of a step."""
        return self.parts[f"body/{way}"][clock] * self.blocks

    def head_seconds(self, device: str, clock: str = "step") -> float:
        """Output matrix and loss."""
        body, both = (self.parts[f"{part}/{device}"][clock] for part in ("body", "head"))
        return max(0.0, both - body / self.of) * self.head

    def pieces(self, way: str) -> dict[str, float]:
        """Seconds of a masked step by piece, the loss left out."""
        found = {key: value * self.blocks for key, value in self.parts[f"body/{way}"].items()}
        step = found.pop("step")
        del found["cpu"]
        return {"rest": step - sum(found.values()), **found}


def measure_places(job: Job, shape: Shape, batch: Batch, variables: Mapping[str, str]) -> Measured:
    """Train miniatures of ``job``'s model on this machine.

    Args:
        job: its model is a folder.
        shape: of its model.
        batch: of a mean training step.
        variables: environment of a site's enclave.

    Raises:
        ModelError: the miniature cannot be made or trained.
    """
    settings = _settings(job, shape, batch)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "settings.json"
        path.write_text(json.dumps(settings))
        command = [sys.executable, "-I", "-B", "-m", "sealtune.advise.measure", str(path)]
        try:
            done = subprocess.run(
                command, env=dict(variables), capture_output=True, text=True, check=True,
                timeout=_PATIENCE,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise ModelError(
                f"a small model of this make cannot be timed: {printable(said[-1][:300])}",
                hint="--no-probe leaves it out",
            ) from error
    found = json.loads(done.stdout.splitlines()[-1])
    return scale(found, job, shape, batch)


def _settings(job: Job, shape: Shape, batch: Batch) -> dict[str, Any]:
    size = max(shape.sizes)
    blocks = min(2 if size < _SMALL else 1, len(shape.sizes))
    cores = len(os.sched_getaffinity(0))
    tokens = min(batch.tokens, max(64.0, cores * _FLOPS / (4.0 * size * blocks)))
    length = max(8, round(batch.length))
    return {
        "model": {"path": job.model.path, "task": "causal-lm"},
        "tuning": job.tuning.model_dump(mode="json", exclude={"lora": {"layers", "ranks"}}),
        "precision": job.train.precision,
        "blocks": blocks,
        "vocabulary": min(shape.vocabulary, max(256, _VALUES // shape.width)),
        "rows": max(1, round(tokens / length)),
        "length": length,
    }


def scale(found: Mapping[str, Any], job: Job, shape: Shape, batch: Batch) -> Measured:
    """How much larger ``job``'s step is than what was timed, by operations of its blocks."""
    timed = Batch(found["rows"] * found["length"], found["length"])
    more = batch.tokens / timed.tokens
    every = TuningSpec.model_validate(found["tuning"])  # of every block
    model = job.model.model_copy(update={"task": "causal-lm"})
    inside = job.model_copy(update={"tuning": every, "model": model})
    one = _block_flops(read_shape(inside, None), timed, found["blocks"])
    all_ = _block_flops(shape, batch, len(shape.sizes))
    head = more * shape.vocabulary / found["vocabulary"] if shape.head_per_token else 0.0
    return Measured(found["parts"], all_ / one, head, found["blocks"])


def _block_flops(shape: Shape, batch: Batch, blocks: int) -> float:
    """Of a training step in the last blocks."""
    whole, rest = step_work(shape, batch), shape.outside
    outside = batch.tokens * (
        rest.forward.fixed + rest.backward.fixed
        + batch.length * (rest.forward.each + rest.backward.each)
    )  # fmt: skip
    return (whole.flops - outside) * blocks / len(shape.sizes)


def places_of(measured: Measured, job: Job) -> list[Place]:
    """Every way that was measured."""
    precision = job.train.precision
    own = f"cpu/{precision if precision == 'bf16' else 'fp32'}"
    head, head_cpu = measured.head_seconds(own), measured.head_seconds(own, "cpu")
    ahead, inline = measured.pieces("masked"), measured.pieces("inline")
    online = {
        "enclave": ahead["rest"] + ahead["passes"] + head,
        "accelerator": ahead["accelerator"],
    }
    pads = max(0.0, sum(inline.values()) - sum(ahead.values()))
    found = [
        Place("masked", 'compute = "masked"', "an accelerator that learns nothing",
              {**online, "pads": pads}, precision, measured.body("inline", "cpu") + head_cpu),
        Place("second accelerator", 'pads = "second-accelerator"',
              "two accelerators of operators who do not collude", online, precision,
              measured.body("masked", "cpu") + head_cpu),
        Place("enclave", 'compute = "enclave"', "nothing else",
              {"enclave": measured.step("cpu/fp32")}, "fp32", measured.step("cpu/fp32", "cpu")),
        Place("enclave, bf16", 'compute = "enclave", train.precision = "bf16"',
              "nothing else", {"enclave": measured.step("cpu/bf16")}, "bf16",
              measured.step("cpu/bf16", "cpu")),
    ]  # fmt: skip
    if "body/cuda/bf16" in measured.parts:
        gpu = {"enclave": measured.step("cuda/bf16")}
        needs = "an NVIDIA GPU in confidential mode"
        setting = 'compute = "attested-gpu", train.precision = "bf16"'
        spent = measured.step("cuda/bf16", "cpu")
        found.append(Place("attested GPU", setting, needs, gpu, "bf16", spent))
    return found


def fastest(places: Sequence[Place], precision: str) -> Place:
    """The fastest in a job's own precision; the others change its numbers."""
    same = [place for place in places if place.precision == precision]
    return min(same or places, key=lambda place: place.step)
