"""The aggregator's checkpoint, encrypted for itself: global adapter, round, history.

The file lies in the run folder, where the operator can read, delete or replace it. It opens only
with the enclave's sealing key and for this job. What a seal cannot show is age: an operator who
puts an older checkpoint back makes the job repeat rounds.

Trust domain: server enclave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealtune import frames
from sealtune.channel import SealedSession, message_round
from sealtune.errors import ChannelError, SealError, StorageError
from sealtune.frames import Frame
from sealtune.job.storage import write_atomic

FORMAT = 1
_NAME = "aggregator.sealed"


@dataclass(frozen=True)
class Checkpoint:
    """All that the aggregator has to know to go on after ``round``.

    Attributes:
        round: the last finished round; 0 after the first evaluation.
        adapter: safetensors bytes of the global adapter; empty before round 1 has ended.
        history: the round events so far, oldest first.
    """

    round: int
    adapter: bytes
    history: tuple[Mapping[str, Any], ...]


class SealedState:
    """Reads and writes the checkpoint of one run.

    Args:
        folder: ``state`` in the run folder.
        key: 32 bytes, the enclave's sealing key.
        job_id: 48 bytes; a checkpoint of another job does not open.
    """

    def __init__(self, folder: Path, key: bytes, job_id: bytes) -> None:
        self.path = folder / _NAME
        self._key = key
        self._job_id = job_id

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint.

        Raises:
            StorageError: it cannot be written; the one before stays.
        """
        meta = {"format": FORMAT, "round": checkpoint.round, "adapter": len(checkpoint.adapter)}
        # the history may outgrow a frame's meta, so it follows the adapter in the body
        history = json.dumps(list(checkpoint.history), separators=(",", ":")).encode()
        plain = frames.encode(Frame("checkpoint", meta, checkpoint.adapter + history))
        session = self._session("seal", checkpoint.round)
        write_atomic(self.path, session.seal(plain, checkpoint.round))

    def load(self) -> Checkpoint | None:
        """The checkpoint, or None where there is none yet.

        Raises:
            StorageError: it cannot be read, was altered, or belongs to another job or machine.
        """
        try:
            sealed = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            number = message_round(sealed)
            plain = self._session("open", number).open(sealed, number)
            frame = frames.decode(plain, max_body=len(plain))  # it is our own
            if frame.kind != "checkpoint" or frame.meta["format"] != FORMAT:
                raise SealError("not a checkpoint of this format")
            body, size = bytes(frame.body), int(frame.meta["adapter"])
            return Checkpoint(number, body[:size], tuple(json.loads(body[size:])))
        except (ChannelError, KeyError, ValueError) as error:
            raise StorageError(
                f"the checkpoint {self.path} does not open: it was altered, or belongs to another "
                "job, machine or user",
                hint="start the run anew, without --resume",
            ) from error

    def _session(self, mode: Any, number: int) -> SealedSession:
        return SealedSession(
            self._key,
            job_id=self._job_id,
            sender="server",
            receiver="server:state",
            mode=mode,
            sequence=number,
        )
