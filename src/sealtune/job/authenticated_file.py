"""Small JSON files of a site's own, which nobody else can change unseen.

    HMAC-SHA-256 of the rest, 64 hex digits | line feed | JSON

The key is derived from a secret that only this site has, and from what the file is. Its host can
still delete it or put an older one back (docs/limitations.md).

Trust domain: client enclave; data owner.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ValidationError

from sealtune.errors import StorageError
from sealtune.job.storage import read_bounded, write_atomic

_MAC = 64  # hex digits of the first line
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class OwnFiles:
    """Where a site keeps what it remembers of its jobs.

    Attributes:
        log: that of its organisation's jobs; the others lie beside it.
        site: its name in the manifest.
        organisation: public key (64 hex digits) of the organisation that answers for it.
        secret: its enclave's sealing key, or its organisation's private key where there is none.
    """

    log: Path
    site: str
    organisation: str
    secret: bytes = field(repr=False)

    def of_job(
        self, job_id: str, what: str, form: type[M], *, name: str, hint: str
    ) -> AuthenticatedFile[M]:
        """A file of this site alone, about one job.

        Args:
            job_id: of the job, in hex.
            what: one word for what is in it.
            form, name, hint: see ``AuthenticatedFile``.
        """
        path = self.log.with_name(f"{self.log.stem}-{self.site}-{job_id[:32]}-{what}.json")
        whose = f"sealtune/{what}/v1/{self.organisation}/{self.site}/{job_id}"
        limit = 1 << 12
        return AuthenticatedFile(
            path, self.secret, whose.encode(), form, name=name, limit=limit, hint=hint
        )


class AuthenticatedFile(Generic[M]):
    """Reads and writes one file.

    Args:
        path: of the file.
        secret: only this site has it.
        info: what the file is, and whose: that of another purpose, job or site does not open.
        form: what is in it.
        name: the same for people, such as "the log of this site's jobs".
        limit: bytes that it has at most.
        hint: what to do where it is not as it was written.
    """

    def __init__(
        self,
        path: Path,
        secret: bytes,
        info: bytes,
        form: type[M],
        *,
        name: str,
        limit: int,
        hint: str,
    ) -> None:
        self.path = path
        self._key = HKDF(SHA384(), 32, salt=None, info=info).derive(secret)
        self._form = form
        self._name = name
        self._limit = limit
        self._hint = hint

    def read(self) -> M | None:
        """What is in it; None where there is no file.

        Raises:
            StorageError: it was altered, cut or exchanged, or cannot be read.
        """
        if not self.path.exists():
            return None
        data = read_bounded(self.path, self._limit, self._failure)
        stated, content = data[:_MAC], data[_MAC + 1 :]
        if not hmac.compare_digest(stated, self._mac(content)):
            raise self._failure(
                "is not as this site wrote it: it was altered or cut, is another's, or was "
                "written under another key",
                self._hint,
            )
        try:
            return self._form.model_validate_json(content)
        except ValidationError as error:
            words = "is of another version of sealtune"
            raise self._failure(words, "go on with that version") from error

    def write(self, content: M) -> None:
        """Replace what is in it.

        Raises:
            StorageError: it cannot be written; what was there stays.
        """
        data = content.model_dump_json().encode()
        write_atomic(self.path, self._mac(data) + b"\n" + data)

    def _failure(self, said: str, hint: str = "") -> StorageError:
        return StorageError(f"{self._name} {self.path} {said}", hint=hint)

    def _mac(self, content: bytes) -> bytes:
        return hmac.new(self._key, content, hashlib.sha256).hexdigest().encode()
