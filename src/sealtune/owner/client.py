"""Ask the server enclave of a finished split job about texts, from the data owner's machine.

    client = SplitClient(resolved, "north", key)
    shares = client.classify(texts, carry)     # carry(deliver) moves sealed bytes to the enclave

Trust domain: data owner. Whoever carries the bytes is untrusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.enclave.client_program import SiteProgram
from sealtune.enclave.trust import owner_trust
from sealtune.errors import DataError
from sealtune.job.resolved import Resolved
from sealtune.model.load import load_tokenizer
from sealtune.model.resolve import check_resolved
from sealtune.model.tasks import task_of
from sealtune.model.tokens import text_ids
from sealtune.owner.asking import Asker, ClassAsker, ContinueAsker
from sealtune.owner.bottom_site import CutMaker

Carry = Callable[[Callable[[bytes], bytes]], None]


class SplitClient:
    """A site that asks.

    Args:
        resolved: the finished job, checked anew against the model here.
        site: who asks.
        key: the private key of its organisation.

    Raises:
        UnknownKeyError: not the key in the manifest.
        ModelError: not the model of the job.
    """

    def __init__(self, resolved: Resolved, site: str, key: Ed25519PrivateKey) -> None:
        self._resolved = resolved
        self._site = site
        self._trust = owner_trust(resolved, site, key)
        check_resolved(resolved)
        self._tokenizer = load_tokenizer(resolved.job.model)
        self._task = task_of(resolved.job, resolved.labels, self._tokenizer)
        self._maker = CutMaker(resolved, self._task.pad_id)

    def classify(self, texts: Sequence[str], carry: Carry) -> list[list[float]]:
        """The probability of every class for each text.

        Raises:
            AttestationError, ChannelError: the server enclave was refused, or what it sent.
        """
        asker = ClassAsker(self._resolved, self._maker, self._task, texts)
        self._ask(asker, carry)
        return asker.shares

    def continue_texts(self, texts: Sequence[str], carry: Carry, *, tokens: int) -> list[str]:
        """The most probable continuation of each text, at most ``tokens`` long.

        Raises:
            DataError: a text without tokens.
            AttestationError, ChannelError: as for ``classify``.
        """
        rows = text_ids(self._tokenizer, texts)
        if not all(rows):
            raise DataError("a text has no tokens")
        end = self._tokenizer.eos_token_id
        asker = ContinueAsker(self._resolved, self._maker, rows, tokens=tokens, end=end)
        self._ask(asker, carry)
        return [
            str(self._tokenizer.decode(after[len(before) :], skip_special_tokens=True))
            for before, after in zip(rows, asker.rows, strict=True)
        ]

    def _ask(self, asker: Asker, carry: Carry) -> None:
        job_id = bytes.fromhex(self._resolved.job_id)
        program = SiteProgram(job_id, self._site, self._trust, asker, _silent)
        carry(program.deliver)


def _silent(event: object, **fields: Any) -> None:
    """Nobody follows the progress of a question."""
