"""The server host's program in the network engine, where the relay is on another host.

    python -I -m sealtune.federation.link CONFIG.json

It dials out to the relay, under TLS 1.3 with one certificate pinned on each side, and moves bytes
between the relay and the server enclave's socket. It reads none of them. A connection that breaks
is made anew for as long as this program runs; the enclave is dialled when the relay has something
to say. The configuration: ``relay`` (host:port), ``authority`` (file of the relay's certificate),
``certificate`` and ``key`` (files, its own), ``socket`` (the server enclave's address).

On SIGTERM what is under way gets ``FLUSH`` seconds to leave.

Trust domain: network engine (untrusted), on the server operator's side.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import sys
import time
from asyncio import StreamReader, StreamWriter
from pathlib import Path

from sealtune import sockets
from sealtune.errors import FederationError
from sealtune.federation.events import say, say_error
from sealtune.federation.pinned_tls import check_peer, context
from sealtune.federation.settings import Settings

BUFFER = 1 << 18  # bytes that wait here at most, each way, and as many again in asyncio's hands
CONNECT = 30.0  # seconds for dialling the relay, and for the handshake
FLUSH = 10.0  # seconds that the last bytes have to leave
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before dialling again, by failure in a row
_LOOK = 0.5  # seconds between two looks for the enclave


class Link:
    """Between relay and enclave.

    Args:
        settings: see above.

    Raises:
        FederationError: they are not what they should be.
    """

    def __init__(self, settings: Settings) -> None:
        self._relay = settings.address("relay", scheme="tcp:")
        self._enclave = settings.address("socket")
        self._authority = settings.contents("authority")
        self._context = context(
            settings.path("certificate"), settings.path("key"), self._authority, server=False
        )

    async def run(self) -> None:
        """Keep relay and enclave connected until this task is cancelled."""
        failures, said = 0, ""
        while True:
            begun = time.monotonic()
            try:
                await self._connected()
                trouble = "the connection ended"
            except (OSError, FederationError) as error:
                trouble = f"{type(error).__name__}: {error}"
            if time.monotonic() - begun > CONNECT:
                failures = 0
            if trouble != said:
                said = trouble
                state = f"link to {self._relay}: {trouble}; dialling again"
                say("network", state=state, connected=False)
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1

    async def _connected(self) -> None:
        """One connection to the relay, from its beginning to its end."""
        from_relay, to_relay = await self._dial()
        try:
            say("network", state=f"link to {self._relay}: connected", connected=True)
            first = await from_relay.read(BUFFER)
            if not first:
                raise FederationError("the relay hung up at once: is this its link's certificate?")
            from_enclave, to_enclave = await self._open_enclave()
            try:
                to_enclave.write(first)
                ways = [_pump(from_relay, to_enclave), _pump(from_enclave, to_relay)]
                tasks = [asyncio.ensure_future(way) for way in ways]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                await _close(to_enclave)
        finally:
            await _close(to_relay)

    async def _dial(self) -> tuple[StreamReader, StreamWriter]:
        sock = await asyncio.to_thread(sockets.connect, self._relay, timeout=CONNECT)
        reader, writer = await asyncio.open_connection(
            sock=sock,
            ssl=self._context,
            server_hostname=sockets.parse(self._relay).place,
            ssl_handshake_timeout=CONNECT,
            limit=BUFFER,
        )
        try:
            shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
            check_peer(shown, self._authority)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    async def _open_enclave(self) -> tuple[StreamReader, StreamWriter]:
        while True:
            try:
                sock = await asyncio.to_thread(sockets.connect, self._enclave, timeout=CONNECT)
            except OSError:
                await asyncio.sleep(_LOOK)  # it is being started, or started again
                continue
            return await asyncio.open_connection(sock=sock, limit=BUFFER)


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    """Move bytes until the one side ends or the other is gone."""
    writer.transport.set_write_buffer_limits(high=BUFFER)
    while data := await reader.read(BUFFER):
        writer.write(data)
        await writer.drain()


async def _close(writer: StreamWriter) -> None:
    """Close, and let what was written leave."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(asyncio.shield(writer.wait_closed()), FLUSH)
    writer.transport.abort()


async def _until_stopped(link: Link) -> None:
    task = asyncio.ensure_future(link.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(config: Path) -> int:
    """Connect relay and enclave until asked to end."""
    try:
        link = Link(Settings(config))
    except Exception as error:
        say_error(error)
        return 1
    say("ready")
    asyncio.run(_until_stopped(link))
    say("bye")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
