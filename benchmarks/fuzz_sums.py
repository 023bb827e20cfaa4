"""The parsers of secure aggregation that `benchmarks/fuzz.py` feeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz_evidence import NOW, Target, from_file
from fuzz_mutate import framed, raw
from sealtune import frames
from sealtune.attest import Evidence
from sealtune.attest.platforms.unattested import (
    UnattestedAttester,
    UnattestedVerifier,
    unattested_policy,
)
from sealtune.frames import Frame
from sealtune.job.authenticated_file import OwnFiles
from sealtune.methods.secure_aggregation.messages import names_of, pack, unpack, unpack_all
from sealtune.owner.given_sums import GivenSums
from sealtune.secure_sum import roster, shares
from sealtune.secure_sum.collector import Collector
from sealtune.secure_sum.member import Member
from sealtune.secure_sum.ring import to_bytes
from sealtune.secure_sum.terms import Terms

SITES = ("north", "south", "west")
KEYS = {
    site: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n, site in enumerate(SITES, 1)
}
TERMS = Terms(
    job_id=bytes(48),
    number=1,
    keys={site: key.public_key() for site, key in KEYS.items()},
    organisations={site: site for site in SITES},
    least_sites=3,
    least_organisations=3,
)
SUBJECT, BOUND, LENGTH = bytes(32), bytes(range(64)), 4


class Sum:
    """One sum up to a step, of which a site or the server is then fed something else.

    Attributes:
        members: site -> itself.
        server: with all that they have sent.
    """

    def __init__(self, until: int) -> None:
        self.members = {site: Member(TERMS, site, KEYS[site]) for site in SITES}
        self.server = Collector(TERMS, LENGTH, SUBJECT)
        for step in (self._keys, self._shares, self._vectors, self._survivors)[:until]:
            step()

    def _keys(self) -> None:
        for site, member in self.members.items():
            self.server.take_keys(site, self.server.check_keys(site, member.advertise()))

    def _shares(self) -> None:
        for site, member in self.members.items():
            self.server.take_shares(site, member.share(self.server.roster.encoded))

    def _vectors(self) -> None:
        for site, member in self.members.items():
            member.receive(SITES, self.server.sealed_for(site), SUBJECT)
            self.server.take_vector(site, member.mask(np.zeros(LENGTH, np.uint64)))

    def _survivors(self) -> None:
        for site, member in self.members.items():
            self.server.take_signature(site, member.confirm(SITES))


def sum_targets(folder: Path) -> list[Target]:
    """All of them."""
    whole = Sum(4)
    keys = whole.server.roster.encoded["north"]
    asked = frames.encode(pack("shares", 1, whole.server.roster.encoded))
    sealed = frames.encode(
        pack("vector", 1, whole.server.sealed_for("north"), b"x", sharers=list(SITES))
    )
    lists = frames.encode(pack("survivors", 1, dict.fromkeys(SITES, b"")))
    signed = frames.encode(pack("unmask", 1, whole.server.signatures))
    given = frames.encode(pack("unmask", 1, dict.fromkeys(SITES, bytes(16))))
    vector = to_bytes(np.arange(LENGTH, dtype=np.uint64))
    own = GivenSums(OwnFiles(folder / "log.json", "north", "00" * 32, bytes(32)), "00" * 48)
    own.note(3)
    file = own.path.read_bytes()
    nothing = UnattestedAttester().collect(BOUND).encode()
    return [
        Target("keys of a sum", _read_keys, raw(keys), (keys,), 2_000),
        _at("roster of a sum", 1, _share, asked),
        _at("shares of a sum", 2, _receive, sealed),
        _at("survivors of a sum", 3, _confirm, lists),
        _at("signatures of a sum", 4, _unmask, signed),
        Target("given shares", _given(whole.server), framed(given), (given,), 2_000),
        Target("masked vector", _vector(whole.server), raw(vector), (vector,), 2_000),
        Target(
            "given sums",
            from_file(folder, own.path.name, lambda _: own.check(4)),
            raw(file),
            (file,),
            400,
        ),
        Target("no evidence", _verify, raw(nothing), (nothing,), 2_000),
    ]


def _at(name: str, until: int, work: Callable[[Member, Frame], object], seed: bytes) -> Target:
    """A site's step; each input meets a site of its own, so no seed is valid there."""

    def parse(data: bytes) -> None:
        question = frames.decode(data)
        work(Sum(until).members["north"], question)

    return Target(name, parse, framed(seed), (), 300)


def _read_keys(data: bytes) -> None:
    roster.read_keys(TERMS, "north", data)


def _share(member: Member, question: Frame) -> None:
    member.share(unpack_all(question, roster.SIZE))


def _receive(member: Member, question: Frame) -> None:
    sealed, _ = unpack(question, shares.SEALED)
    member.receive(names_of(question.meta, "sharers"), sealed, SUBJECT)


def _confirm(member: Member, question: Frame) -> None:
    member.confirm(names_of(question.meta, "sites"))


def _unmask(member: Member, question: Frame) -> None:
    member.unmask(unpack_all(question, roster.SIGNATURE))


def _given(server: Collector) -> Callable[[bytes], Any]:
    return lambda data: server.check_given("north", unpack_all(frames.decode(data), shares.SECRET))


def _vector(server: Collector) -> Callable[[bytes], Any]:
    return lambda data: server.check_vector("north", data)


def _verify(data: bytes) -> None:
    evidence, policy = Evidence.decode(data), unattested_policy()
    UnattestedVerifier().verify(evidence, report_data=BOUND, policy=policy, at=NOW)
