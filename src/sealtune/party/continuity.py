"""The last state of the server enclave that a site has seen, so that none follows an older one.

    seen = own_continuity(manifest, identity, own_files(...))
    seen.follow(question.meta["head"])    # before any work; on record before anything leaves

A server enclave cannot tell whether its checkpoint is the newest: whoever keeps the file can put an
older one back, or let two servers go on from one. So each question says after which round it comes
(``party.history``), and a site goes on from what it last saw or not at all. A site that missed
rounds is told their links. The first head is believed, whatever it is.

Trust domain: client enclave (federated); data owner (split).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sealtune.errors import FrameError, RollbackError, StorageError
from sealtune.job.authenticated_file import AuthenticatedFile, OwnFiles
from sealtune.job.storage import locked
from sealtune.party.history import MAX_ROUND, SIZE, Head, Stated

_HEX = Field(pattern=rf"^[0-9a-f]{{{2 * SIZE}}}$")


class _Seen(BaseModel):
    """The last head: ``Stated``, without links."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    round: int = Field(ge=0, le=MAX_ROUND)
    digest: str = _HEX
    mark: str = _HEX

    @property
    def stated(self) -> Stated:
        """As in a message."""
        head = Head(self.round, bytes.fromhex(self.digest))
        return Stated(head, (), bytes.fromhex(self.mark))


class Continuity:
    """What one site has seen of one job.

    Args:
        file: where it is kept; one that is not there has seen nothing.
        job_id: 48 bytes.
    """

    def __init__(self, file: AuthenticatedFile[_Seen], job_id: bytes) -> None:
        self._file = file
        self._job_id = job_id
        self._before = Head()  # what this process has seen

    @property
    def seen(self) -> Stated | None:
        """The last head of the job's server.

        Raises:
            StorageError: the file was altered, cut or exchanged, or put back while this process
                used it.
        """
        kept = self._file.read()
        if self._before.round > (kept.round if kept else -1):
            raise StorageError(
                f"{self._file.path} is older than what this site has seen since it was started: "
                "it was deleted or put back",
                hint="who may write there? put the newest one back, or build and sign a new job",
            )
        return kept.stated if kept else None

    def check(self, *, anew: bool = False) -> None:
        """Whether this site can go on with the job.

        Args:
            anew: the job begins with its first round, and does not go on.

        Raises:
            RollbackError: it is under way, or done.
            StorageError: see ``seen``.
        """
        seen = self.seen
        if anew and seen is not None:
            self._compare(Stated(Head(), (), b""), seen.head)

    def follow(self, fields: object) -> None:
        """Go on to the head that a question states, or refuse it.

        Args:
            fields: of the question's ``meta``.

        Raises:
            RollbackError: it is not one that comes after what this site has seen.
            FrameError: it is no head.
            StorageError: see ``seen``; or it cannot be written.
        """
        told = Stated.read(fields)
        with locked(self._file.path):
            seen = self.seen
            self._compare(told, seen.head if seen else None)
            if told.head.round >= 0 and (seen is None or seen.head != told.head):
                digest, mark = told.head.digest.hex(), told.mark.hex()
                self._file.write(_Seen(round=told.head.round, digest=digest, mark=mark))
            self._before = told.head

    def _compare(self, told: Stated, seen: Head | None) -> None:
        since = told.head.round - len(told.links)
        if seen is None:
            if since == -1 and self._follow(Head(), told) != told.head:
                raise FrameError("the links of the server's rounds do not add up")
            return
        if told.head.round < seen.round:
            server = f"is at round {told.head.round}" if told.head.round >= 0 else "begins the job"
            raise RollbackError(
                f"the server enclave {server}, and this site has seen what came after round "
                f"{seen.round}: an older state was put back, or the job is run once more",
                hint="go on from the newest checkpoint (--resume); if it is lost, or to run the "
                "same once more, build and sign a new job",
            )
        if since > seen.round:
            raise RollbackError(
                f"the server enclave does not say how it came from round {seen.round}, which this "
                f"site saw last, to round {since}",
                hint="the next message of an honest server does",
            )
        if self._follow(seen, told) != told.head:
            raise RollbackError(
                f"the server enclave's round {told.head.round} does not go on from the round "
                f"{seen.round} that this site saw: two servers were let run from one checkpoint",
                hint="go on with the one that this site saw, or build and sign a new job",
            )

    def _follow(self, head: Head, told: Stated) -> Head:
        """Where ``told`` leads from ``head``."""
        for link in told.links[head.round - (told.head.round - len(told.links)) :]:
            head = head.then(self._job_id, link)
        return head


def own_continuity(job_id: str, files: OwnFiles) -> Continuity:
    """What a site has seen of a job.

    Args:
        job_id: in hex.
        files: the site's.
    """
    file = files.of_job(
        job_id,
        "seen",
        _Seen,
        name="what this site has seen of the job,",
        hint="put it back from a copy. If you know why the key is another (an update of sealtune "
        "or of the firmware changes an enclave's), build and sign a new job",
    )
    return Continuity(file, bytes.fromhex(job_id))
