"""Stands in an enclave for a package that opens connections: it can be imported, and not used.

``huggingface_hub``, through which ``transformers`` loads models, imports an HTTP client when it is
imported itself, though a party of a run loads from files only. ``start.py`` gives it this module
instead, under each name in ``[closed]`` of the program's list. Every name in it is a class, so that
it can be caught, derived from and stand in annotations. Calling one raises ``ConnectError``: the
hub's client then looks among the files that were fetched before, as without a network.

Trust domain: every enclave; data owner.
"""

from __future__ import annotations

from typing import Any

from sealtune.errors import SealtuneError


class _Closed(Exception):
    """Base of every name; what is derived from one, as an error of the hub's, can be made."""

    def __new__(cls, *args: object, **_options: object) -> Any:
        if cls.__module__ == __name__ and cls is not ConnectError:
            raise ConnectError(
                f"{cls.__qualname__} was called in a program that opens no connection of its own",
                hint="models and data are read from files that were fetched before",
            )
        return super().__new__(cls, *args)


class ConnectError(_Closed, SealtuneError):
    """There is no connection, and will be none."""


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    made = type(name, (_Closed,), {"__module__": __name__, "__qualname__": f"{__name__}.{name}"})
    globals()[name] = made
    return made
