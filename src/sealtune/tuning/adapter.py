"""What an adapter folder holds: write it so that plain ``peft`` loads it, read it back strictly.

    adapter_model.safetensors   LoRA or P-tuning: tensors under PEFT's names
    adapter_config.json         PEFT's settings
    ptuning_model.safetensors   P-tuning of the blocks behind a cut (``sealtune.tuning.ptuning``)
    ptuning_config.json         which blocks
    spf_model.safetensors       SPF: deltas of the chosen heads (``sealtune.tuning.spf``)
    spf_config.json             its settings and heads
    sealtune.json               fingerprint: which tuners, base model, job, labels, prompt, versions

A split job's folder has LoRA, SPF or both, every other LoRA alone (``tuning.folder``).
Loading LoRA with plain peft (then SPF with ``load_spf``)::

    base = AutoModelForSequenceClassification.from_pretrained(path, num_labels=n)
    model = PeftModel.from_pretrained(base, folder)

Trust domain: client or server enclave (making); whoever received the adapter (reading).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from sealtune import __version__
from sealtune.errors import AdapterMismatchError
from sealtune.party.admit import Admitted
from sealtune.tuning.registry import registered, sections

FINGERPRINT = "sealtune.json"


class Fingerprint(BaseModel):
    """``sealtune.json``: what the adapter belongs to.

    Attributes:
        format: of this file.
        tuning: names of the tuners that the files are of, in the order in which they are applied.
        base_model: folder or hub id that the job named.
        base_model_digest: ``model_digest`` of it.
        job_id: SHA-384 (hex) of the job; empty for an adapter made outside one.
        task: the job's task.
        labels: class names in the order of their numbers; empty for ``causal-lm``.
        template: the prompt template.
        max_tokens: longer texts were cut.
        seed: the job's seed.
        rounds: rounds of training.
        site: whose own the adapter is, in part or as it went on alone; empty: it is the same at
            all sites.
        personal: parts of it that are the site's own: ``aggregation.personal``.
        personal_steps: steps on the site's rows alone, after the joint adapter.
        versions: of the packages that made it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    tuning: tuple[str, ...] = Field(min_length=1)
    base_model: str
    base_model_digest: str
    job_id: str
    task: Literal["classification", "label-words", "causal-lm"]
    labels: tuple[str, ...]
    template: str
    max_tokens: int
    seed: int
    rounds: int
    site: str = ""
    personal: tuple[str, ...] = ()
    personal_steps: int = 0
    versions: dict[str, str]

    def file(self) -> bytes:
        """The file's contents."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def fingerprint_of(resolved: Admitted, personal_steps: int = 0) -> Fingerprint:
    """The fingerprint of what a job's enclaves have tuned.

    Args:
        personal_steps: of the adapter that the site went on with alone; 0: the joint one.
    """
    job = resolved.job
    personal = job.aggregation.personal
    return Fingerprint(
        tuning=tuple(sections(job.tuning)),
        base_model=job.model.path,
        base_model_digest=resolved.model_digest,
        job_id=resolved.job_id,
        task=job.model.task,
        labels=resolved.labels,
        template=job.data.template,
        max_tokens=job.data.max_tokens,
        seed=job.job.seed,
        rounds=resolved.manifest.rounds,
        site=resolved.site if personal or personal_steps else "",
        personal=personal,
        personal_steps=personal_steps,
        versions={
            "sealtune": __version__,
            **{name: version(name) for name in ("torch", "transformers", "peft")},
        },
    )


def adapter_files(model: Any, fingerprint: Fingerprint) -> dict[str, bytes]:
    """Contents of the files by name: each tuner's, and the fingerprint.

    Raises:
        AdapterMismatchError: a tensor is not finite.
    """
    files = {FINGERPRINT: fingerprint.file()}
    for name in fingerprint.tuning:
        files |= registered(name).load().write(model, fingerprint.base_model)
    return files


def install_adapter(
    model: Any, files: Mapping[str, bytes], tuning: Sequence[str], source: str
) -> Any:
    """Put every tuner's files on the model that they were made for, still trainable.

    Args:
        tuning: names of the tuners, in their order.
        source: where the files are from, for messages.

    Raises:
        ModelError: a file is damaged, or of another model (``AdapterMismatchError``).
    """
    for name in tuning:
        model = registered(name).load().install(model, files, source)
    return model.eval()


def require_same_state(live: nn.Module, reloaded: nn.Module, tuning: Sequence[str]) -> None:
    """Raise AdapterMismatchError unless all that the files are to keep came back bit for bit."""
    tuners = [registered(name).load() for name in tuning]
    own, written = (
        {n: t for tuner in tuners for n, t in tuner.state(model).items()}
        for model in (live, reloaded)
    )
    if own.keys() != written.keys() or not all(
        torch.equal(own[n].cpu(), written[n].cpu()) for n in own
    ):
        raise AdapterMismatchError("the written adapter differs from the live one")
