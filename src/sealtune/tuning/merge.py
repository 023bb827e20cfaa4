"""Merge an adapter into its base model: an ordinary Hugging Face folder, compared after writing.

Trust domain: whoever received the adapter; no enclave takes part.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sealtune.data.site import Example
from sealtune.errors import ModelError, StorageError
from sealtune.job.spec import ModelSpec
from sealtune.job.storage import storage_error
from sealtune.model.compare import SAME_LEAST, ExportCheck, compare_logits
from sealtune.model.load import load_model, quiet
from sealtune.tuning.adapter import FINGERPRINT
from sealtune.tuning.folder import LoadedAdapter, load_adapter, read_fingerprint
from sealtune.tuning.registry import registered

# Texts that a merged model is compared on: words, digits, other scripts, a long one.
_PROBES = ("a", "The patient was admitted with 38.5 °C.", "Übermäßige Müdigkeit", "1234567890 " * 8)


@dataclass(frozen=True)
class Merged:
    """A merged model that was written.

    Attributes:
        check: how well it answers as base and adapter do.
        loader: the transformers class whose ``from_pretrained`` loads it.
    """

    check: ExportCheck
    loader: str


def merge_adapter(
    folder: Path, out: Path, *, base: str | None = None, say: Callable[[str], None]
) -> Merged:
    """Write base model and adapter as one model, float32, with its tokenizer.

    Args:
        folder: the adapter.
        out: folder to make; it must not be there.
        base: folder or hub id of the base model; default: the one in the fingerprint.
        say: told what is going on.

    Raises:
        AdapterMismatchError: another base model, or the written model answers otherwise.
        ModelError: a tuner of the adapter cannot be merged.
        StorageError: ``out`` is there, or cannot be written; nothing is left behind.
    """
    if out.exists():
        raise StorageError(f"{out} is already there", hint="choose another folder")
    _refuse_apart(read_fingerprint(folder).tuning)
    say("loading base model and adapter")
    loaded = load_adapter(folder, base=base)
    probes = loaded.task.encode([Example(text, None) for text in _PROBES])
    batch = probes.batch(range(len(_PROBES)))
    with torch.no_grad():
        before = loaded.task.logits(loaded.model, batch)
    model = _merged(loaded)
    part = out.parent / f".{out.name}.{secrets.token_hex(6)}.part"
    try:
        say("writing the merged model")
        part.mkdir(parents=True)
        _write(model, loaded, folder, part)
        say("reading it back and comparing")
        spec = ModelSpec(path=str(part), task=loaded.fingerprint.task)
        written = load_model(spec, len(loaded.fingerprint.labels) or None)
        check = compare_logits(before, loaded.task.logits(written, batch), least=SAME_LEAST)
        part.rename(out)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    classify = loaded.fingerprint.task == "classification"
    head = "SequenceClassification" if classify else "CausalLM"
    return Merged(check, f"AutoModelFor{head}")


def _refuse_apart(tuning: Sequence[str]) -> None:
    for name in tuning:
        if reason := registered(name).load().stays_apart:
            raise ModelError(
                f"an adapter of {name} cannot be merged: {reason}",
                hint="use base model and adapter side by side, as `sealtune predict` does",
            )


def _merged(loaded: LoadedAdapter) -> Any:
    """The plain model with everything in its weights; what was put on last comes off first."""
    model = loaded.model
    for name in reversed(loaded.fingerprint.tuning):
        model = registered(name).load().merge(model)
    return model.requires_grad_(False).eval()


def _write(model: Any, loaded: LoadedAdapter, adapter: Path, folder: Path) -> None:
    labels = loaded.fingerprint.labels
    if loaded.task.name == "classification":
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: number for number, label in enumerate(labels)}
    with quiet():
        model.save_pretrained(folder, safe_serialization=True)
        loaded.task.tokenizer.save_pretrained(folder)
    # where it came from; under a name of its own, so that nobody takes the folder for an adapter
    origin = json.loads((adapter / FINGERPRINT).read_bytes())
    text = json.dumps({"merged_from": origin}, indent=2) + "\n"
    (folder / "sealtune_merged.json").write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
