"""What a site and the server enclave of a split job say to each other.

    server -> site   upload     the number of the chunk that is wanted
    site -> server   chunk      samples, and what they were made with

    server -> site   finish     part i of n of the adapter; files and their sizes with each
    site -> server   received   how many parts in a row it has

    server -> site   ask        answers to the last texts, if there were any
    site -> server   questions  activations of texts
                     enough     no more

Trust domain: server enclave, data owner.
"""

from __future__ import annotations

from typing import Any

from sealtune.party.admit import Admitted

PART = 30 << 20  # bytes; one piece of the network engine
MAX_PARTS = 1 << 16


def upload_head(admitted: Admitted) -> dict[str, Any]:
    """What samples were made with; a site states it with every chunk."""
    return {
        "model": admitted.model_digest,
        "cut": admitted.cut,
        "form": admitted.job.split_settings.activations,
    }
