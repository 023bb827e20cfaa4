"""What a way of tuning says of itself. A new one is one file with a ``Tuner`` that is registered.

A tuner may put layers into a model, wrap it, or give it something beside layers, such as a prefix.
All that training, planning and exporting ask is here; the trainable tensors are those parameters
that require a gradient (``model.trainable``).

Trust domain: client enclave (federated), server enclave (split); whoever received the adapter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sealtune.errors import ModelError
from sealtune.job.plan import FirstValue
from sealtune.model.trainable import trainable_state

# runs the model on a few batches and returns their loss, or yields one loss after another
Calibrate = Callable[[], Tensor | Iterable[Tensor]]
# trains what is trainable of a model for so many steps, on the samples that it is tuned on
Warm = Callable[[Any, int], None]


@dataclass(frozen=True)
class Context:
    """What a tuner may need beside its own settings.

    Attributes:
        task: the job's task.
        seed: the job's seed, from which every first value follows.
        head: whether this tuner trains the classification head and files it; of several, the first
            one does.
        layers: numbers of the blocks to tune, ascending; None: all.
        calibrate: for tuners that look at data before they choose.
        warm: for tuners that choose after a few steps, and begin anew.
        choices: what ``Tuner.choices`` returned, to tune the same again; None: choose.
    """

    task: str
    seed: int
    head: bool = False
    layers: tuple[int, ...] | None = None
    calibrate: Calibrate | None = None
    warm: Warm | None = None
    choices: Any = None


class Tuner(ABC):
    """One way of tuning a frozen decoder.

    Attributes:
        name: of its table in a job file, below ``[tuning]``.
        stays_apart: why it cannot be merged into the weights; empty: it can.
    """

    name: ClassVar[str]
    stays_apart: ClassVar[str] = ""

    @abstractmethod
    def apply(self, model: Any, settings: Any, context: Context) -> Any:
        """Put it on a frozen ``model``; on ``meta``, shapes only.

        Args:
            model: a decoder, or the top of one, maybe with other tuners on it.
            settings: the job's section ``[tuning.<name>]``.

        Returns:
            ``model``, or what wraps it.
        """

    @abstractmethod
    def first_value(self, name: str, shape: tuple[int, ...], settings: Any) -> FirstValue | None:
        """How the trainable tensor ``name`` begins; None if it is not this tuner's.

        ``apply_tuning`` fills the tensor accordingly after ``apply``. The law goes into the slice
        plan, from which the aggregator draws the same values.
        """

    def state(self, model: Any) -> dict[str, Tensor]:
        """What its files keep, by name: what is trained, or what follows from that."""
        return trainable_state(model)

    @abstractmethod
    def write(self, model: Any, base_model: str) -> dict[str, bytes]:
        """Its files in an adapter folder, with the names that it is registered with.

        Args:
            base_model: folder or hub id of the model that it belongs to.

        Raises:
            AdapterMismatchError: a tensor is not finite.
        """

    @abstractmethod
    def install(self, model: Any, files: Mapping[str, bytes], source: str) -> Any:
        """Put what ``write`` gave on the model that it was made for, still trainable.

        Args:
            files: all files of the adapter.
            source: where they are from, for messages.

        Raises:
            ModelError: they are damaged, or for another model; tensors are compared one by one.
        """

    def choices(self, model: Any) -> Any:
        """What it chose by looking at data, JSON-able: a checkpoint keeps it. None: nothing."""
        return None

    def merge(self, model: Any) -> Any:
        """The model with this tuner in its weights and gone as such."""
        raise ModelError(f"what {self.name} has tuned cannot be merged: {self.stays_apart}")
