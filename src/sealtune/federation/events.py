"""What the engine's programs tell the launcher.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import json
from typing import Any

from sealtune.errors import SealtuneError


def say(event: str, **fields: Any) -> None:
    """Report ``event``, as a JSON line on stdout."""
    print(json.dumps({"event": event, **fields}), flush=True)


def say_error(error: Exception) -> None:
    """Report what ends the program."""
    known = error if isinstance(error, SealtuneError) else SealtuneError(str(error))
    name = type(error).__name__
    say("error", code=known.exit_code, error=name, message=known.message, hint=known.hint)
