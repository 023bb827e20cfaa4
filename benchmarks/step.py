"""One training step: masked offload against plain PEFT, interleaved in one run.

    python benchmarks/step.py             # 8 x 64 tokens, 12 rounds; needs demo/ (make demo)
    python benchmarks/step.py --quick --json                # within 4 minutes on 2 cores

Four ways to do the same step (LoRA r=8 on q, k, v, o; causal language modelling on running text;
AdamW left out, it is the same everywhere):

    online   masked offload to an accelerator process of its own, pads made beforehand
    pads     making those pads in the enclave
    fp32     plain PEFT, one process, float32
    bf16     plain PEFT, one process, base and adapter in bfloat16

Keys of the JSON line: ``online_ratio`` = online / fp32, ``total_ratio`` = (online + pads) / fp32,
``bf16_online_ratio`` = online / bf16, ``grad_rel_err`` = relative error of one step's gradient
against the same int8 weights unmasked. Ratios are medians over interleaved rounds, each with its
quartiles in ``spread``. ``share`` says where the online time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# as `sealtune run` sets it: enclave and accelerator take turns on the same cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from sealtune.job.plan import SlicePlan
from sealtune.job.sections import JobSpec, ProtectionSpec, SitesSpec
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.launch.environment import program
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.trainable import trainable_state
from sealtune.offload.session import OffloadSession
from sealtune.offload.unmasked import use_int8_weights
from sealtune.plan.masked import make_plan
from sealtune.tuning.apply import apply_tuning


def make_job(model: str) -> Job:
    """The job whose step is measured."""
    return Job(
        job=JobSpec(name="step", seed=1),
        model=ModelSpec(path=model, task="causal-lm"),
        data=DataSpec(train=Path("-"), test=Path("-")),
        sites=SitesSpec(names=("one",), partition="label"),
        protection=ProtectionSpec(),
    )


def lora_model(job: Job) -> Any:
    """The plain PEFT model, with B away from zero so that every gradient is alive."""
    model = apply_tuning(load_model(job.model, None), job.tuning, job.model.task, job.job.seed)
    generator = torch.Generator().manual_seed(5)
    for name, tensor in trainable_state(model).items():
        if ".lora_B." in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
    return model


def step(model: Any, ids: torch.Tensor) -> float:
    """Forward, loss, backward; returns the loss."""
    model.zero_grad(set_to_none=True)
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return float(loss.detach())


def gradient(model: Any) -> torch.Tensor:
    """All adapter gradients as one float64 vector."""
    parts = [p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None]
    return torch.cat(parts).double()


def read_tokens(options: argparse.Namespace) -> torch.Tensor:
    """int64 [B, T] of running text: random tokens drive the model where no text does."""
    tokenizer = load_tokenizer(make_job(options.model).model)
    lines = Path(options.text).read_text(encoding="utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines[: options.batch * options.length])
    ids = tokenizer(text)["input_ids"][: options.batch * options.length]
    return torch.tensor(ids).view(options.batch, options.length)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: list[float]) -> list[float]:
    """Lower quartile and upper quartile."""
    low, _, high = statistics.quantiles(values, n=4)
    return [round(low, 3), round(high, 3)]


def start_accelerator(plan: SlicePlan, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The accelerator as `sealtune run` starts it; returns it and its address."""
    address = f"unix:{folder}/a.sock"
    groups = [group.model_dump(mode="json") for group in plan.groups]
    config = {"listen": address, "device": None, "backbone": plan.backbone.path, "groups": groups,
              "prefix_blocks": 0}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    process = subprocess.Popen(
        program("accelerator", str(folder / "config.json")),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = json.loads(process.stdout.readline())
    if line["event"] != "ready":
        raise SystemExit(f"accelerator: {line}")
    return process, address


def measure(
    options: argparse.Namespace, session: OffloadSession, plan: SlicePlan
) -> dict[str, Any]:
    """Interleave the four ways and return the figures."""
    job = make_job(options.model)
    torch.manual_seed(0)
    masked, plain, half = lora_model(job), lora_model(job), lora_model(job).to(torch.bfloat16)
    session.install(masked)
    ids = read_tokens(options)
    seconds: dict[str, list[float]] = {"online": [], "pads": [], "fp32": [], "bf16": []}
    waited: list[float] = []
    for _ in range(options.rounds + 1):  # the first round warms up and is dropped
        before = dict(session.seconds)
        whole = timed(lambda: step(masked, ids))
        spent = {name: session.seconds[name] - before[name] for name in before}
        seconds["pads"].append(spent["pads"])  # made when the step begins
        seconds["online"].append(whole - spent["pads"])
        waited.append(spent["accelerator"])
        seconds["fp32"].append(timed(lambda: step(plain, ids)))
        seconds["bf16"].append(timed(lambda: step(half, ids)))
    seconds = {name: values[1:] for name, values in seconds.items()}

    use_int8_weights(plain, plan)
    loss, reference_loss = step(masked, ids), step(plain, ids)
    found, expected = gradient(masked), gradient(plain)

    def ratios(of: Callable[[int], float], to: str) -> list[float]:
        return [of(i) / seconds[to][i] for i in range(options.rounds)]

    online = ratios(lambda i: seconds["online"][i], "fp32")
    total = ratios(lambda i: seconds["online"][i] + seconds["pads"][i], "fp32")
    bf16 = ratios(lambda i: seconds["online"][i], "bf16")
    accelerator = statistics.median(waited[1:]) / statistics.median(seconds["online"])
    return {
        "online_ratio": round(statistics.median(online), 3),
        "total_ratio": round(statistics.median(total), 3),
        "bf16_online_ratio": round(statistics.median(bf16), 3),
        "grad_rel_err": float((found - expected).norm() / expected.norm()),
        "loss_rel_err": abs(loss - reference_loss) / reference_loss,
        "spread": {"online": spread(online), "total": spread(total), "bf16": spread(bf16)},
        "seconds": {k: round(statistics.median(v), 3) for k, v in seconds.items()},
        "share": {"accelerator": round(accelerator, 3), "enclave": round(1 - accelerator, 3)},
        "batch": options.batch,
        "length": options.length,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
    }


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
    options = parser.parse_args()
    if options.quick:
        options.rounds = 5
    plan = make_plan(make_job(options.model), None)
    with tempfile.TemporaryDirectory() as name:
        process, address = start_accelerator(plan, Path(name))
        try:
            with OffloadSession.connect(address, plan, integrity_bits=40, owner="step") as session:
                result = measure(options, session, plan)
        finally:
            process.terminate()
            process.communicate()
    if options.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:18} {value}")


if __name__ == "__main__":
    main()
