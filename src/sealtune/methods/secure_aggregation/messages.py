"""What a site and the server say to each other for each sum; ``secure_sum`` has the contents.

    server -> site   keys         begin sum ``round``
    site -> server   keys         its signed keys

    server -> site   shares       the roster
    site -> server   shares       its sealed shares, for each neighbour

    server -> site   vector       sharers, shares sealed for it, and the global adapter
    site -> server   vector       its masked vector

    server -> site   survivors    whose vectors are in the sum
    site -> server   survivors    its signature over them

    server -> site   unmask       all signatures
    site -> server   unmask       one share of each site of which it holds some

Sums are counted from 0: the evaluation before training, one for each round, and the release.

Trust domain: server operator; data owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sealtune.errors import FrameError
from sealtune.frames import Frame
from sealtune.job.manifest import Manifest
from sealtune.secure_sum.terms import Terms

Step = Literal["keys", "shares", "vector", "survivors", "unmask"]
Stage = Literal["evaluate", "train", "release"]
_MOST_SITES = 64
_LONGEST_NAME = 40


def stage_of(number: int, rounds: int) -> Stage:
    """What a sum is of."""
    return "evaluate" if number == 0 else "train" if number <= rounds else "release"


def terms_of(manifest: Manifest, job_id: str, number: int) -> Terms:
    """What every party of the job expects of a sum, whatever anybody else says."""
    keys, sites = manifest.keys, manifest.settings.sites.names
    organisations = {site: manifest.participant(site).org for site in sites}
    return Terms(
        job_id=bytes.fromhex(job_id),
        number=number,
        keys={site: keys[org] for site, org in organisations.items()},
        organisations=organisations,
        least_sites=manifest.settings.quorum,
        least_organisations=manifest.min_cohort,
    )


def pack(
    kind: Step, number: int, parts: Mapping[str, bytes], rest: bytes = b"", **more: Any
) -> Frame:
    """A message with bytes for or from each of some sites, and what follows them."""
    names = sorted(parts)
    body = b"".join([*(parts[name] for name in names), rest])
    return Frame(kind, {"round": number, "sites": names, **more}, body)


def unpack(message: Frame, size: int) -> tuple[dict[str, bytes], bytes]:
    """The parts of ``pack``, ``size`` bytes each, and the rest.

    Raises:
        FrameError: names that are none, twice the same, or less bytes than they need.
    """
    names, body = names_of(message.meta, "sites"), bytes(message.body)
    if len(body) < size * len(names):
        raise FrameError(f"a message of {len(body)} bytes for {len(names)} sites")
    parts = {name: body[size * n : size * (n + 1)] for n, name in enumerate(names)}
    return parts, body[size * len(names) :]


def unpack_all(message: Frame, size: int) -> dict[str, bytes]:
    """The same of a message with nothing after the parts."""
    parts, rest = unpack(message, size)
    if rest:
        raise FrameError(f"{len(rest)} bytes follow what {len(parts)} sites have")
    return parts


def names_of(meta: Mapping[str, Any], key: str) -> list[str]:
    """A list of different names in a message.

    Raises:
        FrameError: it is none.
    """
    names = meta.get(key)
    if not isinstance(names, list) or len(names) > _MOST_SITES or not all(map(_is_name, names)):
        raise FrameError(f"a message's '{key}' are no names of sites")
    if len(set(names)) < len(names):
        raise FrameError(f"a message's '{key}' name a site twice")
    return names


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME
