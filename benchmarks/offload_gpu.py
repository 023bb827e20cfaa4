"""The part of ``benchmarks/offload.py`` for one GPU: ``--gpu``; with ``--tiny`` a CPU stands in.

Nothing is fetched or prepared: models have random weights in the shape of a 1.0B Llama and of six
blocks of an 8B one; a step has 2,048 tokens. Whatever fails says so under its own key.

Keys: ``gpu_speedup_1b``, ``gpu_speedup_8b`` = enclave_bf16 / online (pads made beforehand),
``gpu_total_speedup_1b``, ``gpu_total_speedup_8b`` = enclave_bf16 / total (everything that a second
accelerator does for pads included), ``gpu_attested_ratio`` = a step of the product on the GPU over
plain PEFT's there (the worse of the shapes), ``gpu_shapes_wrong`` = of 200 shapes of ring products
on the GPU, those that differ from the CPU's. ``seconds`` and ``seconds_spread`` have the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offload_driver import Figures, Stage, middle, processor, quartiles, ratio, rounds

SHAPES: dict[str, dict[str, int]] = {
    "1b": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 4096,
    },
    "8b": {
        "hidden_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 4096,
    },
}  # fmt: skip
TINY: dict[str, dict[str, int]] = {
    name: {
        "hidden_size": 64, "num_hidden_layers": blocks, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 512,
    }
    for name, blocks in (("1b", 3), ("8b", 2))
}  # fmt: skip
SECONDS = 285.0  # of the five minutes
_ROUNDS = 5
_AHEAD = 1 << 14  # MiB of pads: a whole step's


class Shape:
    """All ways to do one model's step."""

    def __init__(self, name: str, stage: Stage, base: Figures, device: str) -> None:
        self.name, self.stage, self.base, self.device = name, stage, base, device
        self.seconds: dict[str, list[Figures]] = {}

    def start(self, until: float) -> None:
        """Start every process; those that fail are left out and say why."""
        plan = json.loads(Path(self.base["plan"]).read_text())
        address = self.stage.accelerator(plan, self.device)
        bf16 = {**self.base, "precision": "bf16"}
        on_gpu = {**bf16, "device": self.device}
        masked = {**self.base, "way": "masked", "accelerator": address, "pad_budget": _AHEAD}
        self.stage.party("masked", masked)
        second = self.stage.pad_accelerator(plan, self.device)
        self.stage.party("second", {**masked, "second": second})
        self.stage.party("enclave_bf16", {**bf16, "way": "placed"})
        self.stage.party("attested", {**on_gpu, "way": "placed"})
        self.stage.party("gpu", {**on_gpu, "way": "plain", "adapter": "fp32"})
        for process in list(self.stage.processes.values()):
            self.stage.expect_ready(process, until)

    def measure(self, until: float) -> None:
        """Interleaved rounds of whatever has started."""
        there = [n for n in self.stage.processes if n not in self.stage.accelerators]
        ways: dict[str, Callable[[], Figures]] = {
            name: lambda name=name: self._step(name) for name in there
        }
        self.seconds = rounds(ways, _ROUNDS, until)

    def _step(self, name: str) -> Figures:
        process = self.stage.processes[name]
        made = process.ask("rest")["pads"] if name == "masked" else 0.0
        burst: Figures = {"what": "burst", "count": 2} if name == "second" else {"what": "step"}
        return process.ask(**burst) | {"pads_ahead": made}

    def walls(self, name: str) -> list[float]:
        """Seconds of a way's steps."""
        return [s["wall"] for s in self.seconds[name]]


class GpuBenchmark:
    """Everything for ``--gpu``."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.folder, self.until = folder, time.monotonic() + SECONDS
        self.tiny = options.tiny
        self.device = "cpu" if options.tiny else "cuda"
        self.shapes = TINY if options.tiny else SHAPES
        self.batch, self.length = (2, 16) if options.tiny else (8, 256)
        self.found: Figures = {
            **{f"gpu_{what}_{n}": None for what in ("speedup", "total_speedup") for n in SHAPES},
            "gpu_attested_ratio": None,
            "gpu_shapes_wrong": None,
            "missing": {}, "spread": {}, "seconds": {}, "seconds_spread": {}, "pieces": {},
            "took": {},
        }  # fmt: skip

    def attempt(self, what: str, keys: str, part: Callable[[], None]) -> None:
        """Run a part; if it fails, its keys say why and the rest goes on."""
        begun = time.monotonic()
        try:
            part()
        except Exception as error:
            for key in keys.split():
                self.found["missing"][key] = f"{type(error).__name__}: {error}"[:500]
        self.found["took"][what] = round(time.monotonic() - begun, 1)

    def build(self) -> None:
        """Build the package's own extension with the system's compiler."""
        from sealtune.native.build import build

        self.found["native"] = build().name

    def sweep(self) -> None:
        """Exactness over 200 shapes."""
        command = [sys.executable, str(Path(__file__).with_name("offload_shapes.py")), self.device]
        command += ["--tiny"] if self.tiny else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-500:])
        found = json.loads(done.stdout.splitlines()[-1])
        self.found["gpu_shapes_wrong"] = found["wrong"]
        self.found["shapes"] = found

    def models(self) -> None:
        """Both models, side by side."""
        with Stage(self.folder) as stage:
            for name, shape in self.shapes.items():
                stage.maker(f"model-{name}", {**self.base(name), "shape": shape})
            for name, process in stage.processes.items():
                self.found["took"][name] = process.read(self.left())

    def base(self, name: str) -> Figures:
        """What all processes of one shape are told."""
        folder = self.folder / name
        return {
            "model": str(folder), "plan": f"{folder}.plan", "tokens": f"{folder}.tokens",
            "batch": self.batch, "length": self.length,
        }  # fmt: skip

    def left(self) -> float:
        """Seconds of the budget, at least one."""
        return max(1.0, self.until - time.monotonic())

    def shape(self, name: str, until: float) -> None:
        """Start, measure and stop one shape; take its figures."""
        folder = self.folder / f"run-{name}"
        folder.mkdir()
        with Stage(folder) as stage:
            shape = Shape(name, stage, self.base(name), self.device)
            shape.start(until)
            shape.measure(until)
            self.take(shape)
            self.found["missing"] |= {f"{key}_{name}": why for key, why in stage.missing.items()}

    def take(self, shape: Shape) -> None:
        """Ratios and seconds of one shape."""
        name = shape.name
        for way, values in shape.seconds.items():
            walls = [value["wall"] for value in values]
            self.found["seconds"][f"{way}_{name}"] = middle(walls)
            self.found["seconds_spread"][f"{way}_{name}"] = quartiles(walls)
            if way in ("masked", "second"):
                keys = sorted(values[0].keys() - {"wall", "cpu", "loss"})
                pieces = {key: middle([value[key] for value in values]) for key in keys}
                self.found["pieces"][f"{way}_{name}"] = pieces
        inside = "enclave_bf16"
        self._ratio(shape, f"gpu_speedup_{name}", inside, "masked")
        self._ratio(shape, f"gpu_total_speedup_{name}", inside, "second")
        if {"attested", "gpu"} <= shape.seconds.keys():
            attested, known = ratio(shape.walls("attested"), shape.walls("gpu"))
            if attested > (self.found["gpu_attested_ratio"] or 0.0):
                self.found["gpu_attested_ratio"] = attested
                self.found["spread"]["gpu_attested_ratio"] = known

    def _ratio(self, shape: Shape, key: str, above: str, below: str) -> None:
        if {above, below} <= shape.seconds.keys():
            found = ratio(shape.walls(above), shape.walls(below))
            self.found[key], self.found["spread"][key] = found


def measure_gpu(options: argparse.Namespace) -> Figures:
    """All of it, within the time."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["SEALTUNE_CACHE"] = f"{name}/cache"
        benchmark = GpuBenchmark(options, Path(name))
        names = list(benchmark.shapes)
        every = " ".join(f"gpu_{what}_{n}" for what in ("speedup", "total_speedup") for n in names)
        benchmark.attempt("build", "native", benchmark.build)
        benchmark.attempt("shapes", "gpu_shapes_wrong", benchmark.sweep)
        benchmark.attempt("models", every, benchmark.models)
        for number, each in enumerate(names):
            until = time.monotonic() + benchmark.left() / (len(names) - number)
            keys = f"gpu_speedup_{each} gpu_total_speedup_{each} gpu_attested_ratio"
            benchmark.attempt(each, keys, lambda e=each, u=until: benchmark.shape(e, u))
    return benchmark.found | processor() | device()


def device() -> Figures:
    """The GPU and the libraries, asked in a process of its own."""
    code = (
        "import json, torch, transformers, peft\n"
        "there = torch.cuda.is_available()\n"
        "print(json.dumps({'gpu': torch.cuda.get_device_name() if there else None,"
        " 'torch': torch.__version__, 'transformers': transformers.__version__,"
        " 'peft': peft.__version__}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    found: Any = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    return dict(found)
