"""An adapter folder: written whole or not at all, read back strictly, compared with what was live.

Trust domain: client enclave (federated), data owner (split); whoever received the adapter.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from sealtune.errors import AdapterMismatchError, ModelError
from sealtune.job.spec import ModelSpec
from sealtune.job.storage import reason, storage_error
from sealtune.model.compare import ROUNDED_LEAST, ExportCheck, compare_parts
from sealtune.model.compute import Compute
from sealtune.model.files import model_digest
from sealtune.model.fit import fit_texts
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.rest import load_streamed
from sealtune.model.tasks import Task, base_model, make_task
from sealtune.model.texts import Batch, Example, Texts
from sealtune.tuning.adapter import (
    FINGERPRINT,
    Fingerprint,
    adapter_files,
    install_adapter,
    require_same_state,
)
from sealtune.tuning.registry import TUNERS, registered


@dataclass(frozen=True)
class LoadedAdapter:
    """A base model with an adapter on it, ready to answer."""

    model: Any
    task: Task
    fingerprint: Fingerprint

    @property
    def virtual_tokens(self) -> int:
        """How many stand before every text."""
        prefix = getattr(base_model(self.model), "prompt_encoder", None)
        return int(prefix.tokens) if prefix is not None else 0

    def encode(self, examples: Sequence[Example]) -> Texts:
        """Texts as the task has them.

        Raises:
            DataError: one that the model has no place for; see ``fit_texts``.
        """
        config = base_model(self.model).config
        return fit_texts(self.task, config, examples, virtual_tokens=self.virtual_tokens)


def save_adapter(folder: Path, model: Any, fingerprint: Fingerprint) -> None:
    """Write what was tuned of ``model`` to ``folder``, replacing an adapter that is there.

    Raises:
        StorageError: no space or no permission; an adapter that was there stays as it was.
        AdapterMismatchError: a tensor of the adapter is not finite.
    """
    write_adapter(folder, adapter_files(model, fingerprint))


def write_adapter(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of ``adapter_files`` to ``folder``, all or none, replacing an adapter there.

    Raises:
        StorageError: no space or no permission; an adapter that was there stays as it was.
        ModelError: a name that no such file has.
    """
    allowed = {FINGERPRINT, *_every_file()}
    odd = sorted(files.keys() - allowed)
    if odd:
        raise ModelError(f"{odd[0][:80]!r} is no file of an adapter")
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
    loaded = _load(folder, base=base, revision=revision)
    loaded.model.requires_grad_(False)
    return loaded


def read_fingerprint(folder: Path) -> Fingerprint:
    """Read ``sealtune.json``.

    Raises:
        ModelError: no adapter of sealtune's is there.
    """
    return _read_folder(folder)[0]


def check_export(
    folder: Path,
    live: nn.Module,
    batch: Batch,
    *,
    live_batch: Batch | None = None,
    compute: Compute | None = None,
    least: float = ROUNDED_LEAST,
    elsewhere: Collection[str] = (),
) -> ExportCheck:
    """Reload the written adapter on the original weights and compare it with the live model.

    A live model with int8 weights or in bfloat16 is a little off; an adapter that was written
    wrongly is grossly so.

    Args:
        folder: what was written.
        live: the model that was written, in evaluation mode.
        batch: a few texts.
        live_batch: the same as the live model takes them; default: as they are.
        compute: where the live model is; default: on the processor.
        least: see ``compare_logits``.
        elsewhere: frozen layers of which the live model holds no weights: nor are they held here,
            but read one by one while the written adapter's answers are made.

    Raises:
        AdapterMismatchError: the file differs from the live adapter, or its answers do grossly.
    """
    compute = compute or Compute()
    written = Compute(compute.device)
    with ExitStack() as opened, torch.no_grad():

        def base_of(spec: ModelSpec, labels: int | None) -> Any:
            if elsewhere:
                return opened.enter_context(load_streamed(spec, labels, elsewhere))
            return load_model(spec, labels)

        loaded = _load(folder, base_of)
        require_same_state(live, loaded.model, loaded.fingerprint.tuning)
        expected = compute.task(loaded.task).logit_parts(live, live_batch or batch)
        got = written.task(loaded.task).logit_parts(written.place(loaded.model), batch)
        return compare_parts(zip(expected, got, strict=True), least=least)


def _load(
    folder: Path,
    base_of: Callable[[ModelSpec, int | None], Any] = load_model,
    base: str | None = None,
    revision: str | None = None,
) -> LoadedAdapter:
    """``load_adapter``, still trainable; ``base_of`` loads the base model."""
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
    model = base_of(spec, len(fingerprint.labels) or None)
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
    named = {file for name in fingerprint.tuning for file in _own_files(folder, name)}
    for name in _every_file():
        if name not in named and (folder / name).exists():
            raise AdapterMismatchError(
                f"{folder} holds {name}, of which {FINGERPRINT} knows nothing",
                hint="files of two adapters were mixed: get the folder again",
            )
    return fingerprint, {name: _read(folder, name) for name in sorted(named)}


def _own_files(folder: Path, name: str) -> tuple[str, ...]:
    """The files that a tuner has in ``folder``."""
    tuner = registered(name)
    there = any((folder / file).exists() for file in tuner.behind_cut)
    return tuner.behind_cut if there else tuner.files


def _every_file() -> list[str]:
    return [name for tuner in TUNERS.values() for name in (*tuner.files, *tuner.behind_cut)]


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no {name}, so it is not an adapter of sealtune's",
            hint="give a run's folder adapter, or sites/SITE/adapter where parts stay at the sites",
        ) from error
    except OSError as error:
        raise ModelError(f"{folder / name} cannot be read: {reason(error)}") from error
