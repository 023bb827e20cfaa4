"""What a split job's checkpoint holds: the trainer's state, and whose samples it was made with.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Mapping

from sealtune import frames
from sealtune.enclave.sealed_state import Checkpoint
from sealtune.errors import FrameError, StorageError
from sealtune.frames import Frame


def progress(round: int, used: Mapping[str, str], state: bytes) -> Checkpoint:
    """A checkpoint.

    Args:
        round: the last finished round.
        used: site -> digest of its samples, for the sites that are trained on.
        state: of ``TopTrainer.save``.
    """
    return Checkpoint(round, frames.encode(Frame("split", {"sites": dict(used)}, state)), ())


def read_progress(checkpoint: Checkpoint) -> tuple[dict[str, str], bytes]:
    """Sites with the digests of their samples, and the trainer's state.

    Raises:
        StorageError: the checkpoint is not a split job's.
    """
    try:
        frame = frames.decode(checkpoint.adapter, max_body=len(checkpoint.adapter))
        sites = frame.meta["sites"]
        if frame.kind != "split" or not isinstance(sites, dict):
            raise FrameError("another kind of checkpoint")
    except (FrameError, KeyError) as error:
        raise StorageError(
            "the checkpoint holds no state of a split job", hint="start the run anew"
        ) from error
    return {str(site): str(digest) for site, digest in sites.items()}, bytes(frame.body)
