"""Write an adapter so that plain ``peft`` loads it anywhere, and read it back strictly.

    adapter_model.safetensors   LoRA: tensors under PEFT's names
    adapter_config.json         PEFT's settings
    spf_model.safetensors       SPF: deltas of the chosen heads (sealtune.tuning.spf)
    spf_config.json             its settings and heads
    sealtune.json               fingerprint: which base model, job, labels, prompt, versions

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
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sealtune import __version__
from sealtune.errors import AdapterMismatchError, ModelError
from sealtune.job.resolved import Resolved
from sealtune.job.spec import ModelSpec
from sealtune.job.storage import storage_error
from sealtune.model.compare import ExportCheck, compare_logits
from sealtune.model.files import model_digest
from sealtune.model.load import HEAD, load_model, load_tokenizer, quiet
from sealtune.model.tasks import Batch, Task, make_task
from sealtune.model.trainable import ADAPTER, load_trainable_state, trainable_state, write_tensors
from sealtune.tuning.spf.files import (
    SPF_CONFIG,
    SPF_WEIGHTS,
    load_spf,
    read_spf_config,
    spf_files,
)
from sealtune.tuning.spf.tuner import has_spf

WEIGHTS, CONFIG, FINGERPRINT = "adapter_model.safetensors", "adapter_config.json", "sealtune.json"
FILES = {WEIGHTS, CONFIG, FINGERPRINT, SPF_WEIGHTS, SPF_CONFIG}


class Fingerprint(BaseModel):
    """``sealtune.json``: what the adapter belongs to.

    Attributes:
        format: of this file.
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

    format: Literal[1] = 1
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
    """Contents of the files by name: LoRA in PEFT's format, SPF in its own, the fingerprint.

    Raises:
        AdapterMismatchError: a tensor is not finite.
    """
    files = {FINGERPRINT: _fingerprint_file(fingerprint)}
    if hasattr(model, "peft_config"):
        trained = {n: t for n, t in trainable_state(model).items() if ".spf." not in n}
        files[WEIGHTS] = write_tensors(trained)
        files[CONFIG] = _config_file(_peft_config(model, fingerprint))
    if has_spf(model):
        files |= spf_files(model)
    return files


def own_copy(files: Mapping[str, bytes], resolved: Resolved) -> dict[str, bytes]:
    """Files that another party made of a job, naming the base model where it lies here.

    Raises:
        AdapterMismatchError: they are of another job or another base model.
        ModelError: the fingerprint or PEFT's settings are damaged.
    """
    try:
        theirs = Fingerprint.model_validate_json(files.get(FINGERPRINT, b""))
        config = json.loads(files[CONFIG]) if CONFIG in files else None
        if config is not None and not isinstance(config, dict):
            raise ValueError("no object")
    except (ValidationError, ValueError) as error:
        raise ModelError("the adapter's fingerprint or settings are damaged") from error
    own = fingerprint_of(resolved)
    for what in ("job_id", "base_model_digest", "task", "labels"):
        if getattr(theirs, what) != getattr(own, what):
            raise AdapterMismatchError(
                f"the adapter that came is of another job: its {what} differs"
            )
    mine = theirs.model_copy(update={"base_model": own.base_model})
    result = {**files, FINGERPRINT: _fingerprint_file(mine)}
    if config is not None:
        config["base_model_name_or_path"] = own.base_model
        result[CONFIG] = _config_file(config)
    return result


def write_adapter(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of ``adapter_files`` to ``folder``, all or none, replacing an adapter there.

    Raises:
        StorageError: no space or no permission; an adapter that was there stays as it was.
        ModelError: a name that no such file has.
    """
    odd = sorted(files.keys() - FILES)
    if odd:
        raise ModelError(f"{odd[0][:80]!r} is no file of an adapter")
    _replace_folder(folder, files)


def load_adapter(
    folder: Path, *, base: str | None = None, revision: str | None = None
) -> LoadedAdapter:
    """Put a written adapter on the original base model, with plain peft.

    Args:
        folder: what ``save_adapter`` wrote.
        base: folder or hub id of the base model; default: the one in the fingerprint.
        revision: of a hub id.

    Raises:
        AdapterMismatchError: another base model, or tensors missing, unknown or of another shape.
        ModelError: the folder holds no adapter, or the base model cannot be loaded.
    """
    fingerprint = read_fingerprint(folder)
    spec = ModelSpec(path=base or fingerprint.base_model, revision=revision, task=fingerprint.task)
    if model_digest(spec) != fingerprint.base_model_digest:
        raise AdapterMismatchError(
            f"the adapter in {folder} was made for another base model than {spec.path}",
            hint=f"it belongs to {fingerprint.base_model} with digest "
            f"{fingerprint.base_model_digest[:16]}…",
        )
    model = _with_adapter(load_model(spec, len(fingerprint.labels) or None), folder)
    task = make_task(
        fingerprint.task,
        load_tokenizer(spec),
        max_tokens=fingerprint.max_tokens,
        template=fingerprint.template,
        labels=fingerprint.labels,
    )
    return LoadedAdapter(model, task, fingerprint)


def read_fingerprint(folder: Path) -> Fingerprint:
    """Read ``sealtune.json``.

    Raises:
        ModelError: no adapter of sealtune's is there.
    """
    spf_alone = (folder / SPF_CONFIG).is_file() and not (folder / CONFIG).is_file()
    for name in (FINGERPRINT, *((SPF_WEIGHTS,) if spf_alone else (CONFIG, WEIGHTS))):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} holds no {name}, so it is not an adapter of sealtune's",
                hint="give the folder adapter/ of a run",
            )
    try:
        return Fingerprint.model_validate_json((folder / FINGERPRINT).read_bytes())
    except (ValidationError, OSError) as error:
        raise ModelError(f"{folder / FINGERPRINT} is damaged") from error


def check_export(folder: Path, live: nn.Module, batch: Batch) -> ExportCheck:
    """Reload the written adapter on the original weights and compare it with the live model.

    The live model computes with int8 weights, so small differences are right; an adapter that was
    written wrongly shows as a gross one.

    Args:
        folder: what was written.
        live: the model that was written, in evaluation mode.
        batch: a few texts. A live masked model must be ready for its tokens (``begin_step``).

    Raises:
        AdapterMismatchError: the file differs from the live adapter, or its answers do grossly.
    """
    loaded = load_adapter(folder)
    written, own = trainable_state_of_file(folder), trainable_state(live)
    different = [n for n, t in own.items() if n not in written or not torch.equal(written[n], t)]
    if different or written.keys() != own.keys():
        raise AdapterMismatchError(f"the written adapter differs from the live one: {folder}")
    with torch.no_grad():
        expected, got = (loaded.task.logits(model, batch) for model in (live, loaded.model))
    return compare_logits(expected, got)


def trainable_state_of_file(folder: Path) -> dict[str, Tensor]:
    """The tensors of a written adapter.

    Raises:
        AdapterMismatchError: damaged.
    """
    try:
        return cast(dict[str, Tensor], load_file(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise AdapterMismatchError(f"{folder / WEIGHTS} is damaged or cut short") from error


def _fingerprint_file(fingerprint: Fingerprint) -> bytes:
    return fingerprint.model_dump_json(indent=2).encode() + b"\n"


def _config_file(config: Mapping[str, Any]) -> bytes:
    return json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"


def _peft_config(model: Any, fingerprint: Fingerprint) -> dict[str, Any]:
    config: dict[str, Any] = model.peft_config[ADAPTER].to_dict()
    config["inference_mode"] = True
    config["base_model_name_or_path"] = fingerprint.base_model
    config["revision"] = None
    config["target_modules"] = sorted(config["target_modules"])
    if config.get("modules_to_save"):
        config["modules_to_save"] = [HEAD]
    return {key: _plain(value) for key, value in config.items()}


def _plain(value: Any) -> Any:
    """JSON-able form of a configuration value."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _with_adapter(base: Any, folder: Path) -> Any:
    """Plain ``PeftModel.from_pretrained``, every tensor compared with the file; then SPF."""
    model = _with_lora(base, folder) if (folder / CONFIG).is_file() else base
    if (folder / SPF_CONFIG).is_file():
        odd = sorted(set(read_spf_config(folder).config.modules_to_save) - {HEAD})
        if odd:
            raise AdapterMismatchError(f"{folder} would replace {odd[0]} whole, which no job does")
        load_spf(model, folder)
    model.requires_grad_(False)
    return model.eval()


def _with_lora(base: Any, folder: Path) -> Any:
    from peft import PeftModel

    state = trainable_state_of_file(folder)
    try:
        with quiet():
            model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    except Exception as error:  # peft raises many classes for a config or file that does not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise AdapterMismatchError(
            f"peft cannot put the adapter in {folder} on its base model: {reason}"
        ) from error
    load_trainable_state(model, state)  # strict where peft only warns
    return model


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
