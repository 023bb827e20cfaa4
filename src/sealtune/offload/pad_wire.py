"""How an enclave and its pad accelerator talk, and what both derive from one seed.

Frames over a socket; the pad accelerator speaks first:

    hello    {}  a fresh public key
      open     {"job", "site"}  two halves of a seed, sealed
    ok       {}
      pad      {"index", "group", "backward", "rows"}   make this pad, ahead of its use
      fetch    {"count"}                                let so many more come, when they are made
    pad      {"index"}  its product, in the order asked for
      skip     {}                                       forget what was asked for and not sent yet
    skipped  {}  in its place among the answers
      bye      {}                                       the connection ends

A request that fails is answered by ``error`` with a ``message``, and the connection ends.

Both halves count. The first is sealed to the key that the manifest names: nobody else learns the
seed. The second is sealed to the fresh one, which is gone with the connection: a copy of what
crossed opens for nobody, not even under the lasting key if that is stolen later, and cannot be
played again to have other products made of the same pads. Nobody vouches for the fresh key, so the
first half is bound to it, too: sealed beside a key that somebody in the middle offered, and of
which he knows the second half, it opens at no connection. The seed gives two key streams. ``mask``
is the pad ``r``; the answer is ``W r + q`` mod 2^32 with ``q`` of ``blind``, uniform for whoever
reads it on the way and knows no half.

Trust domain: site enclave and pad accelerator. The wire is untrusted.
"""

from __future__ import annotations

from typing import NamedTuple

from sealtune.channel.hpke import ENCAPSULATED, TAG, KeyPair, seal_key
from sealtune.errors import FrameError, KeyReleaseError
from sealtune.offload.pads import PadStream

HALF = 32  # bytes of each half of a seed
LAST_INDEX = 2**64 - 1  # of the counter block's upper half
_BOX = ENCAPSULATED + HALF + TAG


class Streams(NamedTuple):
    """The two key streams of a seed; a pad has the same index in both."""

    mask: PadStream
    blind: PadStream


def streams_of(seed: bytes) -> Streams:
    """What follows from both halves."""
    return Streams(PadStream("mask of a pad pair", seed), PadStream("blind of a pad pair", seed))


def seal_seed(seed: bytes, lasting: bytes, fresh: bytes, *, job_id: bytes, site: str) -> bytes:
    """Both halves, sealed.

    Args:
        seed: ``2 * HALF`` secret bytes.
        lasting: public key that the manifest names.
        fresh: that of this connection.
        job_id: SHA-384 of the job.
        site: whose pads they are.

    Raises:
        KeyReleaseError: one of the keys is none.
    """
    return b"".join(
        seal_key(key, half, job_id=job_id, report_data=fresh, purpose=_purpose(kind, site))
        for key, half, kind in (
            (lasting, seed[:HALF], "lasting"),
            (fresh, seed[HALF:], "fresh"),
        )
    )


def open_seed(
    sealed: bytes, lasting: KeyPair, fresh: KeyPair, *, job_id: bytes, site: str
) -> bytes:
    """The seed that ``seal_seed`` sealed.

    Raises:
        KeyReleaseError: altered, or sealed to other keys, for another job or another site, or a
            half beside another fresh key.
        FrameError: not two boxes.
    """
    if len(sealed) != 2 * _BOX:
        raise FrameError(f"a sealed seed has {2 * _BOX} bytes, not {len(sealed)}")
    seed = b"".join(
        pair.open(box, job_id=job_id, report_data=fresh.public_bytes, purpose=_purpose(kind, site))
        for pair, box, kind in (
            (lasting, sealed[:_BOX], "lasting"),
            (fresh, sealed[_BOX:], "fresh"),
        )
    )
    if len(seed) != 2 * HALF:
        raise KeyReleaseError("a seed of another length")
    return seed


def _purpose(kind: str, site: str) -> str:
    return f"{kind} half of the pad seed of {site}"
