"""One process of ``benchmarks/offload.py``: a way to do a training step, asleep between questions.

    python benchmarks/offload_party.py SETTINGS.json

Each line of standard input is a question, a JSON object with ``ask``; each gets one line back.
Settings: ``way`` (see ``WAYS``), ``model`` (folder), ``tokens`` (JSON file of [B, T] ids), what the
way needs, and ``program``: it finds that program's modules and packages alone. A way imports
nothing before it must, as the program that it stands for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SOURCES = Path(__file__).resolve().parents[1] / "src"
if "sealtune" not in sys.modules:  # a bare machine has the sources alone
    sys.path.append(str(SOURCES))

Settings = Mapping[str, Any]
LORA = {"rank": 8, "alpha": 16, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}


def job_values(settings: Settings) -> dict[str, Any]:
    """The job whose step is measured, as its file would say it."""
    return {
        "job": {"name": "offload", "seed": 1},
        "model": {"path": settings["model"], "task": "causal-lm"},
        "data": {"train": "-", "test": "-", "max_tokens": 4096},
        "sites": {"names": ["one"], "partition": "label"},
        "tuning": {"lora": LORA},
        **settings.get("sections", {}),
    }


class Stepper:
    """A model and how to compute its loss.

    Attributes:
        spent: seconds by piece since the start, as the way counts them.
    """

    def __init__(self, model: Any, loss: Callable[[], Any], settings: Settings) -> None:
        import torch

        self.model, self._loss = model, loss
        self.spent: dict[str, float] = {}
        self._cuda = str(settings.get("device", "cpu")).startswith("cuda")
        self._torch = torch
        generator = torch.Generator().manual_seed(5)
        for _, parameter in sorted(self.trained().items()):  # B away from zero: all are alive
            value = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data.copy_(value)

    def trained(self) -> dict[str, Any]:
        """Trainable parameters by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def step(self) -> float:
        """Forward, loss, backward; AdamW is left out, it is the same everywhere."""
        self.model.zero_grad(set_to_none=True)
        loss = self._loss()
        loss.backward()
        value = float(loss.detach())
        if self._cuda:
            self._torch.cuda.synchronize()
        return value

    def timed(self) -> dict[str, float]:
        """One step's seconds, by the clock and of the processor, and by piece."""
        before = dict(self.spent)
        cpu, start = time.process_time(), time.perf_counter()
        loss = self.step()
        wall = time.perf_counter() - start
        pieces = {key: value - before[key] for key, value in self.spent.items()}
        return {"wall": wall, "cpu": time.process_time() - cpu, "loss": loss, **pieces}

    def burst(self, count: int) -> dict[str, float]:
        """The mean of steps that follow each other at once; the first is left out.

        What others make ahead for a step, they make during the one before it.
        """
        steps = [self.timed() for _ in range(count)][1:]
        return {key: sum(step[key] for step in steps) / len(steps) for key in steps[0]}

    def gradient(self, path: str) -> dict[str, Any]:
        """Write all gradients of one step, one after another, as float64."""
        import numpy as np

        loss = self.step()
        grads = [
            p.grad.detach().double().cpu().flatten() for _, p in sorted(self.trained().items())
        ]
        np.save(path, self._torch.cat(grads).numpy(), allow_pickle=False)
        return {"loss": loss, "names": sorted(self.trained())}


def read_tokens(settings: Settings) -> Any:
    """int64 [B, T]."""
    import torch

    return torch.tensor(json.loads(Path(settings["tokens"]).read_text()))


def read_plan(settings: Settings) -> Any:
    """The slice plan."""
    from sealtune.job.plan import SlicePlan

    return SlicePlan.model_validate_json(Path(settings["plan"]).read_bytes())


def plain(settings: Settings) -> tuple[Stepper, Mapping[str, Any]]:
    """transformers and PEFT alone: ``precision``, ``device``, ``adapter`` (another type)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if settings["precision"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype=dtype, attn_implementation="sdpa", use_safetensors=True
    )
    config = LoraConfig(
        task_type="CAUSAL_LM", r=LORA["rank"], lora_alpha=LORA["alpha"], lora_dropout=0.0,
        target_modules=LORA["targets"],
    )  # fmt: skip
    device = settings.get("device", "cpu")
    model = get_peft_model(model, config)  # gives an adapter float32
    if settings.get("adapter") != "fp32":
        model.to(dtype)
    model.to(device)
    ids = read_tokens(settings).to(device)
    stepper = Stepper(
        model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss, settings
    )

    def use_int8() -> dict[str, Any]:
        from sealtune.offload.unmasked import use_int8_weights

        use_int8_weights(model, read_plan(settings))
        return {}

    return stepper, {"use_int8": use_int8}


def product_model(settings: Settings, session: Any, plan: Any) -> tuple[Stepper, Any]:
    """A site's model and loss as ``SiteTrainer`` makes them: ``precision``, ``device``.

    Args:
        session: what multiplies.
        plan: what it multiplies with.
    """
    import torch

    from sealtune.job.spec import Job
    from sealtune.memory import give_back_freed
    from sealtune.model.checkpointing import compute_blocks_again
    from sealtune.model.compute import Compute
    from sealtune.model.rest import load_rest
    from sealtune.model.tasks import make_task
    from sealtune.model.texts import Batch
    from sealtune.tuning.apply import apply_tuning

    job = Job.model_validate(job_values(settings))
    compute = Compute.open(settings.get("device", "cpu"), settings.get("precision", "fp32"))
    if job.train.checkpointing:
        give_back_freed()
    base = load_rest(job.model, None, plan, dtype=compute.dtype)
    if job.train.checkpointing:
        compute_blocks_again(base)
    model = compute.place(apply_tuning(base, job.tuning, job.model.task, job.job.seed))
    session.install(model)
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    if settings.get("tokenizer"):
        from sealtune.model.load import load_tokenizer

        tokenizer = load_tokenizer(job.model)
    task = compute.task(
        make_task("causal-lm", tokenizer, max_tokens=4096, template="{text}", labels=())
    )
    ids = read_tokens(settings)
    batch = Batch(ids, torch.full((ids.shape[0],), ids.shape[1]), None)
    stepper = Stepper(model, lambda: task.loss(model, batch), settings)
    stepper.spent = session.seconds
    return stepper, job


def placed(settings: Settings) -> tuple[Stepper, Mapping[str, Any]]:
    """A site's enclave that has no accelerator, or its attested GPU: ``device``, ``precision``."""
    from sealtune.memory import peak_mib
    from sealtune.methods.federated.in_place import InPlace

    plan = read_plan(settings).model_copy(update={"groups": ()})
    stepper, _ = product_model(settings, InPlace(), plan)
    return stepper, {"memory": lambda: {"peak": peak_mib()}}


def masked(settings: Settings) -> tuple[Stepper, Mapping[str, Any]]:
    """A site's enclave with its accelerator: ``plan``, ``accelerator``, ``pad_budget`` (MiB).

    ``second``: where its pad accelerator is, if it has one.
    """
    from sealtune.memory import peak_mib
    from sealtune.offload.session import OffloadSession

    plan = read_plan(settings)
    session = OffloadSession.connect(
        settings["accelerator"], plan, integrity_bits=settings.get("integrity_bits", 40),
        owner=f"offload/{os.getpid()}", patience=120.0, pad_budget=settings.get("pad_budget", 0),
        pads=second_source(settings, plan),
    )  # fmt: skip
    started = peak_mib()
    stepper, job = product_model(settings, session, plan)
    loaded = peak_mib()

    def memory() -> dict[str, float]:
        return {"session": started, "loaded": loaded, "peak": peak_mib()}

    return stepper, {
        "memory": memory,
        "rest": lambda: rest(session),
        "release": lambda: release(job, plan, stepper.model, settings),
    }


def second_source(settings: Settings, plan: Any) -> Any:
    """Pads of the pad accelerator, or None."""
    if "second" not in settings:
        return None
    from sealtune.offload.second import SecondSource

    second = settings["second"]
    return SecondSource.connect(
        second["address"], plan.groups, key=bytes.fromhex(second["key"]),
        job_id=bytes.fromhex(second["job"]), site=second["site"], patience=120.0,
    )  # fmt: skip


def rest(session: Any) -> dict[str, float]:
    """Let pads be made ahead until nothing is left to make; returns what that took."""
    session.rest()  # counts what was made before
    before = session.seconds["pads"]
    session.rest(wait=True)
    return {"pads": session.seconds["pads"] - before}


def release(job: Any, plan: Any, model: Any, settings: Settings) -> dict[str, Any]:
    """What an enclave does last: write the adapter, and compare the written with the live one."""
    import torch

    from sealtune.memory import peak_mib
    from sealtune.model.files import model_digest
    from sealtune.model.texts import Batch
    from sealtune.tuning.adapter import Fingerprint
    from sealtune.tuning.folder import check_export, save_adapter

    fingerprint = Fingerprint(
        tuning=("lora",), base_model=job.model.path, base_model_digest=model_digest(job.model),
        job_id="0" * 96, task=job.model.task, labels=(), template=job.data.template,
        max_tokens=job.data.max_tokens, seed=1, rounds=1, versions={},
    )  # fmt: skip
    folder = Path(settings["folder"]) / f"adapter-{os.getpid()}"
    save_adapter(folder, model, fingerprint)
    ids = read_tokens(settings)
    batch = Batch(ids, torch.full((ids.shape[0],), ids.shape[1]), None)
    try:
        elsewhere = read_plan(settings).quantised
        found = check_export(folder, model.eval(), batch, elsewhere=elsewhere)
        text = f"difference {found.difference:.4f}"
    except Exception as error:  # random values of the adapter; only its memory counts here
        text = f"{type(error).__name__}: {error}"[:200]
    model.train()
    return {"check": text, "peak": peak_mib()}


WAYS: dict[str, Callable[[Settings], tuple[Stepper, Mapping[str, Any]]]] = {
    "plain": plain,
    "placed": placed,
    "masked": masked,
}


def answer(question: Mapping[str, Any], stepper: Stepper, own: Mapping[str, Any]) -> Any:
    """Do what a line asks."""
    match question["ask"]:
        case "step":
            return stepper.timed()
        case "burst":
            return stepper.burst(question["count"])
        case "gradient":
            return stepper.gradient(question["path"])
        case name:
            return own[name]()


def main() -> None:
    """Load, say so, answer until the questions end."""
    begun = time.perf_counter()
    settings = json.loads(Path(sys.argv[1]).read_text())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(value: Any) -> None:
        print(json.dumps(value), file=out, flush=True)

    if name := settings.get("program"):  # finds the program's packages alone, and loads no more
        sys.path.insert(0, str(SOURCES / "sealtune"))
        import start  # type: ignore[import-not-found]

        start.enter(name)
        del sys.path[0]
    stepper, own = WAYS[settings["way"]](settings)
    import torch

    say(
        {
            "ready": round(time.perf_counter() - begun, 2),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
    )
    for line in sys.stdin:
        try:
            say(answer(json.loads(line), stepper, own))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"[:1000]})


if __name__ == "__main__":
    main()
