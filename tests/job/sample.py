"""A small job, its manifest, and the participants' keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.job import proposal
from sealtune.job.dsse import Envelope
from sealtune.job.keys import public_hex
from sealtune.job.manifest import DataIdentity, Manifest, ModelIdentity, Participant
from sealtune.job.network import NetworkIdentity
from sealtune.job.network_keys import new_certificate, new_node_key
from sealtune.job.plan import Backbone, ModulePlan, SlicePlan
from sealtune.job.proposal import sign, wrap
from sealtune.job.spec import Job

JOB = Job.model_validate(
    {
        "job": {"name": "demo", "seed": 2**32 - 1},
        "model": {"path": "/m", "revision": "main"},
        "data": {"train": "/d/é.csv", "test": "/d/t.csv"},
        "sites": {"names": ["north", "south"], "partition": "dirichlet"},
        "train": {"learning_rate": 1e-7},
    }
)
LABELS = ("a", "ß")
PLAN = SlicePlan(
    architecture="LlamaForCausalLM",
    protect="adapter+data",
    blocks=2,
    prefix_blocks=0,
    modules=(
        ModulePlan(name="m", kind="Linear", role="linear", placement="masked", reason="frozen"),
    ),
    groups=(),
    trainable={"a": (2, 3)},
    backbone=Backbone(path="/b", tensors={"w": "00"}),
)
MODEL = ModelIdentity(name="small", digest="ab" * 32, tokenizer_digest="cd" * 32)
DATA = DataIdentity(train="01" * 32, train_rows=30, test="02" * 32, test_rows=10)
KEYS = {
    org: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, org in enumerate(("clinic", "lab"), 1)
}
PARTICIPANTS = (
    Participant(org="clinic", key=public_hex(KEYS["clinic"].public_key()), sites=("north",)),
    Participant(org="lab", key=public_hex(KEYS["lab"].public_key()), sites=("south",)),
)
_YEAR = timedelta(days=366)
TLS_KEY, _CERTIFICATE = new_certificate("coordinator", ("192.0.2.1", "relay.test"), 2 * _YEAR)
LINK_KEY, _LINK = new_certificate("server", (), 2 * _YEAR)
NODE_KEYS = {site: new_node_key() for site in ("north", "south")}
NETWORK = NetworkIdentity(
    sites_at="relay.test:9092",
    server_at="192.0.2.1:9093",
    certificate=_CERTIFICATE,
    server_certificate=_LINK,
    nodes={site: public for site, (_, public) in NODE_KEYS.items()},
)
APPRAISAL = {
    "version": 1,
    "kinds": {"simulated": {"measurements": ["00" * 48], "tcb_statuses": ["Simulated"]}},
}


def make_manifest(**changes: Any) -> Manifest:
    """A manifest of ``JOB``; ``changes`` are arguments of ``make_manifest``."""
    parts: dict[str, Any] = {
        "labels": LABELS,
        "model": MODEL,
        "plan": PLAN,
        "data": {"north": DATA, "south": DATA},
        "participants": PARTICIPANTS,
        "code": {"aggregator": "ef" * 48, "site-enclave": "ee" * 48},
        "appraisal": {"server": APPRAISAL, "site": APPRAISAL},
    }
    settings = changes.pop("settings", JOB.settings)
    return proposal.make_manifest(settings, **(parts | changes))


def sign_all(found: Manifest) -> Envelope:
    """Its envelope, signed by both."""
    envelope = wrap(found)
    for key in KEYS.values():
        envelope = sign(envelope, key)
    return envelope
