"""What must not be found where it does not belong: texts, labels, tensors, private keys."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
)
from safetensors.numpy import load_file

_PIECE = 16  # bytes of a tensor that are looked for
Needles = Mapping[str, bytes]  # what it is -> the bytes


def of_rows(*files: Path) -> dict[str, bytes]:
    """Every text of jsonl files."""
    found = {}
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            found[f"{file.name}:{number}"] = json.loads(line)["text"].encode()
    assert found
    return found


def of_words(words: Iterable[str]) -> dict[str, bytes]:
    """Label words, of more than three letters: shorter ones turn up in random bytes."""
    return {f"word {word}": word.encode() for word in words if len(word) > 3}


def of_adapter(folder: Path) -> dict[str, bytes]:
    """Pieces of every tensor of an adapter, as float32 lies in memory."""
    found = {}
    for file in folder.rglob("*.safetensors"):
        for name, tensor in load_file(file).items():
            raw = np.ascontiguousarray(tensor, dtype="<f4").tobytes()
            for start in range(0, len(raw) - _PIECE + 1, _PIECE * 8):
                piece = raw[start : start + _PIECE]
                if len(set(piece)) > 4:  # zeros say nothing
                    found[f"{name}[{start}]"] = piece
    assert found
    return found


def of_key(file: Path) -> dict[str, bytes]:
    """A private key: the number itself, and the lines of its file."""
    data = file.read_bytes()
    load = load_ssh_private_key if b"OPENSSH" in data else load_pem_private_key
    key = load(data, None)
    if isinstance(key, Ed25519PrivateKey):
        secret = key.private_bytes_raw()
    else:
        assert isinstance(key, EllipticCurvePrivateKey)
        size = (key.key_size + 7) // 8
        secret = key.private_numbers().private_value.to_bytes(size, "big")
    body = [line for line in data.split() if re.fullmatch(rb"[A-Za-z0-9+/=]{40,}", line)]
    lines = {f"{file.name} line {at}": line for at, line in enumerate(body[-2:])}
    return {file.name: secret, f"{file.name} base64": base64.b64encode(secret)[:-4], **lines}


def found_in(haystack: bytes, needles: Needles) -> list[str]:
    """Which needles there are, by what they are."""
    return [what for what, needle in needles.items() if needle in haystack]
