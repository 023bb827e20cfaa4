"""Events: what was said comes back, harmless; anything else is no event."""

from __future__ import annotations

import json

import pytest

from sealtune.job import event_log, events
from sealtune.job.event_log import parse
from sealtune.job.events import Event, Round
from sealtune.job.training_events import Step

STEP = Step(round=1, step=2, of=5, loss=1.25, tokens=9)


def kinds() -> set[type[Event]]:
    found = {Event}
    while more := {sub for kind in found for sub in kind.__subclasses__()} - found:
        found |= more
    return found - {Event}


def test_what_was_said_comes_back() -> None:
    sites = {"a": events.SiteRound(outcome="ok", seconds=events.Busy(enclave=1.5))}
    for event in (STEP, Round(round=1, sites=sites, role="server", time=2.0), events.Done()):
        assert parse(json.dumps(event.fields())) == event


def test_every_kind_can_be_read() -> None:
    names = [kind.event for kind in kinds()]
    assert len(set(names)) == len(names)
    assert set(event_log._KINDS.values()) == kinds()


def test_what_was_not_stated_stays_absent_and_null_stays_null() -> None:
    assert STEP.fields().keys() == {"event", "round", "step", "of", "loss", "tokens"}
    for odd in (float("nan"), float("inf"), 10**400):
        broken = Step(round=1, step=2, of=5, loss=odd)
        assert json.dumps(broken.fields(), allow_nan=False).endswith('"loss": null}')
        line = json.dumps(STEP.fields() | {"loss": odd})
        assert parse(line) == Step(round=1, step=2, of=5, loss=None, tokens=9)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"hello", b"[]", b'{"a": 1}', b'{"event": 1}', b'{"event": []}', b"[" * 9999, b"\xff",
        b'{"event": "unheard of"}', b'{"event": "step"}',
    ],
)  # fmt: skip
def test_lines_that_are_no_events(line: bytes) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("round", v) for v in (None, "1", -1, True, 1.5, 2**63)]
    + [("loss", v) for v in ("1", True, [])]
    + [("role", v) for v in (None, 1, {})],
)
def test_an_odd_field_makes_no_event(field: str, value: object) -> None:
    assert parse(json.dumps(STEP.fields() | {field: value})) is None


def test_an_event_nested_too_deep_is_no_event() -> None:
    """The reader of a child's output goes on, however deep Python itself can go."""
    for depth in range(100, 2000, 100):
        parse(b'{"event": "done", "a": ' + b"[" * depth + b"]" * depth + b"}")


def test_text_is_harmless_once_and_stays_so() -> None:
    said = event_log.Log(message="\x1b[2J\u202eevil\r\n  9 s  round 3 of 3")
    heard = parse(json.dumps(said.fields()))
    assert isinstance(heard, event_log.Log)
    assert heard.message == "\\x1b[2J\\u202eevil\\r\n      9 s  round 3 of 3"
    assert parse(json.dumps(heard.fields())) == heard


def test_what_has_no_field_is_not_said() -> None:
    line = json.dumps(STEP.fields() | {"text": "of a patient"})
    heard = parse(line)
    assert heard is not None
    assert "text" not in heard.fields()
