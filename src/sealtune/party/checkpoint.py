"""What an enclave needs to go on after a round, encrypted for itself.

    sealed( frame "checkpoint": format, round, two lengths | state | links | tensors )

``state`` is the method's own typed JSON, ``links`` those of all rounds (``party.history``; of a
server enclave alone), ``tensors`` one safetensors file. It lies in the run folder, where the
operator can read, delete or replace it. It opens only with the enclave's sealing key, for this job
and this party. What a seal cannot show is age: sites notice (``party.continuity``) where an older
checkpoint of the server was put back.

Trust domain: server enclave; client enclave (federated).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from sealtune import frames
from sealtune.channel.sealed import SealedSession, message_round
from sealtune.errors import ChannelError, StorageError
from sealtune.frames import Frame
from sealtune.job.storage import write_atomic
from sealtune.party.history import SIZE, History

FORMAT = 3


class State(BaseModel):
    """What a method keeps besides tensors; a subclass says what."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Checkpoint(Generic[S]):
    """All that an enclave has to know to go on after ``round``.

    Attributes:
        round: the last finished round; 0 after the first evaluation.
        state: the method's own.
        tensors: safetensors bytes of everything that is a tensor; empty if nothing is.
    """

    round: int
    state: S
    tensors: bytes = b""


class CheckpointFile(Generic[S]):
    """Reads and writes the checkpoint of one run.

    Args:
        folder: ``state`` in the run folder, or in the site's.
        key: 32 bytes, the enclave's sealing key.
        job_id: 48 bytes; a checkpoint of another job does not open.
        state: what the method keeps.
        owner: whose it is, as in a sealed session; one of another party does not open.
        history: of a server enclave, which goes on with each checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        key: bytes,
        job_id: bytes,
        state: type[S],
        owner: str = "server",
        *,
        history: History | None = None,
    ) -> None:
        self.path = folder / "checkpoint.sealed"
        self._history = history
        self._owner = owner
        self._key = key
        self._job_id = job_id
        self._state = state

    def save(self, checkpoint: Checkpoint[S]) -> None:
        """Replace the checkpoint.

        Raises:
            StorageError: it cannot be written; the one before stays.
        """
        number, history = checkpoint.round, self._history
        state = checkpoint.state.model_dump_json().encode()  # a ledger may outgrow a frame's meta
        links: list[bytes] = []
        if history is not None:
            if number != history.head.round + 1:
                raise StorageError(f"round {number} does not follow on {history.head.round}")
            links = [*history.links, history.link(number, state + checkpoint.tensors)]
        meta = {"format": FORMAT, "round": number, "state": len(state), "links": len(links)}
        body = b"".join([state, *links, checkpoint.tensors])
        plain = frames.encode(Frame("checkpoint", meta, body))
        write_atomic(self.path, self._session("seal", number).seal(plain, number))
        if history is not None:
            history.extend(links[-1:])

    def load(self) -> Checkpoint[S] | None:
        """The checkpoint, or None where there is none yet.

        Raises:
            StorageError: it cannot be read, was altered, belongs to another job or machine, or is
                of another format.
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
        except ChannelError as error:
            raise StorageError(
                f"the checkpoint {self.path} does not open: it was altered, or belongs to another "
                "job, machine or user",
                hint="start the run anew, without --resume, in an empty folder",
            ) from error
        if frame.kind != "checkpoint" or frame.meta.get("format") != FORMAT:
            raise self._of_another_kind(f"format {frame.meta.get('format')!r}, not {FORMAT}")
        try:
            body, size, count = bytes(frame.body), frame.meta["state"], frame.meta["links"]
            state = self._state.model_validate_json(body[:size])
            end = size + count * SIZE
            links = [body[i : i + SIZE] for i in range(size, end, SIZE)]
        except (KeyError, TypeError, ValueError) as error:
            raise self._of_another_kind("a state that is not this method's") from error
        if self._history is not None:
            if len(links) != number + 1:
                raise self._of_another_kind("no history of all its rounds")
            self._history.extend(links)
        return Checkpoint(number, state, body[end:])

    def _of_another_kind(self, what: str) -> StorageError:
        return StorageError(
            f"the checkpoint {self.path} has {what}",
            hint="go on with the version of sealtune that began the run, or start it anew",
        )

    def _session(self, mode: Any, number: int) -> SealedSession:
        return SealedSession(
            self._key,
            job_id=self._job_id,
            sender=self._owner,
            receiver=f"{self._owner}:state",
            mode=mode,
            sequence=number,
        )
