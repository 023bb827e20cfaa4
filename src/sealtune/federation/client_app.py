"""The Flower ClientApp: started for each message, it passes sealed bytes to the site's enclave.

Where the enclave listens and where pieces are kept is the site's own setting (the SuperNode's
``--node-config``: keys ``socket`` and ``spool``); nothing that the server sends can change it.

Trust domain: network engine (untrusted), on the data owner's side.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from sealtune.errors import FrameError
from sealtune.federation.payload import pack, unpack
from sealtune.federation.site import handle
from sealtune.frames import Frame

app = ClientApp()


@app.query("sealed")  # type: ignore[untyped-decorator]
def sealed(message: Message, context: Context) -> Message:
    """Move one frame in, and the answer out."""
    enclave = Path(str(context.node_config["socket"]))
    spool = Path(str(context.node_config["spool"]))
    try:
        answer = handle(unpack(message.content), enclave, spool)
    except FrameError as error:
        answer = Frame("failed", {"exchange": "", "message": error.message})
    return Message(pack(answer), reply_to=message)
