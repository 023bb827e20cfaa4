"""A model of random weights with its slice plan and int8 backbone, in a process of its own.

    python benchmarks/offload_model.py SETTINGS.json

Settings: ``shape`` (keys of a Llama configuration), ``batch``, ``length``, ``model`` (folder to
make), ``plan`` and ``tokens`` (files to write). One block is drawn, the others repeat it: the time
of a step does not depend on the values.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from offload_party import Settings, job_values


def write_model(folder: Path, shape: dict[str, Any]) -> int:
    """Write a Llama in bfloat16; returns the number of its parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **shape, tie_word_embeddings=True, max_position_embeddings=2048, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        skeleton = LlamaForCausalLM(config)
    torch.manual_seed(0)
    drawn: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for name, value in skeleton.named_parameters():
        if name in tensors:
            continue
        kind = ".".join(part for part in name.split(".") if not part.isdigit())
        if kind not in drawn:
            norm = "norm" in kind
            fresh = torch.ones(value.shape) if norm else torch.randn(value.shape) * 0.02
            drawn[kind] = fresh.to(torch.bfloat16)
        tensors[name] = drawn[kind].clone()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return sum(tensor.numel() for tensor in tensors.values())


def main() -> None:
    """Make all of it and say so."""
    start = time.perf_counter()
    settings: Settings = json.loads(Path(sys.argv[1]).read_text())
    shape = dict(settings["shape"])
    parameters = write_model(Path(settings["model"]), shape)
    written = time.perf_counter() - start

    import torch

    from sealtune.job.spec import Job
    from sealtune.plan.masked import make_plan

    size = (settings["batch"], settings["length"])
    ids = torch.randint(3, shape["vocab_size"], size).tolist()
    Path(settings["tokens"]).write_text(json.dumps(ids))
    plan = make_plan(Job.model_validate(job_values(settings)), None)
    Path(settings["plan"]).write_text(plan.model_dump_json())
    took = {"written": round(written, 1), "ready": round(time.perf_counter() - start, 1)}
    print(json.dumps({"parameters": parameters, **took}))


if __name__ == "__main__":
    main()
