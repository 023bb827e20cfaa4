"""Seeds are opened for whom they are sealed, and no pad has two products."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune import frames
from sealtune.channel.hpke import KeyPair
from sealtune.errors import AcceleratorLostError
from sealtune.frames import Frame
from sealtune.offload import pad_wire, ring
from sealtune.pad_accelerator.server import Server
from tests.offload.layers import HIDDEN, INNER, Setup, make_setup
from tests.pad_accelerator.pair import JOB, KEY, bare, connect, serving

SEED = bytes(range(2 * pad_wire.HALF))


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def server(setup: Setup) -> Iterator[Server]:
    with serving(setup) as made:
        yield made


def dial(server: Server) -> tuple[socket.socket, bytes]:
    """A connection, and the fresh key that was offered on it."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    return sock, bytes(frames.receive(sock).body)


def opened(server: Server, seed: bytes = SEED) -> socket.socket:
    sock, fresh = dial(server)
    sealed = pad_wire.seal_seed(seed, KEY.public_bytes, fresh, job_id=JOB, site="north")
    frames.send(sock, Frame("open", {"job": JOB.hex(), "site": "north"}, sealed))
    assert frames.receive(sock).kind == "ok"
    frames.send(sock, Frame("fetch", {"count": 200}))
    return sock


def request(index: object, **changes: object) -> Frame:
    return Frame("pad", {"index": index, "group": "q", "backward": False, "rows": 3, **changes})


def codes(answer: Frame, rows: int, cols: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(answer.body), dtype=torch.int32).view(rows, cols)


@pytest.mark.parametrize("rows", [1, 3, 50])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("group", ["q", "o"])
def test_the_answer_is_the_pads_product_under_the_blind(
    setup: Setup, server: Server, group: str, backward: bool, rows: int
) -> None:
    source = connect(server.port)
    inner, _ = setup.engine.columns(group, backward=backward)
    for _ in range(3):
        pad = source.take(group, rows, backward=backward)
        r = source.streams.mask.mask(pad.key.index, rows, inner)
        expected = setup.engine.product(group, r, backward=backward)
        assert torch.equal(bare(source, pad), expected)
    source.close()


def test_answers_come_in_the_order_of_requests(setup: Setup, server: Server) -> None:
    sock = opened(server)
    for index in (0, 5, 6):
        frames.send(sock, request(index))
    mask, blind = pad_wire.streams_of(SEED)
    for index in (0, 5, 6):
        answer = frames.receive(sock)
        assert (answer.kind, answer.meta) == ("pad", {"index": index})
        r = mask.mask(index, 3, INNER)
        product = setup.engine.product("q", r, backward=False)
        found = codes(answer, 3, HIDDEN + 16) - blind.mask(index, 3, HIDDEN + 16)
        assert torch.equal(found, product)
    sock.close()


@pytest.mark.parametrize("index", [0, 3, -1, 2**64, 1.0, True, None, "4"])
def test_an_index_that_does_not_follow_is_refused(server: Server, index: object) -> None:
    """Somebody on the wire who has another product made of a used pad would learn of the pad:
    ``W r + q`` and ``V r + q`` differ by ``(W - V) r``.
    """
    sock = opened(server)
    frames.send(sock, request(3))
    assert frames.receive(sock).kind == "pad"
    frames.send(sock, request(index, group="o"))
    answer = frames.receive(sock)
    message = "FrameError: a pad's index does not follow the last one"
    assert (answer.kind, answer.meta) == ("error", {"message": message})
    assert sock.recv(1) == b""
    sock.close()


def test_two_products_of_one_pad_would_show_it(setup: Setup) -> None:
    """What the rule of indices is for: the attack as it would be without the rule."""
    mask, blind = pad_wire.streams_of(SEED)
    r = mask.mask(0, 2, INNER)
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randint(-128, 128, (INNER, 40), generator=generator).to(torch.int8) for _ in range(2)
    )
    q = blind.mask(0, 2, 40)
    seen = [ring.product(r, weight) + q for weight in (first, second)]
    assert torch.equal(seen[0] - seen[1], ring.product(r, first) - ring.product(r, second))


def test_a_beginning_that_was_recorded_opens_nothing(server: Server) -> None:
    sock, fresh = dial(server)
    sealed = pad_wire.seal_seed(SEED, KEY.public_bytes, fresh, job_id=JOB, site="north")
    recorded = Frame("open", {"job": JOB.hex(), "site": "north"}, sealed)
    frames.send(sock, recorded)
    assert frames.receive(sock).kind == "ok"
    again, other = dial(server)
    assert other != fresh
    frames.send(again, recorded)
    answer = frames.receive(again)
    assert answer.kind == "error"
    assert "does not open" in answer.meta["message"]
    sock.close()
    again.close()


def test_who_offers_the_enclave_a_key_of_his_own_has_no_seed_opened(server: Server) -> None:
    """Somebody in the middle, who so knows one half, and plays the other one again and again: from
    each connection he would get another product of the same pads, ``W r + q`` and ``V r + q``.
    """
    middle = KeyPair.generate()
    first = pad_wire.seal_seed(
        SEED, KEY.public_bytes, middle.public_bytes, job_id=JOB, site="north"
    )
    kinds = []
    for group in ("q", "o"):
        sock, fresh = dial(server)
        known = bytes(pad_wire.HALF) + SEED[pad_wire.HALF :]  # the half that was sealed to him
        own = pad_wire.seal_seed(known, KEY.public_bytes, fresh, job_id=JOB, site="north")
        half = len(own) // 2
        sealed = first[:half] + own[half:]
        frames.send(sock, Frame("open", {"job": JOB.hex(), "site": "north"}, sealed))
        answer = frames.receive(sock)
        if answer.kind == "ok":
            frames.send(sock, request(0, group=group))
            frames.send(sock, Frame("fetch", {"count": 1}))
            answer = frames.receive(sock)
        kinds.append(answer.kind)
        sock.close()
    assert kinds == ["error", "error"]


def test_the_lasting_key_opens_no_recorded_seed() -> None:
    """Whoever recorded everything and steals the key afterwards has one half of two."""
    fresh = KeyPair.generate()
    sealed = pad_wire.seal_seed(
        SEED, KEY.public_bytes, fresh.public_bytes, job_id=JOB, site="north"
    )
    with pytest.raises(Exception, match="does not open"):
        pad_wire.open_seed(sealed, KEY, KeyPair.generate(), job_id=JOB, site="north")
    known = SEED[: pad_wire.HALF] + bytes(pad_wire.HALF)
    true, guessed = (pad_wire.streams_of(seed).mask.mask(0, 4, 4) for seed in (SEED, known))
    assert not (true == guessed).any()


@pytest.mark.parametrize("byte", [0, 1200, 2000, -1])
def test_an_altered_seed_is_refused(server: Server, byte: int) -> None:
    sock, fresh = dial(server)
    sealed = bytearray(pad_wire.seal_seed(SEED, KEY.public_bytes, fresh, job_id=JOB, site="north"))
    sealed[byte] ^= 1
    frames.send(sock, Frame("open", {"job": JOB.hex(), "site": "north"}, sealed))
    answer = frames.receive(sock)
    assert answer.kind == "error"
    assert "does not open" in answer.meta["message"]
    sock.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"key": KeyPair.generate().public_bytes}, "does not open"),
        ({"job_id": b"k" * 48}, "serves another job"),
        ({"site": "south"}, "another pad accelerator for this site"),
    ],
)
def test_seeds_for_others_are_refused(server: Server, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(AcceleratorLostError, match=said):
        connect(server.port, **changes)


def test_a_seed_of_another_site_opens_for_none_by_another_name(setup: Setup) -> None:
    with serving(setup, sites=("north", "south")) as server:
        sock, fresh = dial(server)
        sealed = pad_wire.seal_seed(SEED, KEY.public_bytes, fresh, job_id=JOB, site="north")
        frames.send(sock, Frame("open", {"job": JOB.hex(), "site": "south"}, sealed))
        assert "does not open" in frames.receive(sock).meta["message"]
        sock.close()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["pad", "open", "", "arena", "fetch"]),
    meta=st.dictionaries(
        st.sampled_from(["index", "group", "rows", "backward", "job", "site"]),
        st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=5), st.none(), st.floats()),
    ),
)
def test_hostile_requests_end_their_own_connection(
    setup: Setup, kind: str, meta: dict[str, object]
) -> None:
    with serving(setup) as server:
        sock = opened(server)
        frames.send(sock, Frame(kind, meta))
        answer = frames.receive(sock)
        assert answer.kind == "error"
        sock.close()


@pytest.mark.parametrize("rows", [0, -1, 2**40, None])
def test_rows_that_nobody_has_are_refused(server: Server, rows: object) -> None:
    sock = opened(server)
    frames.send(sock, request(0, rows=rows))
    assert frames.receive(sock).kind == "error"
    sock.close()


def test_a_skip_is_answered_in_its_place(server: Server) -> None:
    sock = opened(server)
    for index in range(100):
        frames.send(sock, request(index, rows=2000))
    frames.send(sock, Frame("skip"))
    frames.send(sock, request(100))
    frames.send(sock, Frame("fetch", {"count": 1}))
    seen = []
    while not seen or seen[-1] != 100:
        answer = frames.receive(sock)
        seen.append(answer.meta.get("index", answer.kind))
    made = seen.index("skipped")
    assert seen == [*range(made), "skipped", 100]
    sock.close()
