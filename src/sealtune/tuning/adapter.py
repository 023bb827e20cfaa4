"""What an adapter folder holds: write it so that plain ``peft`` loads it, read it back strictly.

    adapter_model.safetensors   LoRA: tensors under PEFT's names
    adapter_config.json         PEFT's settings
    spf_model.safetensors       SPF: deltas of the chosen heads (``sealtune.tuning.spf``)
    spf_config.json             its settings and heads
    sealtune.json               fingerprint: which tuners, base model, job, labels, prompt, versions

A folder appears whole or not at all. A split job's has LoRA, SPF or both, every other LoRA alone.
Loading LoRA with plain peft (then SPF with ``load_spf``)::

    base = AutoModelForSequenceClassification.from_pretrained(path, num_labels=n)
    model = PeftModel.from_pretrained(base, folder)

Trust domain: client or server enclave (making); whoever received the adapter (reading).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from sealtune import __version__
from sealtune.errors import AdapterMismatchError, ModelError
from sealtune.job.resolved import Resolved
from sealtune.job.spec import ModelSpec
from sealtune.job.storage import storage_error
from sealtune.model.compare import ExportCheck, compare_logits
from sealtune.model.files import model_digest
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.tasks import Task, make_task
from sealtune.model.texts import Batch
from sealtune.model.trainable import trainable_state
from sealtune.tuning.registry import LORA_CONFIG, TUNERS, registered, sections

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
    versions: dict[str, str]


def fingerprint_of(resolved: Resolved) -> Fingerprint:
    """The fingerprint of what a job's enclaves have tuned."""
    job = resolved.job
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
        rounds=job.job.rounds,
        versions={
            "sealtune": __version__,
            **{name: version(name) for name in ("torch", "transformers", "peft")},
        },
    )


@dataclass(frozen=True)
class LoadedAdapter:
    """A base model with an adapter on it, ready to answer."""

    model: Any
    task: Task
    fingerprint: Fingerprint


def save_adapter(folder: Path, model: Any, fingerprint: Fingerprint) -> None:
    """Write what was tuned of ``model`` to ``folder``, replacing an adapter that is there.

    Raises:
        StorageError: no space or no permission; an adapter that was there stays as it was.
        AdapterMismatchError: a tensor of the adapter is not finite.
    """
    write_adapter(folder, adapter_files(model, fingerprint))


def adapter_files(model: Any, fingerprint: Fingerprint) -> dict[str, bytes]:
    """Contents of the files by name: each tuner's, and the fingerprint.

    Raises:
        AdapterMismatchError: a tensor is not finite.
    """
    files = {FINGERPRINT: _fingerprint_file(fingerprint)}
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


def require_same_state(live: nn.Module, reloaded: nn.Module) -> None:
    """Raise AdapterMismatchError unless all that was trained came back bit for bit."""
    own, written = trainable_state(live), trainable_state(reloaded)
    if own.keys() != written.keys() or not all(torch.equal(own[n], written[n]) for n in own):
        raise AdapterMismatchError("the written adapter differs from the live one")


def own_copy(files: Mapping[str, bytes], resolved: Resolved) -> dict[str, bytes]:
    """Files that another party made of a job, naming the base model where it lies here.

    Raises:
        AdapterMismatchError: they are of another job or another base model.
        ModelError: the fingerprint or PEFT's settings are damaged.
    """
    try:
        theirs = Fingerprint.model_validate_json(files.get(FINGERPRINT, b""))
        config = json.loads(files[LORA_CONFIG]) if LORA_CONFIG in files else None
        if config is not None and not isinstance(config, dict):
            raise ValueError("no object")
    except (ValidationError, ValueError) as error:
        raise ModelError("the adapter's fingerprint or settings are damaged") from error
    own = fingerprint_of(resolved)
    for what in ("job_id", "base_model_digest", "tuning", "task", "labels"):
        if getattr(theirs, what) != getattr(own, what):
            raise AdapterMismatchError(
                f"the adapter that came is of another job: its {what} differs"
            )
    here = theirs.model_copy(update={"base_model": own.base_model})
    result = {**files, FINGERPRINT: _fingerprint_file(here)}
    if config is not None:
        config["base_model_name_or_path"] = own.base_model
        result[LORA_CONFIG] = json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"
    return result


def write_adapter(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of ``adapter_files`` to ``folder``, all or none, replacing an adapter there.

    Raises:
        StorageError: no space or no permission; an adapter that was there stays as it was.
        ModelError: a name that no such file has.
    """
    known = {FINGERPRINT, *(name for entry in TUNERS.values() for name in entry.files)}
    odd = sorted(files.keys() - known)
    if odd:
        raise ModelError(f"{odd[0][:80]!r} is no file of an adapter")
    _replace_folder(folder, files)


def load_adapter(
    folder: Path, *, base: str | None = None, revision: str | None = None
) -> LoadedAdapter:
    """Put a written adapter on the original base model, ready to answer.

    Args:
        folder: what ``save_adapter`` wrote.
        base: folder or hub id of the base model; default: the one in the fingerprint.
        revision: of a hub id.

    Raises:
        AdapterMismatchError: another base model, or tensors missing, unknown or of another shape.
        ModelError: the folder holds no adapter, or the base model cannot be loaded.
    """
    loaded = _load(folder, base, revision)
    loaded.model.requires_grad_(False)
    return loaded


def read_fingerprint(folder: Path) -> Fingerprint:
    """Read ``sealtune.json``.

    Raises:
        ModelError: no adapter of sealtune's is there.
    """
    return _read_folder(folder)[0]


def check_export(folder: Path, live: nn.Module, batch: Batch) -> ExportCheck:
    """Reload the written adapter on the original weights and compare it with the live model.

    The live model computes with int8 weights, so small differences are right; an adapter that was
    written wrongly shows as a gross one.

    Args:
        folder: what was written.
        live: the model that was written, in evaluation mode.
        batch: a few texts.

    Raises:
        AdapterMismatchError: the file differs from the live adapter, or its answers do grossly.
    """
    loaded = _load(folder)
    require_same_state(live, loaded.model)
    with torch.no_grad():
        expected, got = (loaded.task.logits(model, batch) for model in (live, loaded.model))
    return compare_logits(expected, got)


def _load(folder: Path, base: str | None = None, revision: str | None = None) -> LoadedAdapter:
    """``load_adapter``, still trainable."""
    fingerprint, files = _read_folder(folder)
    spec = ModelSpec(path=base or fingerprint.base_model, revision=revision, task=fingerprint.task)
    if model_digest(spec) != fingerprint.base_model_digest:
        raise AdapterMismatchError(
            f"the adapter in {folder} was made for another base model than {spec.path}",
            hint=f"it belongs to {fingerprint.base_model} with digest "
            f"{fingerprint.base_model_digest[:16]}…",
        )
    task = make_task(
        fingerprint.task,
        load_tokenizer(spec),
        max_tokens=fingerprint.max_tokens,
        template=fingerprint.template,
        labels=fingerprint.labels,
    )
    model = load_model(spec, len(fingerprint.labels) or None)
    return LoadedAdapter(
        install_adapter(model, files, fingerprint.tuning, str(folder)), task, fingerprint
    )


def _read_folder(folder: Path) -> tuple[Fingerprint, dict[str, bytes]]:
    """The fingerprint and the tuners' files: those that it names, and no other tuner's."""
    try:
        fingerprint = Fingerprint.model_validate_json(_read(folder, FINGERPRINT))
    except ValidationError as error:
        raise ModelError(
            f"{folder / FINGERPRINT} is damaged, or of another version of sealtune"
        ) from error
    named = {name for tuner in fingerprint.tuning for name in registered(tuner).files}
    for entry in TUNERS.values():
        for name in entry.files:
            if name not in named and (folder / name).exists():
                raise AdapterMismatchError(
                    f"{folder} holds {name}, of which {FINGERPRINT} knows nothing",
                    hint="files of two adapters were mixed: get the folder again",
                )
    return fingerprint, {name: _read(folder, name) for name in sorted(named)}


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no {name}, so it is not an adapter of sealtune's",
            hint="give the folder adapter/ of a run",
        ) from error
    except OSError as error:
        raise ModelError(
            f"{folder / name} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error


def _fingerprint_file(fingerprint: Fingerprint) -> bytes:
    return fingerprint.model_dump_json(indent=2).encode() + b"\n"


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    part = folder.parent / f".{folder.name}.{secrets.token_hex(6)}.part"
    old = folder.parent / f".{folder.name}.{secrets.token_hex(6)}.old"
    try:
        part.mkdir(parents=True)
        for name, data in files.items():
            with (part / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            if not (folder / FINGERPRINT).is_file() and any(folder.iterdir()):
                raise FileExistsError(17, "a folder with other files is in the way", str(folder))
            folder.rename(old)
        part.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise storage_error(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
