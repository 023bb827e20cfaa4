"""What several sites are sent alike is sealed once; each site's own message has the key to it.

    part, questions = share(questions, job_id, round)     # the server
    own = attach(session.seal(encoded, round, beside=part))
    message = Messages({site: own}, part, {site})[site]

    own, part = detach(message)                           # a site
    question = restore(decode(session.open(own, round, beside=part)), part, job_id, round)

A round's adapter leaves the server once then, and not once for each site. The part is a stream of
its own (``channel.stream``) under a fresh key that is used for nothing else. Every site has that
key, so a tag of AES-GCM proves nothing among them: each own message is bound to SHA-384 of all the
part's bytes (``SealedSession.seal``, ``beside``).

On the wire: magic "STSH" | length of the own message u64, little-endian | own message | part.

Trust domain: every enclave.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from sealtune.channel import stream
from sealtune.channel.stream import (
    DEFAULT_CHUNK,
    DIGEST_SIZE,
    SALT_SIZE,
    SECRET_SIZE,
    Header,
)
from sealtune.errors import ChannelError
from sealtune.frames import Frame, length_prefixed

MAGIC = b"STSH"
LEAST = 1 << 14  # bytes of a body that are worth it
_HEAD = struct.Struct("<4sQ")
_KEY = "shared"  # in a question's meta: the key, in hex


def share(
    questions: Mapping[str, Frame], job_id: bytes, round: int
) -> tuple[bytes, dict[str, Frame]]:
    """Seal the body that most questions have in common, if any do; it is the same object there.

    Returns:
        The sealed part (empty: nothing is shared), and the questions, those with that body without
        it and with the key.
    """
    count = Counter(id(one.body) for one in questions.values() if len(one.body) >= LEAST)
    most, sites = count.most_common(1)[0] if count else (0, 0)
    if sites < 2:
        return b"", dict(questions)
    body = next(one.body for one in questions.values() if id(one.body) == most)
    key = secrets.token_bytes(SECRET_SIZE)
    salt = secrets.token_bytes(SALT_SIZE)
    header = Header(DEFAULT_CHUNK, 0, round, _binding(job_id), bytes(DIGEST_SIZE), salt)
    part, _ = stream.seal(key, header, memoryview(body).cast("B"))
    return part, {
        site: Frame(one.kind, {**one.meta, _KEY: key.hex()}) if one.body is body else one
        for site, one in questions.items()
    }


def is_short(question: Frame) -> bool:
    """Whether a question's body is in the shared part."""
    return _KEY in question.meta


def attach(own: bytes) -> bytes:
    """What a site's message is before the shared part, which follows it."""
    return _HEAD.pack(MAGIC, len(own)) + own


@dataclass(frozen=True, eq=False)
class Messages(Mapping[str, bytes]):
    """Each site's message. The part lies in memory once, however many sites there are: a message
    is put together when it is asked for.

    Attributes:
        own: site -> what it has of its own.
        part: follows that of the sites ``alike``.
    """

    own: dict[str, bytes] = field(default_factory=dict)
    part: bytes = b""
    alike: Collection[str] = frozenset()

    def __getitem__(self, site: str) -> bytes:
        own = self.own[site]
        return own + self.part if site in self.alike else own

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def size(self, site: str) -> int:
        """Bytes of a site's message."""
        return len(self.own[site]) + len(self.part) * (site in self.alike)


def detach(message: bytes) -> tuple[memoryview, memoryview]:
    """The site's own message, and the shared part, which is empty where there is none.

    Raises:
        ChannelError: it announces more than there is.
    """
    view = memoryview(message)
    if not message.startswith(MAGIC):
        return view, view[:0]
    if len(message) < _HEAD.size:
        raise ChannelError("a message with a shared part is cut short")
    _, length = _HEAD.unpack_from(message)
    end = _HEAD.size + length
    if end >= len(message):
        raise ChannelError("a message with a shared part is cut short")
    return view[_HEAD.size : end], view[end:]


def restore(question: Frame, part: memoryview, job_id: bytes, round: int) -> Frame:
    """The question with its body.

    Raises:
        ChannelError: key and part are not both there, or do not fit.
        SealError: the part is of another job or round, or does not open.
    """
    key = question.meta.get(_KEY)
    if key is None and not part:
        return question
    if not isinstance(key, str) or not part or len(question.body):
        raise ChannelError("a question with a key and no shared part, or the other way round")
    try:
        secret = bytes.fromhex(key)
    except ValueError as error:
        raise ChannelError("the key of a shared part is not in hexadecimal") from error
    header = Header.unpack(part)
    if (header.binding, header.round) != (_binding(job_id), round):
        raise ChannelError("a shared part of another job or round")
    body, _ = stream.unseal(secret, header, part)
    meta = {name: value for name, value in question.meta.items() if name != _KEY}
    return Frame(question.kind, meta, body)


def _binding(job_id: bytes) -> bytes:
    return hashlib.sha384(length_prefixed(b"sealtune/shared/v1", job_id)).digest()
