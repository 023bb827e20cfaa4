"""A site's data, model and adapter, and the three things that the server may ask for.

    evaluate {"round"}  -> metrics
    train    {"round"}  -> update, with the adapter's shared tensors
    release  {"round"}  -> metrics; the final adapter is written for the site's owner, and with
                           ``aggregation.personal_steps`` a second one that goes on from it

In a job with personal parts a question also says ``trained``: see ``personal``.

Trust domain: client enclave; data owner (secure aggregation).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from sealtune.errors import FrameError
from sealtune.frames import Frame, is_count
from sealtune.job.compute_rules import is_gpu_stand_in
from sealtune.job.events import Busy
from sealtune.job.training_events import Evaluated, Exported, Personal, Phase, Step, Worked
from sealtune.memory import give_back_freed
from sealtune.methods.federated.personal import PersonalParts
from sealtune.methods.federated.prefixed_texts import PrefixedTexts, PrefixStore
from sealtune.model.activations import Form
from sealtune.model.checkpointing import compute_blocks_again
from sealtune.model.compare import ROUNDED_LEAST, SAME_LEAST
from sealtune.model.compute import Compute
from sealtune.model.cut_chunk import layout_of
from sealtune.model.frozen_prefix import FrozenPrefix
from sealtune.model.load import load_model
from sealtune.model.rest import load_rest
from sealtune.model.texts import Dataset
from sealtune.model.trainable import (
    copy_tensors,
    read_tensors,
    trainable_state,
    write_tensors,
)
from sealtune.model.training import Evaluation, RoundResult, StepInfo, evaluate, local_round
from sealtune.party.admit import Admitted
from sealtune.party.events import Emit
from sealtune.tuning.adapter import fingerprint_of
from sealtune.tuning.apply import apply_tuning

if TYPE_CHECKING:
    from sealtune.model.private_gradients import PrivateGradients
    from sealtune.privacy.ledger import SiteLedger

_CHECKED = 8  # texts on which a written adapter is compared with the live one


class Session(Protocol):
    """Where the frozen layers' products are computed.

    Attributes:
        seconds: spent so far on the ``accelerator``, on ``pads`` and on ``passes`` over codes.
    """

    seconds: dict[str, float]

    def install(self, model: nn.Module, /) -> None:
        """Put what computes them in the layers' place."""

    def rest(self) -> None:
        """Nothing is to be computed until the server asks again."""


@dataclass(frozen=True)
class _Rows:
    """What is trained and tested on, and what to do when that is over."""

    train: Dataset
    test: Dataset
    close: Callable[[], None] = lambda: None


class SiteTrainer:
    """Everything that a site's enclave holds.

    Args:
        admitted: the job, checked.
        session: what multiplies.
        emit: gets progress events.
    """

    def __init__(self, admitted: Admitted, session: Session, emit: Emit) -> None:
        job = admitted.job
        self._admitted = admitted
        self._job = job
        self._site = admitted.site
        self._session = session
        self._emit = emit
        self._compute = Compute.open(admitted.device, job.train.precision)
        emit(self._compute.said(stands_in=is_gpu_stand_in(job)))
        self._data, self._task = admitted.holdings.texts, self._compute.task(admitted.holdings.task)
        classes, dtype = len(admitted.labels) or None, self._compute.dtype
        if job.train.checkpointing:
            give_back_freed()
        if admitted.device == "cpu":
            base = load_rest(job.model, classes, admitted.plan, dtype=dtype)
        else:  # matrices that are converted in parts would be many small kernels there
            base = load_model(job.model, classes, dtype=dtype)
        if job.train.checkpointing:
            compute_blocks_again(base)
        tuning = job.tuning.of_site(self._site)
        tuned = apply_tuning(base, tuning, job.model.task, job.job.seed)
        self._model = self._compute.place(tuned)
        self._personal = PersonalParts(admitted, trainable_state(self._model))
        session.install(self._model)
        self._rows = _Rows(self._data.train, self._data.test)
        if admitted.plan.steady_blocks:
            self._rows = self._prefixed()
        self._ledger, self._private = self._privacy()

    def answer(self, question: Frame) -> Frame:
        """Do what the server asks.

        Raises:
            FrameError: not a question that a site answers.
            SealtuneError: the work failed.
        """
        round_ = question.meta.get("round")
        if not isinstance(round_, int) or question.kind not in {"evaluate", "train", "release"}:
            raise FrameError(f"the server asked {question.kind[:40]!r} for round {round_!r}")
        started = time.perf_counter()
        before = dict(self._session.seconds)
        self._begin(question, round_)
        body = b""
        if question.kind == "train":
            self._admitted.jobs.take_part(round_)
            fields = self._train(round_)
            state = trainable_state(self._model)
            self._personal.keep(round_, state)
            body = write_tensors(self._shared(state))
        else:
            fields = self._evaluate(round_, announce=question.kind == "evaluate")
        if question.kind == "release":
            self._export(self._admitted.adapter_folder)
            self._admitted.jobs.mark_released()
            if steps := self._job.aggregation.personal_steps:
                self._go_on(round_, steps)
        meta = {"round": round_, **fields}
        meta["seconds"] = spent = self._seconds(time.perf_counter() - started, before)
        stated = {key: fields[key] for key in ("train_loss",) if key in fields}
        self._emit(Worked(round=round_, stage=question.kind, seconds=Busy(**spent), **stated))
        self._emit(Phase(round=round_, phase="wait", of=0))
        if question.kind == "release":  # the last one
            self._rows.close()
        else:
            self._session.rest()
        return Frame("update" if question.kind == "train" else "metrics", meta, body)

    def _prefixed(self) -> _Rows:
        """The rows as the first tuned block takes them."""
        admitted, compute = self._admitted, self._compute
        prefix = FrozenPrefix(self._model, admitted.plan.steady_blocks, compute)
        form: Form = "bf16" if compute.dtype is torch.bfloat16 else "fp32"
        layout = layout_of(self._job, len(admitted.labels), form)
        folder, job_id = admitted.state_folder / "prefix", bytes.fromhex(admitted.job_id)
        store = PrefixStore(folder, job_id, layout)
        train = PrefixedTexts(self._data.train, "train", prefix, store)
        if self._job.privacy.unit == "example":  # which rows a step draws is secret
            train.run_all(self._job.train.eval_batch_size)
        return _Rows(train, PrefixedTexts(self._data.test, "test", prefix, store), store.close)

    def _shared(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t for name, t in state.items() if name not in self._personal.names}

    def _begin(self, question: Frame, round_: int) -> None:
        """Put on what the server sent, and the site's own parts as the round before left them."""
        state = trainable_state(self._model)
        sent = read_tensors(bytes(question.body), source := "the server's adapter")
        copy_tensors(self._shared(state), sent, source)
        if self._personal.names:
            trained = question.meta.get("trained")
            if not is_count(trained):
                raise FrameError("the server does not say when it last took an update")
            own = self._personal.after(round_ - (question.kind == "train"), trained)
            copy_tensors({name: state[name] for name in own}, own)

    def _privacy(self) -> tuple[SiteLedger | None, PrivateGradients | None]:
        """What counts rounds, and what hides single rows, as far as the manifest asks for it."""
        dp, privacy = self._admitted.manifest.dp, self._job.privacy
        if dp is None:
            return None, None
        from sealtune.privacy.ledger import SiteLedger

        admitted = self._admitted
        ledger = SiteLedger(admitted.own, admitted.job_id, admitted.manifest.rounds)
        if privacy.unit != "example":
            return ledger, None
        from sealtune.model.private_gradients import Noise, PrivateGradients

        noise = Noise(privacy.clip, dp.noise_multiplier)
        rows, spec = self._rows.train, self._job.train
        return ledger, PrivateGradients(self._model, self._task, rows, spec, noise)

    def _train(self, round_: int) -> dict[str, Any]:
        if self._ledger is not None:
            self._ledger.count()
        result = self._steps(round_, "train", self._round_steps)
        return {"train_loss": result.train_loss, "frozen_unchanged": result.frozen_unchanged}

    @property
    def _round_steps(self) -> int:
        return self._job.train.steps(len(self._data.train))

    def _steps(self, round_: int, phase: str, steps: int) -> RoundResult:
        """Train on the site's own rows."""
        self._emit(Phase(round=round_, phase=phase, of=steps))

        def on_step(info: StepInfo) -> None:
            step, of, loss = info.step, info.of, round(info.loss, 5)
            self._emit(Step(round=round_, step=step, of=of, loss=loss, tokens=info.tokens))

        return local_round(
            self._model,
            self._task,
            self._rows.train,
            self._job.train.model_copy(update={"steps_per_round": steps}),
            seed=self._job.job.seed,
            round=round_,
            site=self._site,
            rounds=self._admitted.manifest.rounds,
            first=(round_ - 1) * self._round_steps,
            proximal=self._job.aggregation.proximal if phase == "train" else 0.0,
            decays=phase == "personal",
            private=self._private if phase == "train" else None,  # what else stays at home
            on_step=on_step,
        )

    def _evaluate(self, round_: int, *, announce: bool) -> dict[str, Any]:
        phase = "evaluate" if announce else "release"
        self._emit(Phase(round=round_, phase=phase, of=0))
        answers = self._test()
        correct, total, loss = answers.correct, answers.total, answers.loss
        self._emit(Evaluated(round=round_, correct=correct, total=total, loss=loss))
        return {"correct": correct, "total": total, "loss": loss}

    def _test(self) -> Evaluation:
        size = self._job.train.eval_batch_size
        return evaluate(self._model, self._task, self._rows.test, batch_size=size)

    def _go_on(self, round_: int, steps: int) -> None:
        """From the joint adapter, as a round of the site's own: an adapter that stays here."""
        self._steps(round_ + 1, "personal", steps)
        mine = self._test()
        correct, total, loss = mine.correct, mine.total, mine.loss
        self._emit(Personal(steps=steps, correct=correct, total=total, loss=loss))
        self._export(self._admitted.personal_folder, steps)

    def _export(self, folder: Path, personal_steps: int = 0) -> None:
        from sealtune.tuning.folder import check_export, save_adapter  # needed at the end alone

        save_adapter(folder, self._model, fingerprint_of(self._admitted, personal_steps))
        part = "test" if len(self._data.test) else "train"
        texts, rows = getattr(self._data, part), getattr(self._rows, part)
        few = range(min(_CHECKED, len(texts)))
        same = not self._job.accelerated and self._job.train.precision == "fp32"
        check = check_export(
            folder,
            self._model.eval(),
            texts.batch(few),
            live_batch=rows.batch(few),
            compute=self._compute,
            least=SAME_LEAST if same else ROUNDED_LEAST,
            elsewhere=self._admitted.plan.quantised if self._admitted.plan.groups else (),
        )
        self._emit(Exported(difference=round(check.difference, 5), agreement=check.agreement))

    def _seconds(self, wall: float, before: Mapping[str, float]) -> dict[str, float]:
        spent = {key: self._session.seconds[key] - before[key] for key in before}
        return {"enclave": max(0.0, wall - sum(spent.values())), **spent}
