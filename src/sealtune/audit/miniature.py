"""A run made small: its own settings, the first blocks of its model, a part of its rows.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sealtune.data.site import Example, SiteData
from sealtune.job.cache import cache_folder
from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job, ModelSpec
from sealtune.job.storage import storage_error
from sealtune.model.files import model_digest
from sealtune.model.fit import fit_texts, fitting_task
from sealtune.model.load import load_config, load_model, load_tokenizer, quiet
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import Task
from sealtune.model.texts import Texts
from sealtune.plan.planner import first_block, make_plan
from sealtune.plan.split import cut_at
from sealtune.tuning.apply import apply_tuning


@dataclass(frozen=True)
class Miniature:
    """What an attack works on.

    Attributes:
        job: the run's settings, of a model with few blocks.
        labels: class names in the order of their numbers.
        sites: some of each site's rows.
    """

    job: Job
    labels: tuple[str, ...]
    sites: Mapping[str, SiteData]

    @cached_property
    def task(self) -> Task:
        """The job's, with the model's tokenizer."""
        return fitting_task(self.job, self.labels)

    @cached_property
    def plan(self) -> SlicePlan:
        """Which module runs where, with the int8 backbone if the job needs one."""
        return make_plan(self.job, len(self.labels) or None)

    def base(self) -> Any:
        """A fresh copy of the frozen model."""
        return load_model(self.job.model, len(self.labels) or None)

    def tuned(self, texts: Texts | None = None) -> Any:
        """A fresh copy with the job's tuners on it and their first values.

        Args:
            texts: for tuners that look at data; default: all training rows.
        """
        base, size = self.base(), self.job.train.batch_size
        given = texts or self.texts([row for one in self.sites.values() for row in one.train])
        batch = given.batch(range(min(size, len(given))))
        return apply_tuning(
            base,
            self.job.tuning,
            self.job.model.task,
            self.job.job.seed,
            first_block=first_block(self.job, int(base.config.num_hidden_layers)),
            calibrate=lambda: self.task.loss(base, batch),
        )

    def texts(self, rows: Sequence[Example]) -> Texts:
        """Rows as the model reads them."""
        config, virtual = load_config(self.job.model), self.job.tuning.virtual_tokens
        return fit_texts(self.task, config, rows, virtual_tokens=virtual)


def cut_model(spec: ModelSpec, blocks: int) -> ModelSpec:
    """A model of the first ``blocks`` blocks of ``spec``'s, kept in the cache.

    Raises:
        ModelError: it cannot be loaded, or has no list of blocks.
        StorageError: it cannot be written.
    """
    if blocks >= int(load_config(spec).num_hidden_layers):
        return spec
    folder = cache_folder() / "audit" / f"{model_digest(spec)[:24]}-{blocks}"
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.part")
        try:
            part.mkdir(parents=True)
            _write_cut(spec, blocks, part)
            part.rename(folder)
        except OSError as error:
            raise storage_error(folder, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return ModelSpec(path=str(folder), task=spec.task)


def _write_cut(spec: ModelSpec, blocks: int, folder: Path) -> None:
    model = load_model(spec.model_copy(update={"task": "causal-lm"}), None)
    name, every = find_blocks(model)
    for key, value in model.config.to_dict().items():
        if isinstance(value, list) and len(value) == len(every):  # something of each block
            setattr(model.config, key, value[:blocks])
    model.config.num_hidden_layers = blocks
    model.set_submodule(name, every[:blocks])
    with quiet():
        model.save_pretrained(folder)
        load_tokenizer(spec).save_pretrained(folder)


def at_most(job: Job, model: ModelSpec, blocks: int, of: int, tokens: int) -> Job:
    """``job`` on a model of ``blocks`` in the place of ``of`` blocks; these count from the end."""

    def moved(block: int, least: int = 0) -> int:
        return max(least, block - (of - blocks))

    split, tuning = job.split, job.tuning
    lowest = 0
    if split is not None:
        lowest = min(moved(cut_at(split.cut, of), 1), blocks - 1)
        split = split.model_copy(update={"cut": lowest})
    for name in ("lora", "spf"):
        own = getattr(tuning, name)
        if own is not None and own.layers is not None:
            layers = tuple(sorted({moved(layer, lowest) for layer in own.layers}))
            own = own.model_copy(update={"layers": layers})
            tuning = tuning.model_copy(update={name: own})
    limit = min(tokens, job.data.max_tokens)
    return job.model_copy(
        update={
            "model": model,
            "split": split,
            "tuning": tuning,
            "data": job.data.model_copy(update={"max_tokens": limit}),
        }
    )
