"""The settings of SPF.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Select = Literal["l1-largest", "l1-smallest", "random", "gradient", "activation"]
Ratio = Annotated[float, Field(ge=0, le=1)]
BlockIndex = Annotated[int, Field(ge=0)]


class SPFConfig(BaseModel):
    """How many heads of each block are tuned, and which.

    Attributes:
        qkv: share of the heads whose query, key and value rows are tuned. With grouped queries,
            query heads and key/value heads are chosen apart, each by this share.
        dense: share of the heads whose columns of the output projection are tuned.
        select: how heads are ranked. ``l1-largest`` and ``l1-smallest``: L1 norm of the head's own
            weights; ``random``: by the seed; ``gradient``: L1 norm of the loss gradient of those
            weights; ``activation``: mean magnitude of the head's output. The last two look at data.
        seed: for ``random``.
        layers: blocks that are tuned; None: all.
        modules_to_save: names of further modules that are trained whole, such as a fresh
            classification head.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    qkv: Ratio = 0.25
    dense: Ratio = 0.25
    select: Select = "l1-largest"
    seed: int = Field(default=0, ge=0, lt=2**32)
    layers: tuple[BlockIndex, ...] | None = Field(default=None, min_length=1)
    modules_to_save: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _tunes_something(self) -> Self:
        if self.qkv == 0 and self.dense == 0:
            raise ValueError("qkv and dense are both 0, so nothing would be tuned")
        return self

    @property
    def needs_data(self) -> bool:
        """Whether heads are ranked by what they do on data."""
        return self.select in ("gradient", "activation")


def count_of(share: float, heads: int) -> int:
    """How many of ``heads`` a share stands for: rounded, but at least one if the share is not 0."""
    return 0 if share == 0 else max(1, int(share * heads + 0.5))
