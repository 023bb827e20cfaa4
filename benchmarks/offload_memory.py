"""Peak memory of a site's enclave, phase by phase, for a model of any depth.

    python benchmarks/offload_memory.py --model demo/model                    # 8 x 64 tokens
    python benchmarks/offload_memory.py --depth 3 --checkpointing --json      # three times as deep

A plan, an accelerator and one enclave's process as ``sealtune run`` starts them: its imports, its
packages and its allocator. Phases: ``imports``, ``session`` (weights streamed past their digests),
``loaded`` (model, adapter), ``step`` (forward, loss, backward, AdamW), ``evaluated``, ``released``
(adapter written and compared). Each is the peak up to its end, in MiB; ``resident`` is what is then
left. ``--depth`` repeats the blocks of the given model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SOURCES = HERE.parents[1] / "src"


def values(options: argparse.Namespace, model: str) -> dict[str, Any]:
    """The job."""
    train = {"checkpointing": options.checkpointing}
    return {
        "job": {"name": "memory", "seed": 1},
        "model": {"path": model, "task": "causal-lm"},
        "data": {"train": "-", "test": "-", "max_tokens": 4096},
        "sites": {"names": ["one"], "partition": "label"},
        "protection": {"pad_budget": 0, "protect": options.protect},
        "train": train,
    }


def deepen(source: Path, times: int, target: Path) -> Path:
    """A model whose blocks are those of ``source``, several times over."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    blocks = config["num_hidden_layers"]
    config["num_hidden_layers"] = blocks * times
    tensors = {}
    with safe_open(source / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            before, _, rest = name.partition("layers.")
            number, _, rest = rest.partition(".")
            for i in range(times if rest else 1):
                new = f"{before}layers.{int(number) + i * blocks}.{rest}" if rest else name
                tensors[new] = file.get_tensor(name)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for path in source.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (target / path.name).symlink_to(path.resolve())
    (target / "config.json").write_text(json.dumps(config))
    return target


def enclave(settings: dict[str, Any]) -> None:  # noqa: PLR0915
    """The child: what a site's enclave does, without a server."""
    from sealtune.memory import peak_mib

    found: dict[str, Any] = {}

    def phase(name: str) -> None:
        resident = Path("/proc/self/statm").read_text().split()[1]
        found[name] = peak_mib()
        found.setdefault("resident", {})[name] = round(int(resident) / 256, 1)

    import torch

    import sealtune.enclave.client  # noqa: F401  what the program loads
    from sealtune.job.plan import SlicePlan
    from sealtune.job.spec import Job
    from sealtune.memory import give_back_freed
    from sealtune.model.checkpointing import compute_blocks_again
    from sealtune.model.load import load_tokenizer
    from sealtune.model.rest import load_rest
    from sealtune.model.tasks import task_of
    from sealtune.model.texts import Batch
    from sealtune.model.trainable import trainable_state
    from sealtune.model.training import make_optimizer
    from sealtune.offload.session import OffloadSession
    from sealtune.tuning.apply import apply_tuning

    job = Job.model_validate(settings["job"])
    plan = SlicePlan.model_validate_json(Path(settings["plan"]).read_bytes())
    task = task_of(job, (), load_tokenizer(job.model))
    phase("imports")
    with OffloadSession.connect(
        settings["accelerator"], plan, integrity_bits=40, owner="m/one", patience=120.0
    ) as session:
        phase("session")
        if settings["checkpointing"]:
            give_back_freed()
        base = load_rest(job.model, None, plan)
        model = apply_tuning(base, job.tuning, job.model.task, job.job.seed)
        if settings["checkpointing"]:
            compute_blocks_again(base)
        for name, tensor in trainable_state(model).items():
            if ".lora_B." in name:
                tensor.normal_(0, 0.02)
        session.install(model)
        phase("loaded")
        ids = torch.tensor(settings["tokens"])
        batch = Batch(ids, torch.full((len(ids),), ids.shape[1]), None)
        optimizer = make_optimizer(model, job.train)
        losses = []
        for number in range(settings["steps"]):
            model.train()
            optimizer.zero_grad(set_to_none=True)
            loss = task.loss(model, batch)
            if not number:
                phase("forward")
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        optimizer.zero_grad(set_to_none=True)
        del loss, optimizer  # as ``local_round`` leaves it
        phase("step")
        with torch.no_grad():
            task.outcome(model.eval(), batch)
        phase("evaluated")
        release(job, plan, model, batch, Path(settings["folder"]))
        phase("released")
    found["losses"] = losses
    print(json.dumps(found))


def release(job: Any, plan: Any, model: Any, batch: Any, folder: Path) -> None:
    """Write the adapter, and compare the written with the live one."""
    from sealtune.model.files import model_digest
    from sealtune.tuning.adapter import Fingerprint
    from sealtune.tuning.folder import check_export, save_adapter

    fingerprint = Fingerprint(
        tuning=("lora",), base_model=job.model.path, base_model_digest=model_digest(job.model),
        job_id="0" * 96, task=job.model.task, labels=(), template=job.data.template,
        max_tokens=job.data.max_tokens, seed=1, rounds=1, versions={},
    )  # fmt: skip
    save_adapter(folder / "adapter", model, fingerprint)
    check_export(folder / "adapter", model.eval(), batch, elsewhere=plan.quantised)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Plan, accelerator, enclave."""
    import torch

    from sealtune.job.spec import Job
    from sealtune.launch.environment import program, variables
    from sealtune.launch.threads import cores, thread_settings
    from sealtune.plan.masked import make_plan

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Path(options.model)
        model = deepen(source, options.depth, folder / "model") if options.depth > 1 else source
        job = values(options, str(model))
        plan = make_plan(Job.model_validate(job), None)
        (folder / "plan.json").write_text(plan.model_dump_json())
        address = f"unix:{folder}/a.sock"
        config = {"listen": address, "device": None, "backbone": plan.backbone.path,
                  "groups": [g.model_dump(mode="json") for g in plan.groups],
                  "prefix_blocks": 0}  # fmt: skip
        (folder / "a.json").write_text(json.dumps(config))
        environment = variables(thread_settings("client", 1, cores()))
        generator = torch.Generator().manual_seed(3)
        tokens = torch.randint(3, 40000, (options.batch, options.length), generator=generator)
        settings = {
            "job": job, "plan": str(folder / "plan.json"), "accelerator": address,
            "tokens": tokens.tolist(), "folder": name, "checkpointing": options.checkpointing,
            "steps": options.steps,
        }  # fmt: skip
        (folder / "enclave.json").write_text(json.dumps(settings))
        accelerator = subprocess.Popen(
            program("accelerator", str(folder / "a.json")), stdout=subprocess.PIPE, env=environment
        )
        try:
            assert accelerator.stdout is not None
            accelerator.stdout.readline()
            child = subprocess.run(
                [sys.executable, "-I", "-B", str(HERE), "--enclave", str(folder / "enclave.json")],
                stdout=subprocess.PIPE, check=True, env=environment,
            )  # fmt: skip
        finally:
            accelerator.terminate()
            accelerator.communicate()
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found | planned(options, job, found["step"])


def planned(options: argparse.Namespace, job: dict[str, Any], measured: float) -> dict[str, Any]:
    """What ``sealtune plan`` says of the same step, and how far off it is."""
    from sealtune.advise.costs import MIB, Batch
    from sealtune.advise.enclave_memory import enclave_parts
    from sealtune.advise.shape import read_shape
    from sealtune.job.spec import Job

    parsed = Job.model_validate(job)
    batch = Batch(options.batch * options.length, options.length)
    parts = enclave_parts(read_shape(parsed, None), batch, parsed)
    total = sum(parts.values()) / MIB
    return {
        "planned": {what: round(size / MIB, 1) for what, size in parts.items()},
        "planned_mib": round(total, 1),
        "planned_over_measured": round(total / measured, 3),
    }


def main() -> None:
    """Parse options, measure, print; or be the enclave's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model", help="folder of the backbone")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--depth", type=int, default=1, help="times as deep")
    parser.add_argument("--checkpointing", action="store_true", help="train.checkpointing")
    parser.add_argument(
        "--protect", choices=("adapter+data", "insecure-none"), default="adapter+data",
        help="insecure-none: no pads, so no int8 weights, as with a second accelerator",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser.add_argument("--enclave", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.enclave:
        sys.path.insert(0, str(SOURCES / "sealtune"))
        import start

        start.enter("site-enclave")
        enclave(json.loads(Path(options.enclave).read_text()))
        return
    found = measure(options)
    if options.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:12} {value}")


if __name__ == "__main__":
    main()
