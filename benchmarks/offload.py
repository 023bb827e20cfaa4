"""Masked offload against plain PEFT: one training step, every way in processes of its own.

    python benchmarks/offload.py             # 8 x 64 tokens, 12 rounds; needs demo/ (make demo)
    python benchmarks/offload.py --quick --json             # within 4 minutes on 2 cores
    python benchmarks/offload.py --gpu --json               # one GPU, see offload_gpu.py

The same step (LoRA r=8 on q, k, v, o; causal language modelling on running text; AdamW left out, it
is the same everywhere) is done in turns:

    online        a site's enclave and an accelerator, as `sealtune run` starts them, with all pads
                  made while it rested (``pads`` is what that took)
    total         the same with every pad made within the step, while the accelerator works
    small         as total, with ``train.checkpointing``: the least memory
    second        as small, with pads from a second accelerator on the same cores, step after step
    enclave_bf16  the site's enclave computes everything, in bfloat16
    fp32          transformers and PEFT alone, float32
    bf16          the same with base and adapter in bfloat16

All have the environment that `sealtune run` gives an enclave. Ratios are medians over interleaved
rounds, with their quartiles in ``spread``.

Keys of the JSON line: ``online_ratio`` = online / fp32, ``total_ratio`` = total / fp32,
``online_cpu_ratio``, ``total_cpu_ratio`` = the same of processor time, the accelerator's included;
``bf16_online_ratio`` = online / bf16, ``grad_rel_err`` = relative error of one step's gradient
against the same int8 weights unmasked (both float32), ``integrity_share`` = the check's share of
the online step's processor time, ``enclave_peak_mib``, ``enclave_peak_mib_second`` and
``enclave_peak_mib_fast`` = peak memory of the enclave's process in small, second and total,
release included; what the first two cost is ``small_ratio`` and ``second_ratio``, over fp32.
``slalom_speedup`` = the products of a Slalom-style
scheme over ours, ``advise_worst_ratio`` = seconds that `sealtune advise` says over those measured
here, the farthest from 1; ``advise_worst_cpu_ratio`` the same of processor time, a pad
accelerator's left out. A key that has no figure is null; ``missing`` says why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from offload_driver import Figures, PartyError, Stage, middle, processor, quartiles, ratio, rounds
from offload_gpu import measure_gpu
from sealtune.launch.environment import variables
from sealtune.launch.threads import cores, thread_settings

_NO_PIECES = {"wall", "cpu", "cpu_accelerator", "loss", "pads_ahead"}
_AHEAD = 2048  # MiB of pads: a whole step's
_KEYS = (
    "online_ratio", "total_ratio", "grad_rel_err", "integrity_share", "enclave_peak_mib",
    "enclave_peak_mib_second", "enclave_peak_mib_fast", "slalom_speedup", "advise_worst_ratio",
    "bf16_online_ratio", "small_ratio", "second_ratio",
)  # fmt: skip

# key -> the way whose enclave it is of
_PEAKS = {
    "enclave_peak_mib": "small",
    "enclave_peak_mib_second": "second",
    "enclave_peak_mib_fast": "masked",
}


class Benchmark:
    """The measurement on processors alone."""

    def __init__(self, options: argparse.Namespace, stage: Stage) -> None:
        self.options, self.stage = options, stage
        self.found: Figures = dict.fromkeys(_KEYS)
        self.missing: dict[str, str] = {}

    def prepare(self) -> None:
        """Plan and tokens, then every process."""
        from offload_party import job_values
        from sealtune.job.spec import Job
        from sealtune.plan.masked import make_plan

        options, folder = self.options, self.stage.folder
        base = {"model": options.model, "tokens": str(folder / "tokens.json"), "tokenizer": True}
        plan = make_plan(Job.model_validate(job_values(base)), None)
        (folder / "plan.json").write_text(plan.model_dump_json())
        (folder / "tokens.json").write_text(json.dumps(read_text(options)))
        base["plan"] = str(folder / "plan.json")
        address = self.stage.accelerator(plan.model_dump(mode="json"))
        site = {**base, "program": "site-enclave"}
        masked = {**site, "way": "masked", "accelerator": address}
        self.stage.party("masked", masked)
        self.stage.party("ahead", {**masked, "pad_budget": _AHEAD})
        second = self.stage.pad_accelerator(plan.model_dump(mode="json"))
        small = {**masked, "sections": {"train": {"checkpointing": True}}}
        self.stage.party("small", small)
        self.stage.party("second", {**small, "second": second})
        self.stage.party("enclave_bf16", {**site, "way": "placed", "precision": "bf16"})
        self.stage.party("fp32", {**base, "way": "plain", "precision": "fp32"})
        self.stage.party("bf16", {**base, "way": "plain", "precision": "bf16"})
        for name, process in list(self.stage.processes.items()):
            ready = self.stage.expect_ready(process, time.monotonic() + 240)
            if ready is not None and name == "masked":
                self.found |= {key: ready[key] for key in ("threads", "instructions")}
        self.missing |= self.stage.missing

    def steps(self) -> None:
        """Interleaved rounds and the ratios."""
        wanted = ("masked", "ahead", "small", "second", "enclave_bf16", "fp32", "bf16")
        names = [name for name in wanted if name in self.stage.processes]
        ways = {name: lambda name=name: self._step(name) for name in names}
        seconds = rounds(ways, self.options.rounds, self.options.until - 110)
        walls = {name: [s["wall"] for s in values] for name, values in seconds.items()}
        walls["online"], walls["total"] = walls.pop("ahead"), walls.pop("masked")
        walls["pads"] = [s["pads_ahead"] for s in seconds["ahead"]]
        spread: Figures = {}
        for key, above, below in (
            ("online_ratio", "online", "fp32"),
            ("total_ratio", "total", "fp32"),
            ("bf16_online_ratio", "online", "bf16"),
            ("enclave_bf16_ratio", "enclave_bf16", "fp32"),
            ("small_ratio", "small", "fp32"),
            ("second_ratio", "second", "fp32"),
        ):
            if above in walls:
                self.found[key], spread[key] = ratio(walls[above], walls[below])
        self.found["spread"] = spread
        self.found["seconds"] = {key: middle(value) for key, value in walls.items()}
        self.found["seconds_spread"] = {key: quartiles(value) for key, value in walls.items()}
        masked = {"online": seconds["ahead"], "total": seconds["masked"]}
        self.found["pieces"] = {name: self._pieces(steps) for name, steps in masked.items()}
        if "second" in seconds:
            masked["second"] = seconds["second"]
        spent = {name: [s["cpu"] for s in values] for name, values in seconds.items()}
        for name, steps in masked.items():  # both sides; others' jobs on the machine change it less
            both = [s["cpu"] + s["cpu_accelerator"] for s in steps]
            self.found[f"{name}_cpu_ratio"], spread[f"{name}_cpu_ratio"] = ratio(
                both, spent["fp32"]
            )
            spent[name] = both
        self.found["cpu_seconds"] = {name: middle(values) for name, values in spent.items()}
        self.found["rounds"] = len(walls["online"])

    def _pieces(self, steps: list[Figures]) -> Figures:
        """Median seconds of a masked step by piece; ``rest`` is what else the enclave does."""
        keys = steps[0].keys() - _NO_PIECES
        rest = middle([s["wall"] - sum(s[key] for key in keys) for s in steps])
        return {key: middle([s[key] for s in steps]) for key in sorted(keys)} | {"rest": rest}

    def _step(self, name: str) -> Figures:
        made = self.stage.processes[name].ask("rest") if name == "ahead" else {"pads": 0.0}
        before = self.stage.cpu_seconds("accelerator")
        burst: Figures = {"what": "burst", "count": 2} if name == "second" else {"what": "step"}
        found = self.stage.processes[name].ask(**burst) | {"pads_ahead": made["pads"]}
        spent = (self.stage.cpu_seconds("accelerator") - before) / burst.get("count", 1)
        return found | {"cpu_accelerator": spent}

    def gradient(self) -> None:
        """The masked step's gradient against the unmasked one's."""
        import numpy as np

        masked, plain = (self.stage.processes[name] for name in ("masked", "fp32"))
        plain.ask("use_int8")
        paths = [self.stage.folder / f"{name}.npy" for name in ("masked", "fp32")]
        first, second = (
            masked.ask("gradient", path=str(paths[0])),
            plain.ask("gradient", path=str(paths[1])),
        )
        if first["names"] != second["names"]:
            raise PartyError("the two models train different tensors")
        found, expected = (np.load(path, allow_pickle=False) for path in paths)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        self.found["grad_rel_err"] = float(f"{error:.3g}")
        self.found["loss_rel_err"] = abs(first["loss"] - second["loss"]) / second["loss"]

    def memory(self) -> None:
        """Peaks of each masked way's enclave: after its steps, and after its release."""
        for key, name in _PEAKS.items():
            process = self.stage.processes[name]
            self.found[f"{name}_mib"] = process.ask("memory")
            released = process.ask("release")
            self.found[key] = released["peak"]
            self.found[f"{name}_release"] = released["check"]

    def slalom(self) -> None:
        """Another scheme's products against ours."""
        self.found["slalom"] = found = self._script(
            "offload_slalom.py", "--layers", "1", "--seconds", "8"
        )
        self.found["slalom_speedup"] = found["slalom_speedup"]

    def integrity(self) -> None:
        """The check's part of what both sides of an online step spend."""
        config = json.loads((Path(self.options.model) / "config.json").read_text())
        self.found["check"] = found = self._script("offload_check.py", "--rounds", "30")
        check = found["check_cpu_seconds"] * config["num_hidden_layers"]
        self.found["integrity_share"] = round(check / self.found["cpu_seconds"]["online"], 4)

    def _script(self, name: str, *words: str) -> Figures:
        """The JSON line of a program that measures a block's products by themselves."""
        tokens = str(self.options.batch * self.options.length)
        command = [sys.executable, str(Path(__file__).with_name(name)), "--tokens", tokens, *words]
        environment = os.environ | thread_settings("accelerator", 1, cores())
        done = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=180
        )
        found: Figures = json.loads(done.stdout)
        return found

    def advise(self) -> None:
        """What `sealtune advise` says of the same step, over what was measured here."""
        from offload_party import job_values
        from sealtune.advise.costs import Batch
        from sealtune.advise.places import measure_places, places_of
        from sealtune.advise.shape import read_shape
        from sealtune.job.spec import Job

        job = Job.model_validate(job_values({"model": self.options.model}))
        length = self.options.length
        batch = Batch(float(self.options.batch * length), float(length))
        environment = variables(thread_settings("client", 1, cores()))
        measured = measure_places(job, read_shape(job, None), batch, environment)
        said = {place.name: place for place in places_of(measured, job)}
        masked, second, own = (
            said[name] for name in ("masked", "second accelerator", "enclave, bf16")
        )
        # by the clock a second accelerator takes time for pads, too: here it has the same cores
        walls = {"online": second.step, "total": masked.step, "second": masked.step,
                 "enclave_bf16": own.step}  # fmt: skip
        spent = {"online": second.cpu, "total": masked.cpu, "second": second.cpu,
                 "enclave_bf16": own.cpu}  # fmt: skip
        for clock, found, measured in (
            ("", walls, self.found["seconds"]), ("_cpu", spent, self.found["cpu_seconds"]),
        ):  # fmt: skip
            ratios = {key: round(found[key] / measured[key], 3) for key in found if key in measured}
            worst = max(ratios.values(), key=lambda value: max(value, 1 / value))
            self.found[f"advised{clock}_seconds"] = {k: round(v, 4) for k, v in found.items()}
            self.found[f"advise{clock}_ratios"] = ratios
            self.found[f"advise_worst{clock}_ratio"] = worst

    def attempt(self, keys: str, part: str) -> None:
        """Run a part; if it fails, its keys say so and the rest goes on."""
        begun = time.monotonic()
        try:
            getattr(self, part)()
        except Exception as error:
            for key in keys.split():
                self.missing[key] = f"{type(error).__name__}: {error}"[:300]
        self.found.setdefault("took", {})[part] = round(time.monotonic() - begun, 1)


def read_text(options: argparse.Namespace) -> list[list[int]]:
    """[B, T] of running text: random tokens drive the model where no text does."""
    from sealtune.job.spec import ModelSpec
    from sealtune.model.load import load_tokenizer

    count = options.batch * options.length
    tokenizer = load_tokenizer(ModelSpec(path=options.model, task="causal-lm"))
    lines = Path(options.text).read_text(encoding="utf-8").splitlines()[:count]
    text = "\n".join(json.loads(line)["text"] for line in lines)
    ids = tokenizer(text)["input_ids"][:count]
    return [ids[i : i + options.length] for i in range(0, count, options.length)]


def measure(options: argparse.Namespace) -> Figures:
    """All figures on processors alone."""
    with tempfile.TemporaryDirectory() as name, Stage(Path(name)) as stage:
        benchmark = Benchmark(options, stage)
        benchmark.prepare()
        benchmark.attempt("online_ratio total_ratio bf16_online_ratio", "steps")
        benchmark.attempt(" ".join(_PEAKS), "memory")
        benchmark.attempt("grad_rel_err", "gradient")
    benchmark.attempt("advise_worst_ratio", "advise")
    benchmark.attempt("integrity_share", "integrity")
    benchmark.attempt("slalom_speedup", "slalom")
    for key in _KEYS:
        if benchmark.found[key] is None:
            benchmark.missing.setdefault(key, "this version has no such piece")
    shape = {"batch": options.batch, "length": options.length, "model": Path(options.model).name}
    return benchmark.found | {"missing": benchmark.missing} | shape | processor()


def main() -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model", help="folder of the backbone")
    parser.add_argument("--text", default="demo/data/icd10/train.jsonl", help="jsonl with 'text'")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="5 rounds: within 4 minutes")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser.add_argument("--gpu", action="store_true", help="one GPU, nothing prepared: 5 minutes")
    parser.add_argument("--tiny", action="store_true", help="--gpu on a CPU, with tiny models")
    options = parser.parse_args()
    options.until = time.monotonic() + 3600
    if options.quick:
        options.rounds, options.until = 5, time.monotonic() + 225
    result: dict[str, Any] = measure_gpu(options) if options.gpu else measure(options)
    if options.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:24} {value}")


if __name__ == "__main__":
    main()
