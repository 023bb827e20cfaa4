"""The parsers that `benchmarks/fuzz.py` feeds, and valid seeds for each.

Every parser that takes bytes from another trust domain stands in `make_targets`.
"""

from __future__ import annotations

import json
import random
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import save_file

from fuzz_evidence import CODE, KEY, NOW, Target, evidence_targets, from_file
from fuzz_mutate import either, framed, json_or_raw, nasty_json, raw, safetensors
from fuzz_split import split_targets
from fuzz_sums import sum_targets
from sealtune import frames
from sealtune.accelerator.engine import Engine
from sealtune.accelerator.server import Server
from sealtune.attest.platforms.simulated import (
    SimulatedAttester,
    SimulatedVerifier,
    simulated_policy,
)
from sealtune.channel.client import ClientHandshake
from sealtune.channel.hpke import KeyPair, seal_key
from sealtune.channel.sealed import SealedSession, message_round
from sealtune.channel.server import ServerHandshake
from sealtune.errors import SealtuneError
from sealtune.frames import Frame
from sealtune.job import dsse, proposal
from sealtune.job.card import CoordinatorCard, open_card, seal_card
from sealtune.job.keys import public_hex
from sealtune.job.local import Local, read_local
from sealtune.job.manifest import (
    DataIdentity,
    ModelIdentity,
    Participant,
    manifest_bytes,
    parse_manifest,
    verify_manifest,
)
from sealtune.job.method import METHODS
from sealtune.job.network_keys import new_certificate
from sealtune.job.plan import Backbone, LinearGroup, SlicePlan
from sealtune.job.proposal import make_manifest, wrap
from sealtune.job.spec import Job
from sealtune.methods.federated.adapter import read_adapter, write_adapter
from sealtune.methods.federated.server import FederatedState
from sealtune.offload.remote import RemoteAccelerator
from sealtune.party.checkpoint import Checkpoint, CheckpointFile
from sealtune.party.history import History, Stated

JOB_ID = bytes(range(48))
SECRET = bytes(32)
SHAPES: dict[str, tuple[int, ...]] = {"layer.lora_A.weight": (4, 8), "layer.lora_B.weight": (8, 4)}
GROUP = LinearGroup(name="q", members=("q",), in_features=8, out_features=(16,), backward=True)


def make_targets(folder: Path) -> list[Target]:
    """All parsers; ``folder`` is for files that they read."""
    return [
        *_wire(),
        *_channel(folder),
        *evidence_targets(folder),
        *_jobs(folder),
        *_cards(folder),
        *_offload(folder),
        *split_targets(),
        *sum_targets(folder),
    ]


# ---- frames, adapters -------------------------------------------------------------------------


def _receive(data: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data[:100_000])
        far.shutdown(socket.SHUT_WR)
        try:
            frames.receive(near)
        except EOFError:
            return


def _wire() -> list[Target]:
    seeds = tuple(
        frames.encode(frame)
        for frame in (
            Frame("next"),
            Frame("send", {"to": {"a": 3, "b": 0}, "deadline": 60.0}, b"abc"),
            Frame("reply", {"site": "a"}, bytes(300)),
        )
    )
    adapter = write_adapter({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    return [
        Target("frame", frames.decode, framed(*seeds), seeds, 12_000),
        Target("frame from a socket", _receive, framed(*seeds), seeds, 5_000),
        Target(
            "adapter",
            lambda data: read_adapter(data, SHAPES),
            safetensors(adapter),
            (adapter,),
            12_000,
        ),
    ]


# ---- sealed messages, handshake ---------------------------------------------------------------

CONTEXT: dict[str, Any] = {"job_id": JOB_ID, "sender": "a", "receiver": "b"}


def _sealed(size: int) -> bytes:
    return SealedSession(SECRET, mode="seal", chunk_size=4096, **CONTEXT).seal(bytes(size), 1)


def _open(data: bytes) -> None:
    SealedSession(SECRET, mode="open", **CONTEXT).open(data, message_round(data))


def _parties() -> tuple[ServerHandshake, ClientHandshake]:
    attester = SimulatedAttester(KEY, measurement=CODE)
    verifier = SimulatedVerifier((KEY.public_key().public_bytes_raw(),))
    both = (JOB_ID, "clinic", attester, verifier, simulated_policy(CODE))
    return ServerHandshake(*both), ClientHandshake(*both)


def _take_hello(data: bytes) -> None:
    server, _ = _parties()
    server.challenge()
    server.on_hello(data)


def _channel(folder: Path) -> list[Target]:
    server, client = _parties()
    challenge = server.challenge()
    hello = client.on_challenge(challenge)
    reply = server.on_hello(hello)
    last = client.on_server_hello(reply)[0]

    def take_challenge(data: bytes) -> None:
        _parties()[1].on_challenge(data)

    def take_server_hello(data: bytes) -> None:
        _, other = _parties()
        other.on_challenge(challenge)
        other.on_server_hello(data)

    kept = dict(vars(server))

    def take_client_key(data: bytes) -> None:
        vars(server).update(kept)  # the same state for each input, which no handshake allows
        server.on_client_key(data)

    sealed = (_sealed(0), _sealed(10), _sealed(9000))
    pair = KeyPair.generate()
    bound: dict[str, Any] = {"job_id": JOB_ID, "report_data": bytes(64), "purpose": "data-key"}
    box = seal_key(pair.public_bytes, SECRET, **bound)
    state = CheckpointFile(folder, SECRET, JOB_ID, FederatedState)
    state.save(Checkpoint(1, FederatedState(), b"adapter"))
    checkpoint = state.path.read_bytes()
    history = History(SECRET, JOB_ID)
    history.extend([bytes(32)] * 3)
    head = frames.encode(Frame("head", history.stated().fields))
    return [
        Target("sealed message", _open, raw(*sealed), sealed, 10_000),
        Target("sealed key", lambda d: pair.open(d, **bound), raw(box), (box,), 2_000),
        Target(
            "checkpoint",
            from_file(folder, state.path.name, lambda _: state.load()),
            raw(checkpoint),
            (checkpoint,),
            4_000,
        ),
        Target(
            "challenge",
            take_challenge,
            framed(challenge),
            (challenge,),
            3_000,
        ),
        Target("client-hello", _take_hello, framed(hello), (hello,), 4_000),
        Target("server-hello", take_server_hello, framed(reply), (reply,), 1_500),
        Target(
            "head of a server",
            lambda d: Stated.read(frames.decode(d).meta),
            framed(head),
            (head,),
            4_000,
        ),
        Target("client-key", take_client_key, framed(last), (last,), 3_000),
    ]


# ---- jobs -------------------------------------------------------------------------------------


def _jobs(folder: Path) -> list[Target]:
    job = Job.model_validate(
        {
            "job": {"name": "demo"},
            "model": {"path": "/m"},
            "data": {"train": "/d/t.csv", "test": "/d/e.csv"},
            "sites": {"names": ["north", "south"], "partition": "dirichlet"},
        }
    )
    plan = SlicePlan(
        architecture="LlamaForCausalLM",
        protect="adapter+data",
        blocks=2,
        prefix_blocks=0,
        modules=(),
        groups=(GROUP,),
        trainable=SHAPES,
        backbone=Backbone(path="/b", tensors={"w": "00"}),
    )
    keys = [Ed25519PrivateKey.generate() for _ in job.sites.names]
    data = DataIdentity(train="00" * 32, train_rows=3, test="11" * 32, test_rows=2)
    manifest = make_manifest(
        job.settings,
        labels=("a", "ß"),
        model=ModelIdentity(name="m", digest="22" * 32, tokenizer_digest="33" * 32),
        plan=plan,
        data=dict.fromkeys(job.sites.names, data),
        participants=tuple(
            Participant(org=site, key=public_hex(key.public_key()), sites=(site,))
            for site, key in zip(job.sites.names, keys, strict=True)
        ),
        code=dict.fromkeys(METHODS["federated-lora"].programs.values(), "44" * 48),
        appraisal=dict.fromkeys(
            METHODS["federated-lora"].attested, json.loads(simulated_policy(CODE).model_dump_json())
        ),
        not_before=NOW,
    )
    unsigned = wrap(manifest)
    envelope = unsigned
    for key in keys:
        envelope = proposal.sign(envelope, key)
    payload, signed = manifest_bytes(manifest), envelope.encode()

    def signed_parts(draw: random.Random) -> bytes:
        """Nasty JSON signed by both, so that nothing stops at a signature."""
        made = dsse.Envelope(unsigned.payload_type, nasty_json(draw, payload.decode()).encode())
        for key in keys:
            made = proposal.sign(made, key)
        return made.encode()

    def verify(data: bytes) -> None:
        verify_manifest(dsse.Envelope.decode(data), at=NOW)

    path = folder / "local.json"
    local = Local(
        manifest=folder / "m.json", role="site", site="north", folder=folder, listen="n.sock"
    )
    written = local.model_dump_json().encode()
    return [
        Target("manifest", parse_manifest, json_or_raw(payload), (payload,), 6_000),
        Target(
            "signed manifest",
            verify,
            either(json_or_raw(signed), signed_parts),
            (signed,),
            5_000,
        ),
        Target(
            "local.json",
            from_file(folder, path.name, read_local),
            json_or_raw(written),
            (written,),
            4_000,
        ),
    ]


def _cards(_folder: Path) -> list[Target]:
    key, (_, certificate) = (
        Ed25519PrivateKey.generate(),
        new_certificate("c", ["c.org"], timedelta(1)),
    )
    card = CoordinatorCard(
        format=2,
        org="north",
        key=public_hex(key.public_key()),
        settings="55" * 32,
        made="2026-01-01T00:00:00Z",
        expires="2026-01-02T00:00:00Z",
        role="coordinator",
        sites_at="c.org:9092",
        server_at="c.org:9093",
        certificate=certificate,
    )
    sealed = seal_card(card, key)
    payload, signed = sealed.payload, sealed.encode()

    def signed_parts(draw: random.Random) -> bytes:
        nasty = nasty_json(draw, payload.decode()).encode()
        return proposal.sign(dsse.Envelope(sealed.payload_type, nasty), key).encode()

    def read(data: bytes) -> None:
        open_card(dsse.Envelope.decode(data))

    return [Target("card", read, either(json_or_raw(signed), signed_parts), (signed,), 5_000)]


# ---- the accelerator, from both sides -----------------------------------------------------------


def _offload(folder: Path) -> list[Target]:
    backbone = folder / "backbone.safetensors"
    save_file({"q.weight": torch.ones((16, 8), dtype=torch.int8)}, backbone)
    table = torch.ones((11, 4))
    engine = Engine(
        backbone,
        [{"name": "q", "members": ["q"]}],
        prefix=lambda ids: torch.nn.functional.embedding(ids, table),  # type: ignore[arg-type]
    )
    server = Server(engine, "tcp:127.0.0.1:0", untrusted_shm=folder)
    name = "sealtune-" + "0" * 32
    (folder / name).write_bytes(bytes(4096))
    codes = np.arange(24, dtype=np.int32).tobytes()
    requests = tuple(
        frames.encode(frame)
        for frame in (
            Frame("product", {"group": "q", "backward": False, "rows": 3}, codes),
            Frame("product", {"group": "q", "backward": True, "rows": 1}, bytes(64)),
            Frame("prefix", {"batch": 1, "length": 2}, bytes(16)),
            Frame("arena", {"bytes": 4096}),
            Frame("arena", {"bytes": 4096, "name": name}),
            Frame("bye"),
        )
    )
    answers = tuple(
        frames.encode(frame)
        for frame in (
            Frame("product", {}, bytes(3 * 16 * 4)),
            Frame("prefix", {"dim": 4}, bytes(2 * 4 * 4)),
            Frame("prefix", {"dim": 0}),
            Frame("error", {"message": "no"}),
        )
    )
    return [
        Target(
            "accelerator request", lambda d: _ask(server, d), framed(*requests), requests, 5_000
        ),
        Target("accelerator answer", _answer, framed(*answers), answers, 4_000),
    ]


def _ask(server: Server, data: bytes) -> str | None:
    """What the server answers; an exception in it is an escape."""
    near, far = socket.socketpair()
    with far:
        far.sendall(data[:100_000])
        far.shutdown(socket.SHUT_WR)
        server._serve(near)
        try:
            answer = frames.receive(far)
        except (EOFError, OSError, SealtuneError):
            return "closed"
    message = str(answer.meta.get("message", ""))
    return message.partition(":")[0] if answer.kind == "error" else None


def _answer(data: bytes) -> str | None:
    """An enclave that asks for a product and a prefix, and gets ``data`` both times."""
    failures = []
    for ask in (_ask_product, _ask_prefix):
        near, far = socket.socketpair()
        with near, far:
            far.sendall(data[:100_000])
            far.shutdown(socket.SHUT_WR)
            remote = RemoteAccelerator(near, (GROUP,), shared_memory=False)
            try:
                ask(remote)
            except SealtuneError as error:
                failures.append(type(error).__name__)  # not the error: it holds buffers alive
    return failures[0] if len(failures) == 2 else None


def _ask_product(remote: RemoteAccelerator) -> None:
    call = remote.call("q", 3, backward=False)
    call.codes.zero_()
    call.submit()
    call.result()


def _ask_prefix(remote: RemoteAccelerator) -> None:
    remote.prefix(torch.zeros((1, 2), dtype=torch.int64))
