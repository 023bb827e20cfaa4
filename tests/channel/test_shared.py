"""What several sites are sent alike: sealed once, and refused when anything about it is altered."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune import frames
from sealtune.channel.sealed import SealedSession
from sealtune.channel.shared import LEAST, attach, detach, is_short, restore, share
from sealtune.channel.stream import HEADER_SIZE, TAG, Header
from sealtune.errors import ChannelError, SealError
from sealtune.frames import Frame

JOB = bytes(range(48))
SITES = ("north", "south", "west")
BODY = bytes(range(256)) * (LEAST // 256)


def session(mode: str, site: str) -> SealedSession:
    settings: dict[str, Any] = {"job_id": JOB, "sender": "server", "receiver": f"client:{site}"}
    return SealedSession(bytes(32), mode=mode, **settings)


def questions(body: bytes = BODY) -> dict[str, Frame]:
    return {site: Frame("train", {"trained": n}, body) for n, site in enumerate(SITES)}


def messages(asked: dict[str, Frame], round_: int = 3) -> tuple[dict[str, bytes], bytes]:
    """As the server sends them, and the shared part."""
    part, short = share(asked, JOB, round_)
    sent = {}
    for site, question in short.items():
        beside = part if is_short(question) else b""
        own = session("seal", site).seal(frames.encode(question), round_, beside=beside)
        sent[site] = attach(own) + part if beside else own
    return sent, part


def received(site: str, message: bytes, job: bytes = JOB, round_: int = 3) -> Frame:
    own, part = detach(message)
    opened = session("open", site).open(own, round_, beside=part)
    return restore(frames.decode(opened), part, job, round_)


def test_each_site_gets_its_own_question_and_the_body() -> None:
    sent, part = messages(questions())
    assert len(part) == HEADER_SIZE + len(BODY) + TAG
    for number, site in enumerate(SITES):
        assert sent[site].endswith(part)
        assert len(sent[site]) - len(part) < 600
        assert received(site, sent[site]) == Frame("train", {"trained": number}, BODY)


def test_nothing_is_shared_that_is_short_or_one_sites_alone() -> None:
    for asked in (
        questions(BODY[:-1]),
        {"north": Frame("train", {}, BODY)},
        {site: Frame("train", {}, BODY + site.encode()) for site in SITES},
    ):
        part, same = share(asked, JOB, 3)
        assert part == b""
        assert same == asked


def test_a_site_with_another_body_gets_it_whole() -> None:
    asked = questions() | {"west": Frame("train", {}, BODY * 2)}
    sent, part = messages(asked)
    assert part not in sent["west"]
    assert received("west", sent["west"]) == asked["west"]
    assert received("south", sent["south"]) == asked["south"]


def test_neither_body_nor_key_is_seen_on_the_way() -> None:
    asked = questions(b"needle in a haystack, " * 1000)
    _, short = share(asked, JOB, 3)
    key = bytes.fromhex(short["north"].meta["shared"])
    sent, _ = messages(asked)
    for message in sent.values():
        assert b"needle" not in message
        assert key not in message
    _, again = share(asked, JOB, 3)
    assert again["north"].meta["shared"] != short["north"].meta["shared"]


def test_every_byte_of_the_part_counts_and_the_channel_stays() -> None:
    sent, part = messages(questions())
    receiver = session("open", "north")
    own, _ = detach(sent["north"])
    for place in (0, 5, HEADER_SIZE, HEADER_SIZE + len(BODY) // 2, len(part) - 1):
        altered = bytearray(part)
        altered[place] ^= 1
        with pytest.raises(SealError, match="beside it was altered"):
            receiver.open(own, 3, beside=altered)
    for other in (b"", part[:-1], part + b"\0"):
        with pytest.raises(SealError):
            receiver.open(own, 3, beside=other)
    receiver.open(own, 3, beside=part)  # the genuine one opens after all of these


def times(a: int, b: int) -> int:
    """Product in GF(2^128) as GCM has it (NIST SP 800-38D, 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        product ^= b if a >> bit & 1 else 0
        b = b >> 1 ^ (0xE1 << 120 if b & 1 else 0)
    return product


def test_a_site_cannot_alter_another_ones_body_though_it_has_the_key() -> None:
    """Whoever has a key of AES-GCM makes other ciphertexts under the same tag."""
    asked = questions()
    part, short = share(asked, JOB, 3)
    secret = bytes.fromhex(short["west"].meta["shared"])  # west is hostile, with the relay
    header = Header.unpack(part)
    info = b"sealtune/stream/v1" + header.pack()
    key = HKDF(SHA384(), 32, salt=header.salt, info=info).derive(secret)
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    hash_key = int.from_bytes(encryptor.update(bytes(16)))
    forged = bytearray(part)
    change = 1 << 64
    for block, delta in ((0, change), (1, times(change, hash_key))):
        place = slice(HEADER_SIZE + 16 * block, HEADER_SIZE + 16 * (block + 1))
        forged[place] = (int.from_bytes(forged[place]) ^ delta).to_bytes(16)
    opened = restore(short["north"], memoryview(bytes(forged)), JOB, 3)
    assert opened.body != BODY  # the forgery is one: by itself the part opens
    own = session("seal", "north").seal(frames.encode(short["north"]), 3, beside=part)
    with pytest.raises(SealError, match="beside it was altered"):
        received("north", attach(own) + bytes(forged))


def test_a_part_of_another_round_or_job() -> None:
    part, short = share(questions(), JOB, 2)
    own = session("seal", "north").seal(frames.encode(short["north"]), 3, beside=part)
    with pytest.raises(ChannelError, match="another job or round"):
        received("north", attach(own) + part)
    sent, _ = messages(questions())
    with pytest.raises(ChannelError, match="another job or round"):
        received("north", sent["north"], job=bytes(48))


def test_key_and_part_come_together() -> None:
    part, short = share(questions(), JOB, 3)
    lonely = memoryview(b"")
    for question, beside in (
        (short["north"], lonely),
        (Frame("train", {}), memoryview(part)),
        (Frame("train", short["north"].meta, b"more"), memoryview(part)),
        (Frame("train", {"shared": 7}), memoryview(part)),
        (Frame("train", {"shared": "no hex"}), memoryview(part)),
        (Frame("train", {"shared": "00"}), memoryview(part)),
    ):
        with pytest.raises((ChannelError, SealError)):
            restore(question, beside, JOB, 3)


@pytest.mark.parametrize("length", [0, 4, 11, 12, 100])
def test_what_is_cut_short(length: int) -> None:
    sent, part = messages(questions())
    own_end = len(sent["north"]) - len(part)
    for cut in (length, min(length + own_end - 100, own_end)):
        message = sent["north"][:cut]
        if re.match(b"STSH", message):
            with pytest.raises(ChannelError):
                detach(message)
