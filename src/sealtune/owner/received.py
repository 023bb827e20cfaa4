"""The adapter as it comes to a site at the end of a split job, in parts.

Trust domain: data owner. Sizes are checked before use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError

from sealtune.errors import AdapterMismatchError, FrameError, ModelError
from sealtune.frames import Frame, is_count
from sealtune.methods.split.messages import MAX_PARTS, PART
from sealtune.party.admit import Admitted
from sealtune.tuning.adapter import FINGERPRINT, Fingerprint, fingerprint_of
from sealtune.tuning.file_names import PEFT_CONFIG


class Received:
    """A site's side: takes the parts in their order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._announced: tuple[int, dict[str, int]] | None = None

    @property
    def have(self) -> int:
        """Parts that are here."""
        return len(self._parts)

    def take(self, message: Frame) -> dict[str, bytes] | None:
        """Take one part; a part that is not the next one changes nothing.

        Returns:
            The files, when this was the last part; none were released if there are none.

        Raises:
            FrameError: not a part of an adapter, or sizes that do not add up.
        """
        part, of, sizes = (message.meta.get(key) for key in ("part", "of", "files"))
        if not is_count(part) or not is_count(of) or not 0 < of <= MAX_PARTS or part >= of:
            raise FrameError("the end of the job came in parts that make no sense")
        if not isinstance(sizes, dict) or not all(is_count(size) for size in sizes.values()):
            raise FrameError("the server's files have no sizes")
        if len(message.body) > PART or sum(sizes.values()) > of * PART:
            raise FrameError("a part of the end, or what it announces, is too large")
        if self._announced not in (None, (of, sizes)):
            raise FrameError("the end of the job changed while it came")
        self._announced = (of, sizes)
        if part == self.have:
            self._parts.append(bytes(message.body))
        if self.have < of:
            return None
        body = b"".join(self._parts)
        if sum(sizes.values()) != len(body):
            raise FrameError("the sizes of the server's files do not add up")
        files: dict[str, bytes] = {}
        start = 0
        for name, size in sizes.items():
            files[str(name)] = body[start : start + size]
            start += size
        return files


def own_copy(files: Mapping[str, bytes], resolved: Admitted) -> dict[str, bytes]:
    """Files that another party made of a job, naming the base model where it lies here.

    Raises:
        AdapterMismatchError: they are of another job or another base model.
        ModelError: the fingerprint or PEFT's settings are damaged.
    """
    try:
        theirs = Fingerprint.model_validate_json(files.get(FINGERPRINT, b""))
        config = json.loads(files[PEFT_CONFIG]) if PEFT_CONFIG in files else None
        if config is not None and not isinstance(config, dict):
            raise ValueError("no object")
    except (ValidationError, ValueError) as error:
        raise ModelError("the adapter's fingerprint or settings are damaged") from error
    own = fingerprint_of(resolved)
    for what in ("job_id", "base_model_digest", "tuning", "task", "labels"):
        if getattr(theirs, what) != getattr(own, what):
            raise AdapterMismatchError(
                f"the adapter that came is of another job: its {what} differs"
            )
    here = theirs.model_copy(update={"base_model": own.base_model})
    result = {**files, FINGERPRINT: here.file()}
    if config is not None:
        config["base_model_name_or_path"] = own.base_model
        result[PEFT_CONFIG] = json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"
    return result
