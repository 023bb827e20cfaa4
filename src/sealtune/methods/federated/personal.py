"""A site's personal parts: tuned tensors that stay in its enclave from round to round.

They lie sealed in the site's state folder, as they were after the last round that the site trained
in and after the one before: a server that goes on from its checkpoint asks for one round again, and
the site begins that from the same values. The server says in which round it last took an update of
this site, so that parts that were lost or put back by whoever keeps the folder are noticed.

Trust domain: client enclave.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sealtune.errors import StorageError
from sealtune.model.trainable import read_tensors, write_tensors
from sealtune.party.admit import Admitted
from sealtune.party.checkpoint import Checkpoint, CheckpointFile, State

_KEPT = 2  # rounds


class PersonalState(State):
    """Of which rounds there are tensors, ascending; they are called ``<round>/<name>``."""

    rounds: tuple[int, ...]


class PersonalParts:
    """The personal tensors of one site; nothing of a job that has none.

    Args:
        admitted: the job.
        first: all tuned tensors as they begin.

    Raises:
        StorageError: they were sealed before, and cannot be opened.
    """

    def __init__(self, admitted: Admitted, first: Mapping[str, Tensor]) -> None:
        names = admitted.plan.personal
        self._by_round: dict[int, dict[str, Tensor]] = {
            0: {name: first[name].clone() for name in names}
        }
        if not names:
            return
        folder, key = admitted.state_folder, admitted.sealing_key
        job_id, owner = bytes.fromhex(admitted.job_id), f"client:{admitted.site}"
        self._file = CheckpointFile(folder, key, job_id, PersonalState, owner)
        if self._file.path.exists():
            from sealtune.party.reopening import check_reopening

            check_reopening(admitted.settings.protection, "site")
            self._load()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors."""
        return tuple(self._by_round[0])

    def after(self, round_: int, trained: int) -> Mapping[str, Tensor]:
        """The tensors as they were after ``round_``; forgets later ones.

        Args:
            round_: 0: as they begin.
            trained: the last round up to it from which the server has this site's update; 0: none.

        Raises:
            StorageError: they are not there, or older than the server has seen.
        """
        # later ones are of a round that is asked for again, or of a run that is begun anew
        self._by_round = {n: own for n, own in self._by_round.items() if n <= round_}
        newest = max(self._by_round)
        if newest < trained:
            raise StorageError(
                f"this site's personal parts of round {trained} are not in its state folder: they "
                "were lost, or older ones were put in their place",
                hint="put the site's own folder back, or start the run anew",
            )
        return self._by_round[newest]

    def keep(self, round_: int, state: Mapping[str, Tensor]) -> None:
        """Seal the personal tensors of ``state``, as a round has left them.

        Raises:
            StorageError: they cannot be written.
        """
        if not self.names:
            return
        earlier = sorted(number for number in self._by_round if 0 < number < round_)
        kept = {number: self._by_round[number] for number in earlier[1 - _KEPT :]}
        kept[round_] = {name: state[name].clone() for name in self.names}
        tensors = {f"{n}/{name}": t for n, own in kept.items() for name, t in own.items()}
        written = Checkpoint(round_, PersonalState(rounds=tuple(kept)), write_tensors(tensors))
        self._file.save(written)
        self._by_round = {0: self._by_round[0], **kept}

    def _load(self) -> None:
        saved = self._file.load()
        if saved is not None:
            tensors = read_tensors(saved.tensors, str(self._file.path))
            for number in saved.state.rounds:
                own = {name: tensors[f"{number}/{name}"] for name in self.names}
                self._by_round[number] = own
