"""The sealed channel: sealing against raw AES-GCM, memory of a long stream, appraisal.

    python benchmarks/channel.py                    # 75 rounds
    python benchmarks/channel.py --quick --json     # within 4 minutes on 2 cores

Keys of the JSON line:

    seal_ratio        throughput of `SealedSession.seal_into` (1 MiB chunks) over that of one raw
                      `AESGCM.encrypt_into` call, same 64 MiB buffers, interleaved; also
                      ``open_ratio`` for the way back
    stream_peak_mib   memory that sealing and opening a 4 GiB stream adds to an idle process, in a
                      process of its own (VmHWM); it goes through `seal_chunks` and `open_chunks`
    appraise_ms       full appraisal of a recorded TDX quote with its collateral; null where the
                      recorded evidence or dcap-qvl is not there
    key_release_ms    HPKE seal and open of one key; ``handshake_ms``: a whole simulated handshake

Ratios and times are medians of processor time, each with its quartiles in ``spread``; only the
stream is timed by the clock.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sealtune.attest.dcap import DcapVerifier
from sealtune.attest.quote import parse_quote, trim_padding

from sealtune.attest import (
    AppraisalPolicy,
    Evidence,
    Kind,
    KindPolicy,
    SimulatedAttester,
    SimulatedVerifier,
    simulated_policy,
)
from sealtune.channel import (
    ClientHandshake,
    KeyPair,
    SealedSession,
    ServerHandshake,
    seal_key,
    sealed_size,
)
from sealtune.channel.stream import DEFAULT_CHUNK

FIXTURES = os.environ.get("SEALTUNE_FIXTURES")  # see docs/recorded-evidence.md
BUFFER = 64 << 20
STREAM = 4 << 30
JOB = bytes(48)
Figures = dict[str, list[float]]


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call: all that is timed here runs on one thread and never waits."""
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
    plain = bytearray(secrets.token_bytes(1 << 20) * (BUFFER >> 20))
    raw = bytearray(BUFFER + 16)
    box = bytearray(sealed_size(BUFFER))
    cipher = AESGCM(secrets.token_bytes(32))
    sender, receiver = sessions()
    figures: Figures = {"seal_ratio": [], "open_ratio": [], "raw_gb_per_s": []}
    for round_ in range(rounds + 2):
        nonce = round_.to_bytes(12, "little")
        encrypt = seconds(lambda nonce=nonce: cipher.encrypt_into(nonce, plain, None, raw))
        seal = seconds(lambda round_=round_: sender.seal_into(plain, box, round_))
        decrypt = seconds(lambda nonce=nonce: cipher.decrypt_into(nonce, raw, None, plain))
        opened = seconds(lambda round_=round_: receiver.open_into(box, plain, round_))
        if round_ >= 2:  # the first two touch fresh memory
            figures["seal_ratio"].append(encrypt / seal)
            figures["open_ratio"].append(decrypt / opened)
            figures["raw_gb_per_s"].append(BUFFER / encrypt / 1e9)
    return figures


class Zeros:
    """A source of zero bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readinto(self, buffer: memoryview, /) -> int:
        """Claim to have filled the buffer."""
        count = min(self.left, len(buffer))
        self.left -= count
        return count


class Pipe:
    """A source that takes what a sealer yields, chunk by chunk."""

    def __init__(self, parts: Iterator[memoryview]) -> None:
        self.parts, self.rest = parts, memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """Copy as much as there is room for."""
        if not self.rest:
            self.rest = next(self.parts, memoryview(b""))
        count = min(len(self.rest), len(buffer))
        buffer[:count] = self.rest[:count]
        self.rest = self.rest[count:]
        return count


def status(field: str) -> int:
    """A memory figure of this process in KiB, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}")


def stream_child(size: int) -> None:
    """Seal and open a stream; print its seconds and the memory it added at its peak, in MiB."""
    sender, receiver = sessions()
    receiver.open(sender.seal(b"warm", 0), 0)
    idle = status("VmRSS")
    total = 0
    start = time.perf_counter()
    for chunk in receiver.open_chunks(Pipe(sender.seal_chunks(Zeros(size), 1)), 1):
        total += len(chunk)
    if total != size:
        raise SystemExit(f"{total} bytes came out of a stream of {size}")
    print(json.dumps([time.perf_counter() - start, max(0, status("VmHWM") - idle) / 1024]))


def measure_stream() -> tuple[float, float]:
    """Seconds and added peak memory of a 4 GiB stream, in a process of its own."""
    command = [sys.executable, __file__, "--stream-child", str(STREAM)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    took, peak = json.loads(done.stdout)
    return took, peak


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
    parser.add_argument("--stream-child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream_child is not None:
        stream_child(options.stream_child)
        return
    rounds = 25 if options.quick else 75
    figures = measure_sealing(rounds)
    figures |= measure_keys(2 * rounds) | measure_appraisal(2 * rounds)
    took, peak = measure_stream()
    result: dict[str, Any] = {"appraise_ms": None}
    result |= {name: round(statistics.median(values), 3) for name, values in figures.items()}
    result |= {"stream_peak_mib": round(peak, 1), "stream_gb_per_s": round(STREAM / took / 1e9, 2)}
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
