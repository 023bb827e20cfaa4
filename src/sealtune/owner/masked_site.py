"""A site under secure aggregation: it trains as in an enclave, and masks what leaves.

Trust domain: data owner. The server is untrusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.errors import FrameError, SecureAggregationError
from sealtune.frames import Frame, is_count
from sealtune.methods.federated.adapter import read_adapter
from sealtune.methods.secure_aggregation.messages import (
    Step,
    names_of,
    pack,
    stage_of,
    terms_of,
    unpack,
    unpack_all,
)
from sealtune.methods.secure_aggregation.vectors import Answers, Vectors
from sealtune.owner.given_sums import GivenSums
from sealtune.party.admit import Admitted
from sealtune.party.site_program import Worker
from sealtune.secure_sum import roster, shares
from sealtune.secure_sum.member import Member
from sealtune.secure_sum.ring import Vector, to_bytes


class MaskedSite:
    """Answers the server during a run; see ``messages``.

    Args:
        admitted: the job, checked.
        key: the organisation's.
        trainer: trains and evaluates; asked as the aggregator of a federated job would.
    """

    def __init__(self, admitted: Admitted, key: Ed25519PrivateKey, trainer: Worker) -> None:
        self._admitted = admitted
        self._key = key
        self._trainer = trainer
        self._rounds = admitted.settings.job.rounds
        self._vectors = Vectors(admitted.manifest)
        self._given = GivenSums(admitted.own, admitted.job_id)
        self._number = -1
        self._member: Member | None = None
        self._steps: dict[str, Callable[[Member, Frame], Frame]] = {
            "shares": self._shares,
            "vector": self._vector,
            "survivors": self._survivors,
            "unmask": self._unmask,
        }

    def answer(self, question: Frame) -> Frame:
        """Do what the server asks.

        Raises:
            FrameError: not a question that a site answers.
            SecureAggregationError: one that no honest server asks; nothing was given out.
            SealtuneError: the work failed.
        """
        number = question.meta.get("round")
        if not is_count(number):
            raise FrameError(f"the server asked {question.kind[:40]!r} for round {number!r}")
        if question.kind == "keys":
            return self._begin(number)
        if question.kind not in self._steps:
            raise FrameError(f"the server asked {question.kind[:40]!r}")
        if self._member is None or number != self._number:
            raise SecureAggregationError(f"a question about sum {number}, which was not begun")
        return self._steps[question.kind](self._member, question)

    def _begin(self, number: int) -> Frame:
        if number > self._rounds + 1:
            raise SecureAggregationError(f"the job has no sum {number}")
        self._given.check(number)
        terms = terms_of(self._admitted.manifest, self._admitted.job_id, number)
        self._number, self._member = number, Member(terms, self._admitted.site, self._key)
        return self._reply("keys", self._member.advertise())

    def _shares(self, member: Member, question: Frame) -> Frame:
        sealed = member.share(unpack_all(question, roster.SIZE))
        return pack("shares", self._number, sealed)

    def _vector(self, member: Member, question: Frame) -> Frame:
        sealed, adapter = unpack(question, shares.SEALED)
        sharers = names_of(question.meta, "sharers")
        member.receive(sharers, sealed, hashlib.sha256(adapter).digest())
        vector, meta = self._work(adapter)
        spent = meta["seconds"]["enclave"]
        stated = {"seconds": spent, "frozen_unchanged": meta.get("frozen_unchanged", True)}
        return self._reply("vector", to_bytes(member.mask(vector)), **stated)

    def _survivors(self, member: Member, question: Frame) -> Frame:
        return self._reply("survivors", member.confirm(names_of(question.meta, "sites")))

    def _unmask(self, member: Member, question: Frame) -> Frame:
        given = member.unmask(unpack_all(question, roster.SIGNATURE))
        self._given.note(self._number)  # on disk before a share leaves
        return pack("unmask", self._number, given)

    def _work(self, adapter: bytes) -> tuple[Vector, Any]:
        """What the sum is of, and what the trainer says of it besides."""
        stage = stage_of(self._number, self._rounds)
        round_ = min(self._number, self._rounds)
        answer = self._trainer.answer(Frame(stage, {"round": round_}, adapter))
        meta = answer.meta
        if stage != "train":
            found = Answers(meta["correct"], meta["total"], meta["loss"])
            return self._vectors.of_answers(found), meta
        shapes = self._admitted.plan.trainable
        before, after = (read_adapter(data, shapes) for data in (adapter, bytes(answer.body)))
        site, loss = self._admitted.site, meta["train_loss"]
        return self._vectors.of_training(site, before, after, loss), meta

    def _reply(self, step: Step, body: bytes, **stated: Any) -> Frame:
        return Frame(step, {"round": self._number, **stated}, body)
