"""SPF as a job uses it: ``[tuning.spf]``.

Trust domain: server enclave; whoever received the adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sealtune.errors import AdapterMismatchError, ModelError
from sealtune.job.plan import FirstValue
from sealtune.job.sections import HEAD, SpfSpec
from sealtune.model.trainable import trainable_state
from sealtune.tuning.file_names import SPF_CONFIG, SPF_WEIGHTS
from sealtune.tuning.head import fresh_head
from sealtune.tuning.spf.apply import apply_spf, chosen_heads, merge_spf
from sealtune.tuning.spf.config import SPFConfig
from sealtune.tuning.spf.files import install_spf, parse_spf_config, spf_files
from sealtune.tuning.tuner import Context, Tuner


class Spf(Tuner):
    """Slices of frozen weights; the choices are the heads."""

    name = "spf"

    def apply(self, model: Any, settings: SpfSpec, context: Context) -> Any:
        """See ``apply_spf``."""
        values = settings.model_dump() | {"layers": context.layers, "seed": context.seed}
        config = SPFConfig(**values, modules_to_save=(HEAD,) if context.head else ())
        if context.head:
            fresh_head(model, context.seed)
        with _warm(model, settings, context):
            return apply_spf(model, config, calibrate=context.calibrate, heads=context.choices)

    def first_value(
        self, name: str, shape: tuple[int, ...], settings: SpfSpec
    ) -> FirstValue | None:
        """Every delta starts at zero."""
        return FirstValue(law="constant", scale=0) if name.endswith(".spf.delta") else None

    def write(self, model: Any, base_model: str) -> dict[str, bytes]:
        """See ``spf_files``."""
        return spf_files(model)

    def install(self, model: Any, files: Mapping[str, bytes], source: str) -> Any:
        """See ``load_spf``; of the modules that are replaced whole, a job knows the head alone."""
        file = parse_spf_config(files[SPF_CONFIG], f"{source}: {SPF_CONFIG}")
        odd = sorted(set(file.config.modules_to_save) - {HEAD})
        if odd:
            raise AdapterMismatchError(f"{source} would replace {odd[0]} whole, which no job does")
        return install_spf(model, file, files[SPF_WEIGHTS], source)

    def choices(self, model: Any) -> Any:
        """The heads."""
        return chosen_heads(model)

    def merge(self, model: Any) -> Any:
        """See ``merge_spf``."""
        return merge_spf(model)


@contextmanager
def _warm(model: Any, settings: SpfSpec, context: Context) -> Iterator[None]:
    """In the block, ``model`` is as ``warm_steps`` have made it, where heads are chosen so.

    Trained is what is trainable before SPF: LoRA and the head, which begin anew afterwards.
    """
    first = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    chooses = settings.select == "fisher" and context.choices is None
    if not chooses or not first or any(tensor.is_meta for tensor in first.values()):
        yield
        return
    if context.warm is None:
        raise ModelError(
            "the selector 'fisher' ranks heads after a warm start, and nothing trains here",
            hint="pass warm=..., which trains the model for a number of steps",
        )
    was_training = model.training
    try:
        if settings.warm_steps:
            context.warm(model, settings.warm_steps)
        yield
    finally:
        model.train(was_training)
        own = trainable_state(model)
        for name, tensor in first.items():
            own[name].copy_(tensor)
