"""The sealed channel: sealing against raw AES-GCM, key release, appraisal.

    python benchmarks/channel.py                    # 75 rounds
    python benchmarks/channel.py --quick --json     # within 4 minutes on 2 cores

Keys of the JSON line:

    seal_ratio        throughput of `SealedSession.seal`, through which each message, upload and
                      checkpoint of a run goes, over that of `AESGCM.encrypt` of the same 64 MiB,
                      interleaved; also ``open_ratio`` for the way back
    appraise_ms       full appraisal of a recorded TDX quote with its collateral; null where the
                      recorded evidence or dcap-qvl is not there
    key_release_ms    HPKE seal and open of one key; ``handshake_ms``: a whole simulated handshake

Ratios and times are medians of processor time, each with its quartiles in ``spread``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealtune.attest import AppraisalPolicy, Evidence, Kind, KindPolicy
from sealtune.attest.platforms.intel.dcap import DcapVerifier
from sealtune.attest.platforms.intel.quote import parse_quote, trim_padding
from sealtune.attest.platforms.simulated import (
    SimulatedAttester,
    SimulatedVerifier,
    simulated_policy,
)
from sealtune.channel.client import ClientHandshake
from sealtune.channel.hpke import KeyPair, seal_key
from sealtune.channel.sealed import SealedSession
from sealtune.channel.server import ServerHandshake
from sealtune.channel.stream import DEFAULT_CHUNK

FIXTURES = os.environ.get("SEALTUNE_FIXTURES")  # see docs/recorded-evidence.md
BUFFER = 64 << 20
JOB = bytes(48)
Figures = dict[str, list[float]]


def timed(work: Callable[[], bytes]) -> tuple[float, bytes]:
    """Processor time of one call, and what it returned; it runs on one thread and never waits."""
    start = time.thread_time()
    result = work()
    return time.thread_time() - start, result


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def sessions() -> tuple[SealedSession, SealedSession]:
    """Both ends of one direction."""
    secret = secrets.token_bytes(32)
    names = {"job_id": JOB, "sender": "server", "receiver": "client:a"}
    return (
        SealedSession(secret, mode="seal", **names),
        SealedSession(secret, mode="open", **names),
    )


def measure_sealing(rounds: int) -> Figures:
    """Ratios of throughput, raw and sealed interleaved on the same buffers."""
    plain = secrets.token_bytes(1 << 20) * (BUFFER >> 20)
    cipher = AESGCM(secrets.token_bytes(32))
    sender, receiver = sessions()
    figures: Figures = {"seal_ratio": [], "open_ratio": [], "raw_gb_per_s": []}
    for round_ in range(rounds + 2):
        nonce = round_.to_bytes(12, "little")
        encrypt, raw = timed(lambda nonce=nonce: cipher.encrypt(nonce, plain, None))
        seal, box = timed(lambda round_=round_: sender.seal(plain, round_))
        decrypt, _ = timed(lambda nonce=nonce, raw=raw: cipher.decrypt(nonce, raw, None))
        opened, back = timed(lambda round_=round_, box=box: receiver.open(box, round_))
        if back != plain:
            raise SystemExit("what was opened is not what was sealed")
        if round_ >= 2:  # the first two touch fresh memory
            figures["seal_ratio"].append(encrypt / seal)
            figures["open_ratio"].append(decrypt / opened)
            figures["raw_gb_per_s"].append(BUFFER / encrypt / 1e9)
    return figures


def measure_keys(rounds: int) -> Figures:
    """Milliseconds of a key release and of a whole handshake."""
    pair = KeyPair.generate()
    context: dict[str, Any] = {"job_id": JOB, "report_data": bytes(64), "purpose": "data-key"}
    key = Ed25519PrivateKey.generate()
    attester = SimulatedAttester(key)
    verifier = SimulatedVerifier((key.public_key().public_bytes_raw(),))
    policy = simulated_policy()

    def release() -> None:
        pair.open(seal_key(pair.public_bytes, bytes(32), **context), **context)

    def handshake() -> None:
        server = ServerHandshake(JOB, "a", attester, verifier, policy)
        client = ClientHandshake(JOB, "a", attester, verifier, policy)
        reply = server.on_hello(client.on_challenge(server.challenge()))
        server.on_client_key(client.on_server_hello(reply)[0])

    figures: Figures = {"key_release_ms": [], "handshake_ms": []}
    for _ in range(rounds):
        figures["key_release_ms"].append(1e3 * seconds(release))
        figures["handshake_ms"].append(1e3 * seconds(handshake))
    return figures


def measure_appraisal(rounds: int) -> Figures:
    """Milliseconds of a full appraisal of a recorded TDX quote."""
    if not FIXTURES or importlib.util.find_spec("dcap_qvl") is None:
        return {}
    quote = trim_padding((Path(FIXTURES) / "dcap-qvl/tdx_quote").read_bytes())
    collateral = (Path(FIXTURES) / "dcap-qvl/tdx_quote_collateral.json").read_bytes()
    settings = KindPolicy(measurements="any", allow=("smt", "dynamic-platform", "cached-keys"))
    policy = AppraisalPolicy(kinds={Kind.TDX: settings})
    at = datetime(2025, 7, 1, tzinfo=UTC)
    bound = parse_quote(quote).report_data

    def appraise() -> None:
        evidence = Evidence.decode(Evidence(Kind.TDX, quote, collateral).encode())
        DcapVerifier(Kind.TDX).verify(evidence, report_data=bound, policy=policy, at=at)

    appraise()
    return {"appraise_ms": [1e3 * seconds(appraise) for _ in range(rounds)]}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    rounds = 25 if options.quick else 75
    figures = measure_sealing(rounds)
    figures |= measure_keys(2 * rounds) | measure_appraisal(2 * rounds)
    result: dict[str, Any] = {"appraise_ms": None}
    result |= {name: round(statistics.median(values), 3) for name, values in figures.items()}
    result["chunk_bytes"] = DEFAULT_CHUNK
    result["spread"] = {
        name: [round(q, 3) for q in statistics.quantiles(values, n=4)[::2]]
        for name, values in figures.items()
    }
    for name, value in result.items():
        print(f"{name:18} {value}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
