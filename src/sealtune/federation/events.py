"""Progress of the relay, as JSON lines on stdout for the launcher.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Say = Callable[..., None]  # say(event, **fields)


def say(event: str, **fields: Any) -> None:
    """Report ``event``."""
    print(json.dumps({"event": event, **fields}), flush=True)
