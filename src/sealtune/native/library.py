"""Finds and loads the library, once a process, and says which instructions it uses.

A library that was built from other sources than those beside it is not used, nor one that is not
there: then each caller's reference in Python works, more slowly. ``SEALTUNE_NATIVE`` names a lesser
instruction set than the processor has, or is ``off``.

Trust domain: none of its own; both sides of the boundary use it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from sealtune.errors import OffloadError
from sealtune.native.sources import FOLDER, LIBRARY, digest

VARIABLE = "SEALTUNE_NATIVE"
OFF = "off"
_BUILD = "`python -m sealtune.native.build` builds it; that needs a C compiler"


class _Loaded(NamedTuple):
    library: ctypes.CDLL | None
    sets: tuple[str, ...]  # what this processor has, by number; "" for what it lacks
    why: str  # there is no library


class _Choice:
    """What is in use; None: nobody has asked yet."""

    name: str | None = None


_choice = _Choice()


def instructions() -> str:
    """The instruction set in use, such as ``avx512``; ``off``: references work.

    Raises:
        OffloadError: ``SEALTUNE_NATIVE`` names none, or one that is not to be had here.
    """
    if _choice.name is None:
        wanted = os.environ.get(VARIABLE)
        _use(_best() if wanted is None else wanted)
    assert _choice.name is not None
    return _choice.name


def why_off() -> str | None:
    """Why references work; None where the library does."""
    if instructions() != OFF:
        return None
    return _load().why or f"{VARIABLE}={OFF}"


def available() -> tuple[str, ...]:
    """What ``SEALTUNE_NATIVE`` may be here, the least first."""
    return (OFF, *(name for name in _load().sets if name))


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Use another instruction set in this process for a while, for tests and measurements.

    Raises:
        OffloadError: as ``instructions``.
    """
    before = instructions()
    _use(name)
    try:
        yield
    finally:
        _use(before)


def function(name: str, *arguments: Any) -> Callable[..., int] | None:
    """A function of the library that returns an int; None where references work.

    Args:
        arguments: their ctypes.
    """
    return None if instructions() == OFF else _function(name, arguments)


@cache
def _function(name: str, arguments: tuple[Any, ...]) -> Callable[..., int]:
    found = getattr(_load().library, name)
    found.argtypes, found.restype = arguments, ctypes.c_int
    made: Callable[..., int] = found
    return made


def _best() -> str:
    return available()[-1]


def _use(name: str) -> None:
    loaded = _load()
    if name not in available():
        raise OffloadError(
            f"{VARIABLE}={name} is not to be had here" + (f": {loaded.why}" if loaded.why else ""),
            hint=f"one of {', '.join(available())}, or leave it unset",
        )
    if name != OFF and loaded.library is not None:
        loaded.library.sealtune_use(loaded.sets.index(name))
    _choice.name = name


@cache
def _load() -> _Loaded:
    path = FOLDER / LIBRARY
    if not path.is_file():
        return _Loaded(None, (), f"{LIBRARY} was not built: {_BUILD}")
    try:
        library = ctypes.CDLL(str(path))
        library.sealtune_sources.restype = library.sealtune_set_name.restype = ctypes.c_char_p
        stale = library.sealtune_sources() != digest().encode()
    except (OSError, AttributeError) as error:
        return _Loaded(None, (), f"{LIBRARY} cannot be loaded: {error}")
    if stale:
        return _Loaded(None, (), f"{LIBRARY} was built from other sources: {_BUILD}")
    sets: list[str] = []
    while (name := library.sealtune_set_name(len(sets))) is not None:
        there = library.sealtune_set_is_there(len(sets))
        sets.append(name.decode() if there else "")
    return _Loaded(library, tuple(sets), "")
