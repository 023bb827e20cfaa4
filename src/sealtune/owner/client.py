"""Ask the server enclave of a finished split job about texts, from the data owner's machine.

    client = SplitClient(admit(local, OWNER_ASKING))
    shares = client.classify(texts, carry)     # carry(deliver) moves sealed bytes to the enclave

Trust domain: data owner. Whoever carries the bytes is untrusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sealtune.errors import DataError
from sealtune.model.tokens import text_ids
from sealtune.owner.bottom_site import CutMaker
from sealtune.owner.inference import Asker, ClassAsker, ContinueAsker
from sealtune.party.admit import Admitted
from sealtune.party.site_program import SiteProgram

Carry = Callable[[Callable[[bytes], bytes]], None]


class SplitClient:
    """A site that asks.

    Args:
        admitted: the finished job, as the site that asks.
    """

    def __init__(self, admitted: Admitted) -> None:
        self._admitted = admitted
        self._task = admitted.holdings.task
        self._maker = CutMaker(admitted, self._task.pad_id)

    def classify(self, texts: Sequence[str], carry: Carry) -> list[list[float]]:
        """The probability of every class for each text.

        Raises:
            AttestationError, ChannelError: the server enclave was refused, or what it sent.
        """
        asker = ClassAsker(self._admitted, self._maker, self._task, texts)
        self._ask(asker, carry)
        return asker.shares

    def continue_texts(self, texts: Sequence[str], carry: Carry, *, tokens: int) -> list[str]:
        """The most probable continuation of each text, at most ``tokens`` long.

        Raises:
            DataError: a text without tokens.
            AttestationError, ChannelError: as for ``classify``.
        """
        tokenizer = self._task.tokenizer
        rows = list(text_ids(tokenizer, texts))
        if not all(rows):
            raise DataError("a text has no tokens")
        end = tokenizer.eos_token_id
        asker = ContinueAsker(self._admitted, self._maker, rows, tokens=tokens, end=end)
        self._ask(asker, carry)
        return [
            str(tokenizer.decode(after[len(before) :], skip_special_tokens=True))
            for before, after in zip(rows, asker.rows, strict=True)
        ]

    def _ask(self, asker: Asker, carry: Carry) -> None:
        carry(SiteProgram(self._admitted, asker, _silent).deliver)


def _silent(event: object) -> None:
    """Nobody follows the progress of a question."""
