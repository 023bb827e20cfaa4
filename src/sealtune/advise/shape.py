"""What the estimates need to know of a model: counted on the ``meta`` device, without weights.

Trust domain: operator; public structure only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from sealtune.advise.operations import Block, Count, count_blocks
from sealtune.job.spec import Job, ModelSpec
from sealtune.model.files import model_files
from sealtune.model.load import load_config, load_model
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import base_model
from sealtune.plan.trace import starts_with_embedding
from sealtune.tuning.apply import apply_tuning


@dataclass(frozen=True)
class Shape:
    """A tuned model.

    Attributes:
        blocks: in their order, each with a gradient that flows on to the block below.
        firsts: the same, each without.
        outside: embedding, last norm, head and loss.
        sizes: frozen parameters of each block.
        tuned: trainable parameters of each block, when every one is tuned that the job names.
        width: D, values of a token between blocks.
        vocabulary: number of token ids, V.
        whole: parameters of the model as it lies in memory; a head that is the embedding again
            counts once.
        embedding: parameters.
        rest: parameters outside blocks, embedding and head (the last norm, positions).
        head: parameters of the head.
        trained_outside: trainable parameters outside blocks: all of a classification head, and
            what virtual tokens share.
        head_per_token: whether the head answers every token and its loss keeps the answers.
        file_bytes: of one parameter in the weight files.
        prefix_fits: whether leading blocks could run apart, plain, for ``protect = "adapter"``.
    """

    blocks: tuple[Block, ...]
    firsts: tuple[Block, ...]
    outside: Block
    sizes: tuple[int, ...]
    tuned: tuple[int, ...]
    width: int
    vocabulary: int
    whole: int
    embedding: int
    rest: int
    head: int
    trained_outside: int
    head_per_token: bool
    file_bytes: int
    prefix_fits: bool

    @property
    def first_tuned(self) -> int:
        """Number of the first block with something to train."""
        return next((i for i, tuned in enumerate(self.tuned) if tuned), len(self.tuned))

    def part(self, first: int = 0) -> tuple[Block, ...]:
        """The blocks from ``first`` on, where those below run elsewhere and get no gradient."""
        start = max(first, self.first_tuned) + 1
        return self.firsts[first:start] + self.blocks[start:]

    def trainable(self, first: int = 0) -> int:
        """Trainable parameters of the blocks from ``first`` on, and outside blocks."""
        return sum(self.tuned[first:]) + self.trained_outside

    def linear(self, first: int = 0) -> int:
        """Parameters in frozen linear layers of the blocks from ``first`` on."""
        return sum(g.inner * g.outer for block in self.blocks[first:] for g in block.groups)

    @property
    def inner(self) -> int:
        """Size of a typical wide layer beside ``width``: mean width of what linear layers make."""
        groups = [group for block in self.blocks for group in block.groups]
        return round(sum(group.outer for group in groups) / len(groups))

    def bottom(self, cut: int) -> int:
        """Parameters at a site of a split job: embedding and blocks below the cut."""
        return self.embedding + sum(self.sizes[:cut]) + self.rest

    def top(self, cut: int) -> int:
        """Parameters at the server of a split job: blocks from the cut on, and the head.

        A tied head is loaded once more there: the embedding stays at the sites.
        """
        return sum(self.sizes[cut:]) + self.rest + self.head


def structure_only(spec: ModelSpec) -> ModelSpec:
    """``spec`` with a folder as its path; of a hub id only configuration and tokenizer are fetched.

    Raises:
        ModelError: there is no such folder, or the hub cannot be reached.
    """
    return spec.model_copy(update={"path": str(model_files(spec, weights=False).folder)})


def read_shape(job: Job, num_labels: int | None) -> Shape:
    """Count ``job``'s model.

    Args:
        job: its model is a folder, see ``structure_only``.
        num_labels: number of classes, for a classification head; None for other tasks.

    Raises:
        UnsupportedModelError, TargetModulesError: the model or the tuning cannot be planned.
    """
    model = load_model(job.model, num_labels, meta=True)
    _, blocks = find_blocks(model)
    embedding = model.get_input_embeddings().weight
    head = model.score if job.model.task == "classification" else model.get_output_embeddings()
    sizes = [_numel(block.parameters()) for block in blocks]
    whole, head_size = _numel(model.parameters()), _numel(head.parameters())
    rest = whole - sum(sizes) - embedding.numel() - head_size * (head.weight is not embedding)
    tuned = apply_tuning(model, job.tuning, job.model.task, job.job.seed).train()
    causal = job.model.task == "causal-lm"
    inside, firsts, outside = count_blocks(tuned, blocks)
    if causal:  # its loss is counted apart, by the size of the vocabulary
        outside = replace(outside, saved=0.0)
    elif job.model.task == "label-words":  # multiplies at the last token alone
        outside = replace(outside, forward=Count(), backward=Count())
    prefix = getattr(base_model(tuned), "prompt_encoder", None)
    each, shared = prefix.trained() if prefix is not None else (0, 0)
    return Shape(
        blocks=inside,
        firsts=firsts,
        outside=outside,
        sizes=tuple(sizes),
        tuned=tuple(
            _numel(p for p in block.parameters() if p.requires_grad) + each for block in blocks
        ),
        width=int(embedding.shape[1]),
        vocabulary=int(embedding.shape[0]),
        whole=whole,
        embedding=embedding.numel(),
        rest=rest,
        head=head_size,
        trained_outside=shared + (head_size if job.model.task == "classification" else 0),
        head_per_token=causal,
        file_bytes=2 if str(load_config(job.model).dtype).endswith("float16") else 4,
        prefix_fits=starts_with_embedding(tuned, blocks),
    )


def _numel(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
