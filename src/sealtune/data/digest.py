"""Digests of a site's data: over its examples in order, as the model will see them.

So a file's format, its place and other columns do not matter, and a file that is dealt out among
sites gives each its own digest. Somebody who knows all of a site's data but a little can confirm
a guess of the rest from a digest (docs/manifest.md).

Trust domain: client enclave; also the data owner's machine when a manifest is built.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from sealtune.data.site import Example, SiteData
from sealtune.job.manifest import DataIdentity

_HEAD = struct.Struct("<Qq")  # bytes of the text, and of its label or -1


def identify(data: SiteData, labels: Sequence[str]) -> DataIdentity:
    """The digests and row counts of ``data``, whose examples number their labels by ``labels``.

    They are over names of labels: a site can tell its own before it knows the others' labels.
    """
    names = [label.encode() for label in labels]
    return DataIdentity(
        train=_digest(data.train, names),
        train_rows=len(data.train),
        test=_digest(data.test, names),
        test_rows=len(data.test),
    )


def _digest(examples: Sequence[Example], names: Sequence[bytes]) -> str:
    total = hashlib.sha256(b"sealtune data digest 2\n" + len(examples).to_bytes(8, "little"))
    for example in examples:
        text = example.text.encode("utf-8", "surrogatepass")
        label = None if example.label is None else names[example.label]
        total.update(_HEAD.pack(len(text), -1 if label is None else len(label)))
        total.update(text)
        total.update(label or b"")
    return total.hexdigest()
