"""A site's data, model and adapter, and the three things that the server may ask for.

    evaluate {"round"}  -> metrics
    train    {"round"}  -> update, with the adapter's tensors
    release  {"round"}  -> metrics; the final adapter is written for the site's owner

Trust domain: client enclave.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sealtune.errors import FrameError
from sealtune.frames import Frame
from sealtune.job.events import Busy
from sealtune.job.training_events import Evaluated, Exported, Phase, Step, Worked
from sealtune.model.load import load_model
from sealtune.model.trainable import (
    load_trainable_state,
    read_tensors,
    trainable_state,
    write_tensors,
)
from sealtune.model.training import Evaluation, StepInfo, evaluate, local_round
from sealtune.offload.session import OffloadSession
from sealtune.party.admit import Admitted
from sealtune.party.events import Emit
from sealtune.tuning.adapter import fingerprint_of
from sealtune.tuning.apply import apply_tuning

_CHECKED = 8  # texts on which a written adapter is compared with the live one


class SiteTrainer:
    """Everything that a site's enclave holds.

    Args:
        admitted: the job, checked.
        session: the accelerator.
        emit: gets progress events.
    """

    def __init__(self, admitted: Admitted, session: OffloadSession, emit: Emit) -> None:
        job = admitted.job
        self._admitted = admitted
        self._job = job
        self._site = admitted.site
        self._session = session
        self._folder = admitted.adapter_folder
        self._emit = emit
        self._data, self._task = admitted.holdings.texts, admitted.holdings.task
        base = load_model(job.model, len(admitted.labels) or None)
        tuning = job.tuning.of_site(self._site)
        self._model = apply_tuning(base, tuning, job.model.task, job.job.seed)
        session.install(self._model)

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
        given = read_tensors(bytes(question.body), source := "the server's adapter")
        load_trainable_state(self._model, given, source)
        body = b""
        if question.kind == "train":
            fields = self._train(round_)
            body = write_tensors(trainable_state(self._model))
        else:
            fields = self._evaluate(round_, announce=question.kind == "evaluate")
        if question.kind == "release":
            self._release()
        meta = {"round": round_, **fields}
        meta["seconds"] = spent = self._seconds(time.perf_counter() - started, before)
        stated = {key: fields[key] for key in ("train_loss",) if key in fields}
        self._emit(Worked(round=round_, stage=question.kind, seconds=Busy(**spent), **stated))
        self._emit(Phase(round=round_, phase="wait", of=0))
        return Frame("update" if question.kind == "train" else "metrics", meta, body)

    def _train(self, round_: int) -> dict[str, Any]:
        steps = self._job.train.steps(len(self._data.train))
        self._emit(Phase(round=round_, phase="train", of=steps))

        def on_step(info: StepInfo) -> None:
            step, of, loss = info.step, info.of, round(info.loss, 5)
            self._emit(Step(round=round_, step=step, of=of, loss=loss, tokens=info.tokens))

        result = local_round(
            self._model,
            self._task,
            self._data.train,
            self._job.train,
            seed=self._job.job.seed,
            round=round_,
            site=self._site,
            proximal=self._job.aggregation.proximal,
            on_step=on_step,
        )
        return {"train_loss": result.train_loss, "frozen_unchanged": result.frozen_unchanged}

    def _evaluate(self, round_: int, *, announce: bool) -> dict[str, Any]:
        phase = "evaluate" if announce else "release"
        self._emit(Phase(round=round_, phase=phase, of=0))
        answers: Evaluation = evaluate(
            self._model,
            self._task,
            self._data.test,
            batch_size=self._job.train.eval_batch_size,
        )
        correct, total, loss = answers.correct, answers.total, answers.loss
        self._emit(Evaluated(round=round_, correct=correct, total=total, loss=loss))
        return {"correct": correct, "total": total, "loss": loss}

    def _release(self) -> None:
        from sealtune.tuning.folder import check_export, save_adapter  # needed once, at the end

        save_adapter(self._folder, self._model, fingerprint_of(self._admitted))
        texts = self._data.test or self._data.train
        batch = texts.batch(range(min(_CHECKED, len(texts))))
        check = check_export(self._folder, self._model.eval(), batch)
        self._emit(Exported(difference=round(check.difference, 5), agreement=check.agreement))

    def _seconds(self, wall: float, before: Mapping[str, float]) -> dict[str, float]:
        spent = {key: self._session.seconds[key] - before[key] for key in before}
        return {"enclave": max(0.0, wall - sum(spent.values())), **spent}
