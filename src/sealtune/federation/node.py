"""A site's program in the network engine.

    python -I -m sealtune.federation.node CONFIG.json

It joins the relay's fleet under the site's node key and hands each message to the site's enclave,
in this process. Everything that it knows is in its configuration: ``relay`` (host:port),
``authority`` (file of a certificate), ``key`` (file of the node key), ``socket`` (the enclave's
address), ``spool`` (a folder), and ``patience``: seconds to wait for an enclave that is being
started again (0 if left out). Nothing that the relay sends can change it or be run: no run and no
app is asked for, whatever the message says that it belongs to.

Trust domain: network engine (untrusted), on the data owner's side.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NoReturn

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message

from sealtune.errors import FederationError, FrameError, SealtuneError, UnknownKeyError
from sealtune.federation.events import say, say_error
from sealtune.federation.exchange import failed, handle
from sealtune.federation.membership import Membership
from sealtune.federation.payload import pack, unpack
from sealtune.federation.settings import Settings
from sealtune.federation.spool import Spool

PAUSE = 0.3  # seconds before the relay is tried again
IDLE = 0.05  # seconds between an answer without a message and the next question
_STAY = 2.0  # seconds that an honest relay keeps a node
_REFUSED = (401, 403)


def answer(message: Message, enclave: str, spool: Spool, *, patience: float = 0.0) -> Message:
    """The reply to a message: move one frame in, and the answer out."""
    try:
        frame = handle(unpack(message.content), enclave, spool, patience=patience)
    except FrameError as error:
        frame = failed(error.message)
    return Message(pack(frame), reply_to=message)


def serve(member: Membership, enclave: str, spool: Spool, patience: float) -> NoReturn:
    """Answer messages until the relay goes away.

    Raises:
        httpx.HTTPError: it did.
        FrameError: it breaks the protocol.
    """
    while True:
        spool.tidy()
        announced = member.receive()
        if announced is None:
            time.sleep(IDLE)  # our relay waits before it says so, another one may not
            continue
        head, tree = announced
        try:
            message = member.complete(head, tree)
        except FrameError as error:
            reply = Message(pack(failed(error.message)), reply_to=head)
        else:
            reply = answer(message, enclave, spool, patience=patience)
        member.answer(reply)


def _join(address: str, authority: str, key: ec.EllipticCurvePrivateKey) -> Membership:
    def tell(trouble: str) -> None:
        state = f"no answer from {address}: {trouble}" if trouble else f"{address} answers again"
        say("network", state=state, connected=not trouble)

    try:
        return Membership(address, authority, key, tell)
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in _REFUSED:
            raise
        raise UnknownKeyError(
            f"the relay on {address} does not know this site's node key",
            hint="the key whose public half the relay was given is the one to use, and this "
            "machine's clock may not be ahead of the relay's",
        ) from error


def main(config: Path) -> NoReturn:
    """Serve the site, joining anew whenever the connection broke.

    Raises:
        FederationError: the configuration is wrong.
        UnknownKeyError: the relay refuses the site's key.
    """
    settings = Settings(config)
    address, enclave = settings.text("relay"), settings.address("socket")
    authority = settings.path("authority").read_text(encoding="ascii")
    key = load_ssh_private_key(settings.path("key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FederationError(f"{settings.text('key')} is no key on an elliptic curve")
    spool = Spool(settings.path("spool"))
    patience = settings.seconds("patience")
    said, joined = "", 0.0
    while True:
        try:
            with _join(address, authority, key) as member:
                say("network", state=f"joined {address}", connected=True)
                said, joined = "", time.monotonic()
                serve(member, enclave, spool, patience)
        except httpx.HTTPStatusError as error:  # also of a relay that was started anew
            trouble = f"the relay answered with status {error.response.status_code}"
        except (httpx.HTTPError, FrameError, ValueError) as error:
            trouble = f"{type(error).__name__}: {error}"
        if trouble != said:
            print(f"joining anew: {trouble}", file=sys.stderr, flush=True)
            say("network", state=f"joining {address} anew: {trouble}", connected=False)
            said = trouble
        # a relay that throws this node out again and again shall not fill the log
        time.sleep(PAUSE if time.monotonic() - joined > _STAY else _STAY)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except SealtuneError as error:
        say_error(error)
        sys.exit(str(error))
