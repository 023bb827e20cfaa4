"""Folders of finished runs, made without a process: settings, manifest, parties' files, adapter."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sealtune.cli.run_folder import prepare
from sealtune.job.dsse import Envelope
from sealtune.job.load import load_job
from sealtune.job.manifest import job_id, open_manifest
from sealtune.launch.folder import MANIFEST
from sealtune.model.files import model_digest
from sealtune.model.load import load_model
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.plan.planner import first_block
from sealtune.tuning.adapter import Fingerprint
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.folder import save_adapter
from sealtune.tuning.registry import sections as tuners
from tests.sample_job import write_job

SPLIT: dict[str, Any] = {"job": {"name": "tiny", "method": "split"}, "split": {"cut": 1}}


def make_run(folder: Path, model: Path, /, *, rows: tuple[int, int] = (60, 24), **own: Any) -> Path:
    """The folder of a run of a job whose sections are ``own`` (see ``job_values``), and whose
    adapter was moved at random.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = write_job(folder, model, rows=rows, **own)
    job, run_dir = load_job(file), folder / "run"
    prepare(job, file, run_dir, False, None, (), {})
    envelope = Envelope.read(run_dir / MANIFEST)
    labels = open_manifest(envelope).labels
    base = load_model(job.model, len(labels) or None)
    first = first_block(job, int(base.config.num_hidden_layers))
    tuned = apply_tuning(base, job.tuning, job.model.task, job.job.seed, first_block=first)
    torch.manual_seed(5)
    moved = {n: t + 0.02 * torch.randn_like(t) for n, t in trainable_state(tuned).items()}
    load_trainable_state(tuned, moved)
    fingerprint = Fingerprint(
        tuning=tuple(tuners(job.tuning)),
        base_model=job.model.path,
        base_model_digest=model_digest(job.model),
        job_id=job_id(envelope.payload),
        task=job.model.task,
        labels=labels,
        template=job.data.template,
        max_tokens=job.data.max_tokens,
        seed=job.job.seed,
        rounds=job.job.rounds,
        versions={name: version(name) for name in ("torch", "transformers", "peft")},
    )
    save_adapter(run_dir / "adapter", tuned, fingerprint)
    return run_dir
