"""The cost model: floating-point operations, bytes and memory of each piece of each method.

Letters: ``T`` tokens of a step (padding included), ``L`` tokens of a row, ``K x N`` the sizes of a
frozen linear layer, ``D`` the width. Operations of fp32 products are counted (``operations``).

Derived where that is possible. What is measured stands below as a constant, with what it is and on
what it was measured; ``benchmarks/advise.py`` checks all of it on other shapes.

Trust domain: operator; public structure and counts only.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealtune.advise.shape import Shape
from sealtune.channel.stream import sealed_size
from sealtune.model.activations import Form, bytes_per_token

MIB = float(1 << 20)

# Resident memory of a process before it has loaded a model, in bytes: Python, torch, transformers,
# peft, a tokenizer. Measured with torch 2.13 for CPU.
RUNTIME = 456 * MIB
RUNTIME_AGGREGATOR = 55 * MIB  # without torch
RUNTIME_ACCELERATOR = 242 * MIB  # torch alone

# Resident memory of a step over what autograd keeps. Activations of 1 to 3 MB lie in the C
# library's heap between temporaries that are freed again, so half of the heap is holes. Measured
# 1.94 to 2.1 on five shapes (6 to 30 blocks, 512 to 2048 tokens).
HEAP = 2.0

# The second top that a split job's export is compared with lies partly in holes that the training
# left: this share of it is new memory. Measured 0.3 to 0.95 at cuts 8, 16 and 24 of 30.
EXPORT_SHARE = 0.7

# Buffers of T x V floats at the peak of plain PEFT's causal-lm step: logits, the picked rows, their
# log-softmax, one gradient. Ours makes them of a few rows at a time (``model.head_loss``).
LOGIT_BUFFERS = 4
LOGITS = 8 * MIB

# Memory traffic of what is no matrix product (norms, rotations, activation functions, sums), in
# units of what autograd keeps. Measured 6 to 8 forward and 13 to 16 backward.
TRAFFIC_FORWARD = 7.0
TRAFFIC_BACKWARD = 15.0

# Backward, fused attention makes five products, its scores once more among them; counted are the
# four of an attention that kept them.
ATTENTION_BACKWARD = 5 / 4

# Passes over the codes of a masked product, both matrices together, in units of their 4 bytes a
# value: norm and code with mask and check sum, then unmask, range, check sum and decode. With what
# each call costs besides. Fitted to 512 tokens of SmolLM2-135M; of 256 that gives 0.84, computed.
TRAFFIC_CODES = 14.0

AES_TRAFFIC = 2.0  # making a key stream, in units of its bytes

# A chunk of cut activations lies in memory as packed rows, as a body, as a frame and sealed.
CHUNK_COPIES = 4

# A message through the network engine takes so long, however small it is (docs/flower.md).
EXCHANGE_SECONDS = 4.5
START_SECONDS = 30.0  # processes, imports, loading; 33 s measured for a job of three sites
HANDSHAKE_UP, HANDSHAKE_DOWN = 5300, 5350  # bytes, measured
HANDSHAKE_MESSAGES = 2
MESSAGE_BYTES = 250  # of a sealed message with next to nothing in it


@dataclass(frozen=True)
class Batch:
    """Rows of one step, padded to one length.

    Attributes:
        tokens: B * L, padding included; a mean may have a fraction.
        length: L.
    """

    tokens: float
    length: float

    @property
    def rows(self) -> float:
        """B."""
        return self.tokens / self.length if self.length else 0.0


@dataclass(frozen=True)
class Work:
    """What a computation costs, whatever machine does it.

    Attributes:
        flops: of fp32 matrix products.
        traffic: bytes moved by everything else.
        ring: int8 operations of ring products in this place (8 for each token and weight: 2, times
            the four digits of a code).
    """

    flops: float = 0.0
    traffic: float = 0.0
    ring: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.traffic + other.traffic, self.ring + other.ring)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.traffic * times, self.ring * times)


# --- plain computation --------------------------------------------------------------------


def forward_work(
    shape: Shape, batch: Batch, first: int = 0, last: int | None = None, *, head: bool = True
) -> Work:
    """A forward pass of some blocks."""
    parts = [*shape.blocks[first:last], *([shape.outside] if head else [])]
    return Work(
        flops=batch.tokens * sum(p.forward.fixed + p.forward.each * batch.length for p in parts),
        traffic=TRAFFIC_FORWARD * batch.tokens * sum(p.saved for p in parts),
    )


def step_work(shape: Shape, batch: Batch, first: int = 0, *, checkpointing: bool = False) -> Work:
    """A training step of the blocks from ``first`` on: forward, backward, and forward once more
    where activations are not kept."""
    parts, length = [*shape.part(first), shape.outside], ATTENTION_BACKWARD * batch.length
    back = Work(
        flops=batch.tokens * sum(p.backward.fixed + p.backward.each * length for p in parts),
        traffic=TRAFFIC_BACKWARD * batch.tokens * sum(p.saved for p in parts),
    )
    again = forward_work(shape, batch, max(first, shape.first_tuned), head=False)
    return forward_work(shape, batch, first) + back + again * checkpointing


# --- masked products (Method 1) -------------------------------------------------------------------


def products(shape: Shape, first: int, *, backward: bool) -> list[tuple[int, int]]:
    """(columns sent, columns returned) of every masked product of a step, from block ``first``."""
    pairs = []
    for group in (group for block in shape.part(first) for group in block.groups):
        pairs.append((group.inner, group.outer))
        if backward and group.backward:
            pairs.append((group.outer, group.inner))
    return pairs


@dataclass(frozen=True)
class MaskedStep:
    """What one step takes in each place.

    Attributes:
        enclave: everything that is not frozen and linear; coding, key stream and checks.
        pads: made in the enclave ahead of the step: key stream, and a ring product for each.
        accelerator: ring products, ``8 T K N``; and plain blocks.
        moved: bytes between the two: 4 for each code, both ways; with plain leading blocks also 8 a
            token id and ``4 D`` a token back.
    """

    enclave: Work
    pads: Work
    accelerator: Work
    moved: float


def masked_step(
    shape: Shape, batch: Batch, first: int, *, backward: bool, kept: bool = False
) -> MaskedStep:
    """A step of Method 1 whose masked products begin at block ``first``.

    Args:
        kept: what enters that block is kept, and blocks before it do not run.
    """
    pairs, tokens = products(shape, first, backward=backward), batch.tokens
    whole = step_work(shape, batch, first) if backward else forward_work(shape, batch, first)
    runs = first > 0 and not kept
    plain = forward_work(shape, batch, 0, first, head=False) if runs else Work()
    codes = sum(4.0 * tokens * (k + n) for k, n in pairs)
    stream = sum(4.0 * tokens * k * AES_TRAFFIC for k, _ in pairs)
    ring = sum(8.0 * tokens * k * n for k, n in pairs)
    return MaskedStep(
        enclave=Work(
            flops=whole.flops - tokens * 2.0 * sum(k * n for k, n in pairs),
            traffic=whole.traffic + TRAFFIC_CODES * codes + stream,
        ),
        pads=Work(ring=ring, traffic=stream),
        accelerator=plain + Work(ring=ring),
        moved=codes + (tokens * (8 + 4 * shape.width) if runs else 0.0),
    )


# --- memory, in bytes -----------------------------------------------------------------------------


def activation_memory(
    shape: Shape, batch: Batch, first: int = 0, *, width: int = 4, checkpointing: bool = False
) -> float:
    """Activations at the peak of a training step.

    Args:
        batch: the largest step.
        width: bytes of a value: 4, or 2 for bf16.
        checkpointing: keep each block's input, and all of one block.
    """
    blocks = shape.part(first)
    saved = sum(block.saved for block in blocks)
    if checkpointing:
        saved = 4.0 * shape.width * len(blocks) + max(block.saved for block in blocks)
    kept = batch.tokens * (saved + shape.outside.saved)
    kept += batch.rows * sum(block.virtual for block in blocks)
    heap = 1.0 if checkpointing else HEAP  # then it gives back what was freed
    return heap * kept * width / 4 + logit_memory(shape, batch)


def logit_memory(shape: Shape, batch: Batch) -> float:
    """Logits of a causal-lm step at its peak: of a few rows at a time, and converted weights."""
    return 2.0 * min(4.0 * shape.vocabulary * batch.tokens, LOGITS) if shape.head_per_token else 0.0


def tuning_memory(trainable: int) -> float:
    """20 bytes a trainable parameter: value, gradient, two moments of AdamW, and the copy that a
    round is compared with."""
    return 20.0 * trainable


def loading_memory(parameters: int, file_bytes: int, *, width: int = 4) -> float:
    """Weights while they are read: in memory, and as mapped pages of their file."""
    return float(parameters) * (width + file_bytes)


def plain_memory(shape: Shape, batch: Batch) -> float:
    """Plain PEFT: the whole model in fp32, and one step."""
    running = 4.0 * shape.whole + tuning_memory(shape.trainable())
    running += activation_memory(shape, batch)
    if shape.head_per_token:
        running += LOGIT_BUFFERS * 4.0 * shape.vocabulary * batch.tokens
    return RUNTIME + max(loading_memory(shape.whole, shape.file_bytes), running)


def accelerator_memory(shape: Shape, tokens: float, first: int) -> float:
    """Method 1, outside: int8 weights, the digits and products of one call, plain blocks."""
    int8 = float(shape.linear(first))
    largest = max((5.0 * k + 24.0 * n for k, n in products(shape, first, backward=True)), default=0)
    plain = 4.0 * shape.bottom(first) if first else 0.0
    return RUNTIME_ACCELERATOR + int8 + tokens * largest + plain


def aggregator_memory(trainable: int) -> float:
    """Method 1's server: a running sum of 8 bytes a number, the adapter, an answer as it came and
    open, and what of the next adapter is not yet in the place of the sum."""
    return RUNTIME_AGGREGATOR + trainable * (8.0 + 4 * 4.0)


def bottom_memory(shape: Shape, cut: int, tokens: float, chunk: float) -> float:
    """Method 2's site: embedding and blocks below the cut in fp32, one batch forward, one chunk.

    Args:
        tokens: of the largest batch.
        chunk: bytes of the largest chunk.
    """
    held = shape.bottom(cut)
    widest = max(g.outer for block in shape.blocks for g in block.groups)
    running = 4.0 * held + tokens * 4.0 * (2 * widest + 4 * shape.width) + CHUNK_COPIES * chunk
    return RUNTIME + max(loading_memory(held, shape.file_bytes), running)


def top_memory(
    shape: Shape, cut: int, batch: Batch, *, width: int = 4, checkpointing: bool = False
) -> float:
    """Method 2's server: the top and one step; at the end a second top, to compare the export."""
    top, tuned = shape.top(cut), tuning_memory(shape.trainable(cut))
    step = activation_memory(shape, batch, cut, width=width, checkpointing=checkpointing)
    loading = loading_memory(top, shape.file_bytes, width=width)
    return RUNTIME + tuned + width * top + max(step + EXPORT_SHARE * width * top, loading)


# --- bytes on the network -------------------------------------------------------------------------


def upload_bytes(shape: Shape, form: Form, samples: int, tokens: int, chunk: int) -> float:
    """Method 2, one site, once: activations, 8 bytes a sample for length and label, 4 a token for
    ``causal-lm``, sealed in chunks."""
    activations = tokens * bytes_per_token(form, shape.width)
    body = activations + 8 * samples + (4 * tokens if shape.head_per_token else 0)
    chunks = max(1, -(-activations // chunk))
    return float(sealed_size(body)) + chunks * MESSAGE_BYTES
