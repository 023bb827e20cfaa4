"""``python -m tests.enclave.device_run MODEL FOLDER``: runs whose enclaves compute on a device.

A process of its own, since the device has a name in the whole process. Every kind of run is made
twice, on the processor and on the device: adapters, losses and answers must be the same bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sealtune.job.federated_sections import AggregationSpec, PrivacySpec
from sealtune.job.sections import ProtectionSpec, SplitSpec, TuningSpec
from sealtune.job.spec import Job, ModelSpec
from sealtune.model.compute import Compute
from tests.enclave.flow import SITES, Federation, make_federation, make_job
from tests.enclave.split_flow import SplitFederation, make_split, make_split_job
from tests.stand_in_device import DEVICE, Elsewhere, stand_in

Told = tuple[list[float], dict[str, Tensor]]  # losses of all steps; what was written
GPU = ProtectionSpec(compute="attested-gpu")
FEDERATED: dict[str, dict[str, Any]] = {
    "label words, dropout": {
        "model": "label-words",
        "tuning": {"lora": {"rank": 4, "dropout": 0.2}},
        "aggregation": AggregationSpec(proximal=0.5),
    },
    "personal head": {"aggregation": AggregationSpec(personal=("head",), personal_steps=2)},
    "prefix": {"tuning": {"ptuning": {"virtual_tokens": 3, "projection": True}}},
}
NOISY = {"privacy": PrivacySpec(unit="example", epsilon=50.0, delta=1e-3)}
SPLIT: dict[str, dict[str, Any]] = {
    "heads by gradient, continued text": {
        "model": "causal-lm",
        "tuning": {"lora": {"rank": 4}, "spf": {"qkv": 0.5, "dense": 0.5, "select": "gradient"}},
    },
    "heads by activation": {
        "tuning": {"spf": {"qkv": 0.5, "dense": 0.5, "select": "activation"}},
        "split": SplitSpec(cut=1, activations="int8"),
    },
    "lengths of rows": {"tuning": {"lora": {"rank": 4, "dora": True}}},
    "prefix": {"tuning": {"ptuning": {"virtual_tokens": 3}}},
}


@contextmanager
def on(place: str) -> Iterator[None]:
    """Let what asks for CUDA compute there: on the ``device``, or the ``processor``."""
    opened = Compute.open

    def instead(device: str, precision: Any) -> Compute:
        here = device == "cuda" and place == "device"
        return Compute(DEVICE, precision) if here else Compute(precision=precision)

    Compute.open = instead  # type: ignore[method-assign,assignment]
    try:
        # the processor has an attention of its own, which rounds otherwise
        with stand_in(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        Compute.open = opened  # type: ignore[method-assign]


def sections(base: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Sections of a job, of their short forms."""
    made = {"protection": GPU, **given}
    if "model" in given:
        made["model"] = ModelSpec(path=str(base), task=given["model"])
    if isinstance(given.get("tuning"), dict):
        made["tuning"] = TuningSpec.model_validate(given["tuning"])
    return made


def told(federation: Federation) -> Told:
    """What a run leaves behind."""
    losses = [event["loss"] for event in federation.of("step")]
    folders = sorted(federation.run_dir.glob("sites/*/adapter*"))
    tensors = {
        f"{folder.parent.name}/{folder.name}/{name}": tensor
        for folder in folders
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    assert losses
    assert tensors
    return losses, tensors


def federated(job: Job, folder: Path) -> Told:
    federation = make_federation(job, folder)
    if "device" in folder.name:
        kinds = {type(p.data) for model in federation.models.values() for p in model.parameters()}
        assert kinds == {Elsewhere}, kinds
    federation.run(federation.aggregator())
    assert {e["outcome"] for e in federation.of("final")[0]["sites"].values()} == {"ok"}
    return told(federation)


def split(job: Job, folder: Path) -> Told:
    """With a server that stops after a round, and another that goes on."""
    federation: SplitFederation = make_split(job, folder)
    first = federation.server()
    federation.run(first, exchanges=5)
    federation.run(federation.server(resume=True))
    assert federation.of("final")[0]["sites"][SITES[0]]["outcome"] == "ok"
    losses, tensors = told(federation)
    trainer = federation.enclave._trainer
    answers = trainer.answer(trainer._store.samples(SITES[0], "test")[:3])
    return [*losses, *(number for answer in answers for number in answer)], tensors


def compare(name: str, run: Callable[[Job, Path], Told], job: Job, folder: Path) -> None:
    """The same run in both places."""
    results = []
    for place in ("processor", "device"):
        with on(place):
            results.append(run(job, folder / place))
    (losses, mine), (others, theirs) = results
    apart = max(abs(a - b) for a, b in zip(losses, others, strict=True))
    assert mine.keys() == theirs.keys()
    moved = max(float((mine[n] - theirs[n]).abs().max()) for n in mine)
    print(f"{name}: losses differ by {apart:.1e}, tensors by {moved:.1e}", flush=True)
    assert apart <= 2e-5, name
    assert moved <= 1e-3, name


def main(base: Path, folder: Path) -> None:
    """All kinds of runs."""
    for kind, runs, make, run in (
        ("federated", FEDERATED, make_job, federated),
        ("split", SPLIT, make_split_job, split),
    ):
        for name, given in runs.items():
            home = folder / f"{kind}-{name}".replace(" ", "-")
            home.mkdir()
            compare(f"{kind}, {name}", run, make(home, base, **sections(base, given)), home)
    (folder / "noisy").mkdir()
    with on("device"):
        federated(
            make_job(folder / "noisy", base, **sections(base, NOISY)), folder / "noisy-device"
        )
    print("noise of single rows: ran", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
