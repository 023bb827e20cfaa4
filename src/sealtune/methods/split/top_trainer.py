"""The top of a split model in the server enclave: trained, tested, kept and exported.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sealtune.errors import StorageError
from sealtune.job.compute_rules import is_gpu_stand_in
from sealtune.job.training_events import Exported, Heads, Phase, Step
from sealtune.model.batches import sorted_batches, step_batches
from sealtune.model.checkpointing import compute_blocks_again
from sealtune.model.compare import SAME_LEAST, compare_logits
from sealtune.model.compute import Compute
from sealtune.model.cut import CutEntry
from sealtune.model.load import load_tokenizer
from sealtune.model.partial import load_part
from sealtune.model.samples import Contents, Sample, Samples
from sealtune.model.tasks import task_of
from sealtune.model.trainable import load_trainable_state, trainable_parameters, trainable_state
from sealtune.model.training import (
    Evaluation,
    RoundResult,
    StepInfo,
    evaluate,
    local_round,
    make_optimizer,
)
from sealtune.party.admit import Admitted
from sealtune.party.events import Emit
from sealtune.tuning.adapter import (
    adapter_files,
    fingerprint_of,
    install_adapter,
    require_same_state,
)
from sealtune.tuning.apply import apply_tuning, tuning_choices

EVERYBODY = "all"  # whose samples are trained on, as a part of the seed
WARM = "warm"  # as a part of the seed of the steps before heads are chosen
CALIBRATION = 4  # batches that SPF's selectors look at
_CHECKED = 8  # samples on which an export is compared with the live top
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class SampleSource(Protocol):
    """Where samples come from."""

    def samples(self, site: str, part: Literal["train", "test"], /) -> list[Sample]:
        """A site's samples of one part."""

    def read(self, sample: Sample, /) -> Contents:
        """What was sent of one."""


@dataclass(frozen=True)
class TopState:
    """All that a trainer needs to go on.

    Attributes:
        choices: what its tuners chose.
        tensors: safetensors bytes of what is tuned, ``model/...``, and of AdamW's moments.
    """

    choices: dict[str, Any]
    tensors: bytes


class TopTrainer:
    """Model, optimizer and samples.

    Args:
        admitted: the job, checked.
        store: the sites' samples (``SampleStore``).
        emit: gets progress events.
    """

    def __init__(self, admitted: Admitted, store: SampleSource, emit: Emit) -> None:
        self._admitted = admitted
        self._job = admitted.job
        self._store = store
        self._emit = emit
        self._compute = Compute.open(admitted.device, admitted.job.train.precision)
        emit(self._compute.said(stands_in=is_gpu_stand_in(admitted.job)))
        task = task_of(admitted.job, admitted.labels, load_tokenizer(admitted.job.model))
        self._task = self._compute.task(task)

    def begin(self, sites: Sequence[str], saved: TopState | None = None) -> None:
        """Load and tune the top for the samples of ``sites``.

        Args:
            sites: whose samples take part, in the job's order.
            saved: what ``save`` returned, to go on from there.

        Raises:
            ModelError: the model cannot be loaded or tuned.
            StorageError: ``saved`` does not fit.
        """
        tensors = _load_tensors(saved.tensors) if saved else {}
        top, self._entry = self._top()
        self._train = self._data(
            [sample for site in sites for sample in self._store.samples(site, "train")]
        )
        self._tests = {site: self._data(self._store.samples(site, "test")) for site in sites}
        self._model = self._tuned(top, saved.choices if saved else None)
        self._optimizer = make_optimizer(self._model, self._job.train)
        if saved:
            load_trainable_state(self._model, _below("model/", tensors))
            self._load_optimizer(tensors)
        spf = self._job.tuning.spf
        if spf is not None and (spf.release_heads or not spf.looks_at_data):
            config = self._model.config
            shared = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            heads = int(config.num_attention_heads)
            self._emit(Heads(heads=self.heads, query_heads=heads, key_value_heads=int(shared)))

    @property
    def heads(self) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
        """The heads that SPF chose; empty without SPF."""
        heads: Mapping[str, Mapping[str, tuple[int, ...]]] = tuning_choices(
            self._model, self._job.tuning
        ).get("spf", {})
        return heads

    def train(self, round_: int) -> RoundResult:
        """One round of steps on batches of all sites' samples.

        Raises:
            ModelError: it diverged, or what should move did not.
        """
        steps = self._job.train.steps(len(self._train))
        self._emit(Phase(round=round_, phase="train", of=steps))

        def on_step(info: StepInfo) -> None:
            loss = round(info.loss, 5)
            step, of, tokens = info.step, info.of, info.tokens
            self._emit(Step(round=round_, step=step, of=of, loss=loss, tokens=tokens))

        return local_round(
            self._model,
            self._task,
            self._train,
            self._job.train,
            seed=self._job.job.seed,
            round=round_,
            site=EVERYBODY,
            rounds=self._job.job.rounds,
            optimizer=self._optimizer,
            on_step=on_step,
        )

    def test(self, round_: int) -> dict[str, Evaluation]:
        """Every site's test samples, answered as the model is now."""
        self._emit(Phase(round=round_, phase="evaluate", of=0))
        size = self._job.train.eval_batch_size
        return {
            site: evaluate(self._model, self._task, data, batch_size=size)
            for site, data in self._tests.items()
        }

    def save(self) -> TopState:
        """What ``begin`` goes on from."""
        tensors = {f"model/{n}": t for n, t in trainable_state(self._model).items()}
        for name, parameter in trainable_parameters(self._model).items():
            moments = self._optimizer.state.get(parameter, {})
            for key in _MOMENTS:
                if key in moments:
                    tensors[f"{key}/{name}"] = torch.as_tensor(moments[key])
        here = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        return TopState(dict(tuning_choices(self._model, self._job.tuning)), save(here))

    def export(self) -> dict[str, bytes]:
        """The adapter's files, read back and compared with the live top.

        Raises:
            AdapterMismatchError: they do not give the same answers.
        """
        name = self._admitted.manifest.model.name  # its place here is nobody's business
        fingerprint = fingerprint_of(self._admitted).model_copy(update={"base_model": name})
        files = adapter_files(self._model, fingerprint)
        fresh, entry = self._top()
        fresh = install_adapter(fresh, files, fingerprint.tuning, "the export")
        require_same_state(self._model, fresh, fingerprint.tuning)
        data = next(filter(len, self._tests.values()), self._train)
        batch = data.batch(range(min(_CHECKED, len(data))))
        self._model.eval()
        with torch.no_grad():
            expected = self._task.logits(self._model, batch)
            got = self._task.logits(fresh, replace(batch, entry=entry))
        check = compare_logits(expected, got, least=SAME_LEAST)
        self._emit(Exported(difference=round(check.difference, 5), agreement=check.agreement))
        return files

    def answer(self, samples: Sequence[Sample]) -> list[list[float]]:
        """Probabilities of every class for each sample; for ``causal-lm`` the next token's id."""
        self._model.eval()
        answers: list[list[float]] = [[] for _ in samples]
        data = self._data(samples)
        for chosen in sorted_batches(data.lengths, self._job.train.eval_batch_size):
            batch = data.batch(chosen)
            with torch.no_grad():
                if self._task.labels:
                    rows = self._task.scores(self._model, batch).softmax(1)  # [B, C]
                else:
                    rows = self._task.next_tokens(self._model, batch)[:, None]  # [B, 1]
            for i, row in zip(chosen, rows.tolist(), strict=True):
                answers[i] = row
        return answers

    def _data(self, samples: Sequence[Sample]) -> Samples:
        return Samples(samples, self._store.read, self._entry, self._task.pad_id)

    def _tuned(self, top: Any, choices: Mapping[str, Any] | None) -> Any:
        def calibrate() -> Iterator[Tensor]:
            """Losses of the first batches that will be trained on: of all sites, one by one."""
            job, data = self._job, self._train
            for chosen in step_batches(
                data.lengths, job.train.batch_size, 0, CALIBRATION, job.job.seed, EVERYBODY
            ):
                yield self._task.loss(top, replace(data.batch(chosen), shows_padding=True))

        def warm(model: Any, steps: int) -> None:
            self._emit(Phase(round=0, phase="warm", of=0))
            train, seed = self._job.train, self._job.job.seed
            train = train.model_copy(update={"steps_per_round": steps})
            local_round(model, self._task, self._train, train, seed=seed, round=1, site=WARM)

        if self._job.train.checkpointing:
            compute_blocks_again(top)
        return apply_tuning(
            top,
            self._job.tuning,
            self._job.model.task,
            self._job.job.seed,
            first_block=self._admitted.cut,
            calibrate=calibrate,
            warm=warm,
            choices=choices,
        )

    def _top(self) -> tuple[Any, CutEntry]:
        """The frozen top as it is published, and where activations enter it."""
        cut = self._admitted.cut
        model = load_part(
            self._job.model,
            len(self._admitted.labels) or None,
            cut,
            "top",
            dtype=self._compute.dtype,
        )
        return self._compute.place(model), CutEntry(model, cut)

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in trainable_parameters(self._model).items():
            moments = {key: tensors.get(f"{key}/{name}") for key in _MOMENTS}
            if all(value is not None for value in moments.values()):
                # AdamW counts steps on the processor
                self._optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device)
                    for key, value in moments.items()
                    if value is not None
                }


def _load_tensors(data: bytes) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StorageError(
            "the checkpoint holds no tensors of a split job", hint="start the run anew"
        ) from error
    return tensors


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
