"""The tree of refusals: codes are distinct, numbered, and as drawn."""

from __future__ import annotations

import inspect
import re

from sealtune.attest import errors
from sealtune.errors import AttestationError

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, AttestationError)
]


def test_each_reason_has_its_own_code() -> None:
    own = [c for c in CLASSES if "exit_code" in vars(c) and c is not AttestationError]
    codes = [c.exit_code for c in own]
    assert len(set(codes)) == len(codes)
    assert set(codes) == set(range(70, 90))
    groups = {c for c in CLASSES if "exit_code" not in vars(c)}
    assert all(any(issubclass(leaf, g) for leaf in own) for g in groups)


def test_the_drawing_is_right() -> None:
    drawn: dict[str, tuple[int, int]] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.search(r"(?P<indent>^[ │├└─]*)(?P<name>\w+Error)\b\s*(?P<code>\d+)?", line)
        if match:
            drawn[match["name"]] = (len(match["indent"]), int(match["code"] or 7))
    assert set(drawn) == {c.__name__ for c in CLASSES}
    for cls in CLASSES:
        indent, code = drawn[cls.__name__]
        assert code == cls.exit_code, cls
        if cls is not AttestationError:
            parent = cls.__mro__[1]
            assert drawn[parent.__name__][0] == indent - 4, f"{cls} hangs below {parent}"
