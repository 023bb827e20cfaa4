"""The accelerator behind a socket, as the enclave calls it.

Trust domain: client enclave. Every answer is checked for its size before it is read; what it says
is for ``GroupChannel`` to judge.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sealtune import frames, sockets
from sealtune.errors import AcceleratorLostError, FrameError, OffloadError
from sealtune.frames import Frame
from sealtune.job.plan import LinearGroup
from sealtune.job.printable import printable
from sealtune.offload import arena, wire
from sealtune.offload.arena import Arena

_GROWTH = 1.5  # longer batches come one by one, and each new arena costs its page faults anew
_HINT = "see the accelerator's log; start the run again with --resume"


class RemoteAccelerator:
    """Client of ``sealtune.accelerator`` (see ``wire`` for the protocol).

    Args:
        sock: connected stream socket.
        groups: of the slice plan; they say how wide each answer must be.
        shared_memory: the socket can pass memory on: both sides are on one host.
        untrusted_shm: folder that the accelerator sees, too: memory is shared there instead.
    """

    def __init__(
        self,
        sock: socket.socket,
        groups: Sequence[LinearGroup],
        *,
        shared_memory: bool,
        untrusted_shm: Path | None = None,
    ) -> None:
        self._sock = sock
        self._folder = untrusted_shm
        self._shares = shared_memory or untrusted_shm is not None
        self._arena: Arena | None = None
        self._sent, self._received = wire.Buffer(), wire.Buffer()
        self._begun: _Call | None = None
        self._submitted: _Call | None = None
        # the first frozen layer of a block reads the block's input: D features
        self._hidden = groups[0].in_features if groups else 0
        self._columns = {g.name: (g.in_features, sum(g.out_features)) for g in groups}
        self._shapes = frozenset(self._columns.values())

    @classmethod
    def connect(
        cls,
        address: str,
        groups: Sequence[LinearGroup],
        *,
        timeout: float = 600,
        patience: float = 0,
        untrusted_shm: Path | None = None,
    ) -> Self:
        """Connect to an address (see ``sockets``).

        Args:
            timeout: seconds without any answer after which the accelerator counts as lost.
            patience: seconds that it may still need before it listens.
            untrusted_shm: see above.

        Raises:
            AcceleratorLostError: nothing answers.
        """
        try:
            sock = sockets.connect(address, timeout=timeout, patience=patience)
        except OSError as error:
            raise AcceleratorLostError(
                f"no accelerator answers at {address}: {error}", hint="is it running?"
            ) from error
        near = sock.family == socket.AF_UNIX
        return cls(sock, groups, shared_memory=near, untrusted_shm=untrusted_shm)

    def call(self, group: str, rows: int, *, backward: bool) -> _Call:
        """See ``Accelerator.call``."""
        if group not in self._columns:
            raise AcceleratorLostError(f"group {group} is not in the slice plan")
        if self._submitted is not None:
            raise AcceleratorLostError("the result of the last product was not waited for")
        inner, outer = self._columns[group]
        if backward:
            inner, outer = outer, inner
        request = Frame("product", {"group": group, "backward": backward, "rows": rows})
        if self._shares:
            codes, result = self._reserve(rows).codes(rows, inner, outer)
        else:
            codes, result = self._sent.rows(rows, inner), self._received.rows(rows, outer)
        self._begun = _Call(self, request, codes, result)
        return self._begun

    def submit(self, call: _Call) -> None:
        """Send a call's frame, and its codes where they are not shared."""
        if self._begun is not call:
            raise AcceleratorLostError("a product was submitted twice, or after the next one began")
        self._begun, self._submitted = None, call
        if self._arena is None:
            body = wire.tensor_bytes(call.codes)
            self._send(Frame(call.request.kind, call.request.meta, body))
        else:
            self._check(self._arena)
            self._send(call.request)

    def take(self, call: _Call) -> None:
        """Wait for a call's answer, and read it in where it is not shared."""
        if self._submitted is not call:
            raise AcceleratorLostError("a result was waited for that was not asked for")
        self._submitted = None
        rows, columns = call.answer.shape
        size = self._head("product", 0 if self._arena is not None else rows * columns * 4)[1]
        try:
            if self._arena is not None:
                self._arena.check()
            else:
                wire.check_body(size, rows, columns)
                frames.read_into(self._sock, wire.tensor_bytes(call.answer))
        except (OSError, FrameError) as error:
            raise self._gone(error) from error

    def prefix(self, input_ids: Tensor) -> Tensor:
        """See ``Accelerator.prefix``."""
        batch, length = input_ids.shape
        body = wire.tensor_bytes(input_ids.to(torch.int64))
        self._send(Frame("prefix", {"batch": batch, "length": length}, body))
        answer, size = self._head("prefix", batch * length * self._hidden * 4)
        hidden = torch.empty((batch, length, self._hidden), dtype=torch.float32)
        if answer.meta.get("dim") != self._hidden or size != hidden.numel() * 4:
            raise self._gone("prefix of the wrong size")
        try:
            frames.read_into(self._sock, wire.tensor_bytes(hidden))
        except (OSError, FrameError) as error:
            raise self._gone(error) from error
        if not bool(torch.isfinite(hidden).all()):
            raise self._gone("prefix that is not finite")
        return hidden

    def close(self) -> None:
        """Say goodbye and close."""
        try:
            frames.send(self._sock, Frame("bye"))
        except OSError:
            pass  # it has gone already, which is what was wanted
        finally:
            self._sock.close()
            if self._arena is not None:
                self._arena.close()
                self._arena = None

    def _reserve(self, rows: int) -> Arena:
        """Shared memory for ``rows`` rows of any group: it grows rarely."""
        size = max((arena.needed(rows, *shape) for shape in self._shapes), default=0)
        if self._arena is not None and self._arena.size >= size:
            return self._arena
        if self._arena is not None:
            size = max(size, min(int(self._arena.size * _GROWTH), arena.MAX_ARENA))
            self._arena.close()
            self._arena = None
        if size > arena.MAX_ARENA:
            raise OffloadError(
                f"a product of {rows} token rows needs {size} bytes of shared memory, more than "
                f"the {arena.MAX_ARENA} that one may have",
                hint="use a smaller batch",
            )
        self._arena = self._share(size)
        return self._arena

    def _share(self, size: int) -> Arena:
        """New memory that the accelerator has and shows its writes in."""
        try:
            made = Arena.create_in(self._folder, size) if self._folder else Arena.create(size)
        except OSError as error:
            raise OffloadError(
                f"no shared memory of {size} bytes in {self._folder or 'this system'}: {error}",
                hint="make room there, or leave untrusted_shm out",
            ) from error
        try:
            probe = secrets.token_bytes(arena.PROBE)
            made.probe(0)[:] = probe
            meta: dict[str, object] = {"bytes": made.size}
            if self._folder:
                meta["name"] = made.name
            self._send(Frame("arena", meta), None if self._folder else made.descriptor)
            answer, _ = self._head("ok", 0)
            self._check(made)
            if answer.meta.get("seen") != probe.hex() or bytes(made.probe(1)) != probe[::-1]:
                raise self._gone("it sees other shared memory than this enclave")
        except BaseException:
            made.close()
            raise
        finally:
            if self._folder:
                made.unlink(self._folder)
        return made

    def _check(self, memory: Arena) -> None:
        try:
            memory.check()
        except FrameError as error:
            raise self._gone(error) from error

    def _send(self, frame: Frame, descriptor: int | None = None) -> None:
        try:
            frames.send(self._sock, frame)
            if descriptor is not None:
                wire.send_descriptor(self._sock, descriptor)
        except OSError as error:
            raise self._gone(error) from error

    def _head(self, expected: str, limit: int) -> tuple[Frame, int]:
        """An answer of kind ``expected``, and how much body of up to ``limit`` bytes follows."""
        try:
            answer, size = frames.receive_head(self._sock, max_body=limit)
        except (OSError, EOFError, FrameError) as error:
            raise self._gone(error) from error
        if answer.kind == expected:
            return answer, size
        if size:
            self._sock.close()  # what follows would be taken for the next answer
        message = printable(str(answer.meta.get("message", answer.kind))[:500])
        raise AcceleratorLostError(f"the accelerator refused: {message}", hint=_HINT)

    def _gone(self, said: Exception | str) -> AcceleratorLostError:
        """The end of this connection: what still comes would answer something else."""
        self._sock.close()
        what = "answers wrongly" if isinstance(said, str) else "has gone"
        return AcceleratorLostError(f"the accelerator {what}: {said}", hint=_HINT)


class _Call:
    """See ``accelerator.Call``."""

    def __init__(
        self, remote: RemoteAccelerator, request: Frame, codes: Tensor, answer: Tensor
    ) -> None:
        self._remote = remote
        self.request = request
        self.codes = codes
        self.answer = answer

    def submit(self) -> None:
        """See ``accelerator.Call.submit``."""
        self._remote.submit(self)

    def result(self) -> Tensor:
        """See ``accelerator.Call.result``."""
        self._remote.take(self)
        return self.answer
