"""What was recorded, given again: messages, checkpoints, evidence.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sealtune import frames
from sealtune.audit import statistics
from sealtune.audit.attack import Attack, Report
from sealtune.audit.ends import Ends
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.subject import Subject
from sealtune.channel import stream
from sealtune.channel.hpke import KeyPair
from sealtune.channel.sealed import SealedSession
from sealtune.channel.stream import SECRET_SIZE, Header
from sealtune.errors import SealtuneError
from sealtune.job.authenticated_file import OwnFiles
from sealtune.party.checkpoint import Checkpoint, CheckpointFile, State
from sealtune.party.continuity import own_continuity
from sealtune.party.history import History

_BODY = 2048  # bytes of a recorded message
_GUESS = "what was never recorded opens with probability 2^-128"


def _accepted(attempts: Iterator[Callable[[], object]]) -> Rate:
    """The share of attempts that are not refused; any other error is a fault of the attack."""
    outcomes = []
    for attempt in attempts:
        try:
            attempt()
        except SealtuneError:
            outcomes.append(False)
        else:
            outcomes.append(True)
    return statistics.share(sum(outcomes), len(outcomes))


# ---- messages and checkpoints --------------------------------------------------------------------


def _replay(subject: Subject, report: Report) -> list[Finding]:
    count = subject.scaled(200, 40)
    ends = Ends.of(subject)
    report(0.1, "sealed messages")
    server, site = ends.shake_hands()
    recorded = [site.outgoing.seal(secrets.token_bytes(_BODY), n) for n in range(count)]
    for number, message in enumerate(recorded):
        server.incoming.open(message, number)
    fresh, _ = ends.shake_hands()
    bare = _accepted(_opened_by_seal_alone(ends, count))
    measure = "share of recorded messages that are taken a second time"
    found = [
        Finding("replay", variant, measure, 0.0, bare, _accepted(attempts), note=_GUESS)
        for variant, attempts in (
            ("later in the same channel", _given(server.incoming, recorded, count)),
            ("to a server with a new channel", _given(fresh.incoming, recorded, 0)),
        )
    ]
    if "server" in subject.job.job.rules.attested:
        report(0.5, "checkpoints")
        baseline, protected = _put_back(subject, subject.scaled(60, 20))
        found.append(
            Finding(
                "replay",
                "an older checkpoint of the server",
                "share of checkpoints put back that a site goes on from",
                0.0,
                baseline,
                protected,
                note="the site has seen a later round; its seal alone opens",
            )
        )
    return found


def _given(
    session: SealedSession, recorded: Sequence[bytes], now: int
) -> Iterator[Callable[[], object]]:
    """Each message again, as of the round that is on or of the one that it claims."""
    for number, message in enumerate(recorded):
        yield partial(_opened_anywhere, session, message, (now, number))


def _opened_anywhere(session: SealedSession, message: bytes, rounds: Sequence[int]) -> None:
    """Open it in one of these rounds, or raise what the last one raises."""
    for number in rounds[:-1]:
        with contextlib.suppress(SealtuneError):
            session.open(message, number)
            return
    session.open(message, rounds[-1])


def _opened_by_seal_alone(ends: Ends, count: int) -> Iterator[Callable[[], object]]:
    """Messages of the same cipher to a receiver that asks whether they open, not where they go."""
    secret = secrets.token_bytes(SECRET_SIZE)
    sender = SealedSession(
        secret, job_id=ends.job_id, sender="site", receiver="server", mode="seal"
    )
    for number in range(count):
        message = sender.seal(secrets.token_bytes(_BODY), number)
        opened = partial(stream.unseal, secret, Header.unpack(message), memoryview(message))
        opened()  # the first time
        yield opened


class _Empty(State):
    """A method that keeps nothing beside tensors."""


def _put_back(subject: Subject, count: int) -> tuple[Rate, Rate]:
    """Older checkpoints to a server that starts again: without and with what sites remember."""
    job_id, key = bytes.fromhex(subject.job_id), secrets.token_bytes(32)
    rounds = max(2, min(8, subject.job.job.rounds + 1))
    with tempfile.TemporaryDirectory(prefix="sealtune-audit-") as made:
        folder = Path(made)
        history = History(key, job_id)
        file = CheckpointFile(folder, key, job_id, _Empty, history=history)
        site = subject.job.sites.names[0]
        files = OwnFiles(folder / "log.json", site, "00" * 32, secrets.token_bytes(32))
        memory = own_continuity(subject.job_id, files)
        kept = []
        for number in range(rounds):
            file.save(Checkpoint(number, _Empty(), secrets.token_bytes(64)))
            kept.append(folder / f"round-{number}")
            shutil.copy(file.path, kept[-1])
            memory.follow(history.stated(number - 1).fields)
        older = [kept[n % (rounds - 1)] for n in range(count)]

        def started(path: Path) -> dict[str, Any]:
            shutil.copy(path, file.path)
            again = History(key, job_id)
            CheckpointFile(folder, key, job_id, _Empty, history=again).load()
            return again.stated().fields

        def followed(path: Path) -> None:
            memory.follow(started(path))

        baseline = _accepted(partial(started, path) for path in older)
        protected = _accepted(partial(followed, path) for path in older)
    return baseline, protected


REPLAY = Attack(
    "replay",
    "Gives recorded messages and older checkpoints again.",
    "network, coordinator, or whoever stores the server enclave's files",
    _replay,
)


# ---- evidence ------------------------------------------------------------------------------------


def _relay(subject: Subject, report: Report) -> list[Finding]:
    count, ends = subject.scaled(100, 40), Ends.of(subject)
    found = []
    variants = [
        ("a site's evidence, under another key", _keys_of_site),
        ("a site's evidence, in a later handshake", _later_handshake),
    ]
    if "server" in ends.shown:
        variants.append(("the server's evidence, under another key", _keys_of_server))
    for place, (variant, attempts) in enumerate(variants):
        report(place / len(variants), variant)
        baseline, protected = (_accepted(attempts(e, count)) for e in (ends.unbound(), ends))
        measure = "share of relayed evidence that is accepted"
        note = "unprotected: who signed is checked, not for which conversation"
        found.append(Finding("relay", variant, measure, 0.0, baseline, protected, note=note))
    return found


def _with_key(message: bytes, key: KeyPair) -> bytes:
    """A hello with genuine evidence and the middle's public key."""
    frame = frames.decode(message)
    meta = {**frame.meta, "public_key": key.public_bytes.hex()}
    return frames.encode(frames.Frame(frame.kind, meta, frame.body))


def _keys_of_site(ends: Ends, count: int) -> Iterator[Callable[[], object]]:
    """The middle puts its key into the site's hello."""
    for _ in range(count):
        server, client, middle = ends.server(), ends.client(), KeyPair.generate()
        hello = _with_key(client.on_challenge(server.challenge()), middle)
        yield partial(server.on_hello, hello)


def _keys_of_server(ends: Ends, count: int) -> Iterator[Callable[[], object]]:
    """The middle puts its key into the server's hello, so that the site seals its half to it."""
    for _ in range(count):
        server, client, middle = ends.server(), ends.client(), KeyPair.generate()
        reply = _with_key(server.on_hello(client.on_challenge(server.challenge())), middle)
        yield partial(client.on_server_hello, reply)


def _later_handshake(ends: Ends, count: int) -> Iterator[Callable[[], object]]:
    """A recorded hello answers another challenge."""
    for _ in range(count):
        first, client, later = ends.server(), ends.client(), ends.server()
        hello = client.on_challenge(first.challenge())
        first.on_hello(hello)
        later.challenge()
        yield partial(later.on_hello, hello)


RELAY = Attack(
    "relay",
    "Shows genuine evidence of an enclave as the middle's own, or a second time.",
    "whoever is in the middle between a site and the server",
    _relay,
)
