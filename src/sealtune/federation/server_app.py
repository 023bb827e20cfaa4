"""The Flower ServerApp: asks the aggregator what to send, sends it, and reports what came back.

Trust domain: network engine (untrusted), on the server operator's side.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from sealtune.errors import SealtuneError
from sealtune.federation.enclave_link import ServerEnclave
from sealtune.federation.events import Events
from sealtune.federation.flower_transport import FlowerTransport
from sealtune.federation.haste import hasten_pulls
from sealtune.federation.transport import Outcome, Transport

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run until the aggregator says that it is done."""
    config = context.run_config
    with Events(Path(str(config["events"])) if config["events"] else None) as events:
        events.hello()
        hasten_pulls()
        transport = FlowerTransport(grid, log=lambda line: events("log", message=line))
        try:
            relay(Path(str(config["socket"])), transport, events)
        except Exception as error:
            message = error.message if isinstance(error, SealtuneError) else str(error)
            events("error", error=type(error).__name__, message=message)
            raise
        finally:
            events("bye")


def relay(socket_path: Path, transport: Transport, events: Events) -> None:
    """Carry the aggregator's messages over ``transport`` until it is done.

    Raises:
        FederationError: the aggregator gave up or went away.
    """
    with ServerEnclave(socket_path) as enclave:
        while (order := enclave.next()) is not None:
            outgoing, deadline = order
            if not outgoing:
                continue  # the enclave has worked in the meantime, and goes on
            events("exchange", sites=list(outgoing), bytes=sum(map(len, outgoing.values())))

            def report(outcome: Outcome) -> None:
                enclave.report(outcome)
                events(
                    "transfer",
                    site=outcome.site,
                    outcome="absent" if outcome.body is None else "reply",
                    reason=outcome.reason,
                    attempts=outcome.attempts,
                    bytes_down=outcome.bytes_down,
                    bytes_up=outcome.bytes_up,
                    seconds=round(outcome.seconds, 3),
                )

            transport.exchange(outgoing, deadline, report)
