"""One sum as the server asks for it: five questions to the sites that are left.

What a site sends to the server fails that site alone. What it seals for others the server cannot
check: a site that shares nonsense stops the sum, and is named.

Trust domain: server operator.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any

from sealtune.errors import FrameError, SecureAggregationError
from sealtune.frames import Frame
from sealtune.methods.secure_aggregation.messages import Step, pack, terms_of, unpack_all
from sealtune.party.admit import Admitted
from sealtune.party.driver import Ask
from sealtune.party.outcome import SiteOutcome, new_outcomes
from sealtune.secure_sum import shares
from sealtune.secure_sum.collector import Collector
from sealtune.secure_sum.ring import Vector

Asking = Generator[Ask[Any] | None, list[str], list[str]]
_LONGEST = 1e9  # seconds


class OneSum:
    """What becomes of one sum.

    Args:
        admitted: the job.
        number: of the sum.
        length: of its vectors.
        adapter: bytes of the global adapter.
        anew: whether both sides make new channels first.

    Attributes:
        collector: what has come.
        outcomes: what became of each site.
    """

    def __init__(
        self, admitted: Admitted, number: int, length: int, adapter: bytes, *, anew: bool
    ) -> None:
        self._terms = terms_of(admitted.manifest, admitted.job_id, number)
        self._number = number
        self._adapter = adapter
        self._anew = anew
        self._rows = {site: data.train_rows for site, data in admitted.manifest.data.items()}
        subject = hashlib.sha256(adapter).digest()
        self.collector = Collector(self._terms, length, subject)
        self.outcomes: dict[str, SiteOutcome] = new_outcomes(admitted.settings.sites.names)

    @property
    def steps(self) -> Mapping[Step, Callable[[], Asking]]:
        """The five, in their order."""
        return {
            "keys": self._keys,
            "shares": self._shares,
            "vector": self._vector,
            "survivors": self._survivors,
            "unmask": self._unmask,
        }

    @property
    def survivors(self) -> list[str]:
        """Sites whose vectors are in the sum."""
        return sorted(self.collector.survivors)

    def suffices(self, step: Step, answered: Collection[str]) -> bool:
        """Whether so many sites can go on to the next step."""
        if step in ("survivors", "unmask"):
            return len(answered) >= self._terms.signatures
        try:
            self._terms.check_crowd(answered)
        except SecureAggregationError:
            return False
        return True

    def _keys(self) -> Asking:
        def check(site: str, answer: Frame) -> Any:
            return self.collector.check_keys(site, bytes(answer.body))

        questions = {site: pack("keys", self._number, {}) for site in self.outcomes}
        return (yield self._ask("keys", questions, check, self.collector.take_keys, self._anew))

    def _shares(self) -> Asking:
        def check(site: str, answer: Frame) -> Any:
            return self.collector.check_shares(site, unpack_all(answer, shares.SEALED))

        roster = self.collector.roster
        question = pack("shares", self._number, roster.encoded)
        questions = dict.fromkeys(roster.keys, question)
        return (yield self._ask("shares", questions, check, self.collector.take_shares))

    def _vector(self) -> Asking:
        def check(site: str, answer: Frame) -> tuple[Vector, dict[str, Any]]:
            vector = self.collector.check_vector(site, bytes(answer.body))
            return vector, self._report(site, answer.meta)

        def take(site: str, checked: tuple[Vector, dict[str, Any]]) -> None:
            vector, self.outcomes[site].fields = checked
            self.collector.take_vector(site, vector)

        sharers = sorted(self.collector.sealed)
        questions = {
            site: pack(
                "vector",
                self._number,
                self.collector.sealed_for(site),
                self._adapter,
                sharers=sharers,
            )
            for site in sharers
        }
        return (yield self._ask("vector", questions, check, take))

    def _survivors(self) -> Asking:
        def check(site: str, answer: Frame) -> bytes:
            return self.collector.check_signature(site, bytes(answer.body))

        question = pack("survivors", self._number, dict.fromkeys(self.survivors, b""))
        questions = dict.fromkeys(self.survivors, question)
        return (yield self._ask("survivors", questions, check, self.collector.take_signature))

    def _unmask(self) -> Asking:
        def check(site: str, answer: Frame) -> Mapping[str, bytes]:
            return self.collector.check_given(site, unpack_all(answer, shares.SECRET))

        signatures = self.collector.signatures
        question = pack("unmask", self._number, signatures)
        questions = dict.fromkeys(sorted(signatures), question)
        return (yield self._ask("unmask", questions, check, self.collector.take_given))

    def _ask(
        self,
        step: Step,
        questions: Mapping[str, Frame],
        check: Callable[[str, Frame], Any],
        take: Callable[[str, Any], None],
        anew: bool = False,
    ) -> Ask[Any]:
        def checked(site: str, answer: Frame) -> Any:
            if answer.kind != step or answer.meta.get("round") != self._number:
                raise FrameError(f"answered with {answer.kind[:40]!r}, not {step!r}")
            return check(site, answer)

        return Ask(questions, self._number, checked, take, self.outcomes, anew=anew)

    def _report(self, site: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        """What a site says of its work beside the vector; its metrics are in there."""
        seconds = meta.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise FrameError("the site does not report its seconds")
        if not (math.isfinite(seconds) and 0 <= seconds < _LONGEST):
            raise FrameError("the site's seconds are absurd")
        if meta.get("frozen_unchanged") is not True:
            raise FrameError("the site does not state that its frozen weights are unchanged")
        return {
            "examples": self._rows[site],
            "seconds": {"enclave": round(float(seconds), 3)},
            "frozen_unchanged": True,
        }
