"""Everything that is estimated of a job, in one call.

Trust domain: operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sealtune.advise.costs import Batch, masked_step
from sealtune.advise.counts import Counts, count_data
from sealtune.advise.equipment import Equipment, take_stock
from sealtune.advise.estimate import Option, estimate
from sealtune.advise.places import Place, measure_places, places_of
from sealtune.advise.shape import Shape, read_shape, structure_only
from sealtune.errors import SealtuneError
from sealtune.job.job_file import EquipmentSpec
from sealtune.job.spec import Job


@dataclass(frozen=True)
class Assessment:
    """What a job would take.

    Attributes:
        job: with a folder as its model's path.
        options: every way to run it.
        counts: of its data.
        equipment: what there is to compute with.
        places: where a site's step could be computed, measured; empty if it was not.
        step: the mean training step that they are of.
        not_measured: why not; empty if they were, or nobody asked.
    """

    job: Job
    options: list[Option]
    counts: Counts
    equipment: Equipment
    places: tuple[Place, ...] = ()
    step: Batch | None = None
    not_measured: str = ""

    @property
    def own(self) -> Option | None:
        """The way that the job itself names; None of one that is not estimated."""
        return next((option for option in self.options if option.own), None)


def assess(
    job: Job,
    labels: tuple[str, ...],
    stated: EquipmentSpec,
    *,
    probing: bool,
    variables: Mapping[str, str] | None = None,
) -> Assessment:
    """Count the job's model and data, and estimate every way to run it.

    Args:
        labels: its classes.
        stated: the job file's ``[equipment]``.
        probing: measure this machine for what ``[equipment]`` leaves out, which takes seconds;
            otherwise take a reference machine's figures.
        variables: environment of a site's enclave, to time its steps in each place; default: they
            are not timed.

    Raises:
        DataError, ModelError: data or model cannot be used.
    """
    job = job.model_copy(update={"model": structure_only(job.model)})
    classes = len(labels) if job.model.task == "classification" else 0
    shape = read_shape(job, classes or None)
    counts = count_data(job, labels)
    rows = round(counts.pooled_step().tokens)
    equipment = take_stock(stated, shape.width, shape.inner, rows, probing=probing)
    step, measured, why = max((p.step for p in counts.train.values()), key=_tokens), None, ""
    if variables is not None:
        try:
            measured = measure_places(job, shape, step, variables)
        except SealtuneError as error:
            why = error.message
    places = tuple(places_of(measured, job)) if measured else ()
    own = stated.client_tee_tflops is None and stated.accelerator_tops is None
    factors = _factors(places[0], shape, step, equipment) if places and own else {}
    options = estimate(job, shape, counts, equipment, factors)
    return Assessment(job, options, counts, equipment, places, step, why)


def _factors(masked: Place, shape: Shape, step: Batch, equipment: Equipment) -> dict[str, float]:
    """Pieces of a masked step -> seconds measured over seconds estimated, of equal machines."""
    work = masked_step(shape, step, 0, backward=True)
    estimated = {
        "enclave": equipment.client.seconds(work.enclave),
        "accelerator": equipment.accelerator.seconds(work.accelerator),
        "pads": equipment.client.seconds(work.pads),
    }
    return {piece: masked.seconds[piece] / seconds for piece, seconds in estimated.items()}


def _tokens(batch: Batch) -> float:
    return batch.tokens
