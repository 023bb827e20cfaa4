"""The cost model: floating-point operations, bytes and memory of each piece of each method.

Letters: ``T`` tokens of a step (padding included), ``L`` tokens of a row, ``K x N`` the sizes of a
frozen linear layer, ``A`` heads x head dimension, ``p`` trainable parameters, ``D`` the width.

Derived where that is possible. What is measured stands below as a constant, with what it is and on
what it was measured; ``benchmarks/advise.py`` checks all of it on other shapes.

Trust domain: operator; public structure and counts only.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealtune.advise.shape import Group, Shape
from sealtune.channel import sealed_size
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

# Buffers of T x V floats at the peak of a causal-lm step: logits, the picked rows, their
# log-softmax, one gradient.
LOGIT_BUFFERS = 4

# Memory traffic of what is no matrix product (norms, rotations, activation functions, sums), in
# units of what autograd keeps. Measured 6 to 8 forward and 13 to 16 backward.
TRAFFIC_FORWARD = 7.0
TRAFFIC_BACKWARD = 15.0

# Passes over the codes of a masked product, both matrices together, in units of their 4 bytes a
# value: norm, scale, round, add, copy out and in, check, subtract, range, decode, scale. Measured
# 27 and 28 on two shapes.
TRAFFIC_CODES = 28.0

AES_TRAFFIC = 3.5  # making a pad, in units of its bytes: AES-256-CTR runs at 7 GB/s where
#                    an activation function moves 24 GB/s

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


# --- floating-point operations --------------------------------------------------------------------


def groups_of(shape: Shape, block: int, first: int) -> tuple[Group, ...]:
    """A block's groups when the blocks below ``first`` run elsewhere.

    The input of the first tuned block carries no gradient, so its first group needs no ``W^T g``.
    """
    start = max(first, shape.first_tuned)
    if block == start and start > shape.first_tuned:
        flags = [g.backward for g in shape.blocks[shape.first_tuned].groups]
        own = shape.blocks[block].groups
        if len(flags) == len(own):
            return tuple(Group(g.inner, g.outer, flag) for g, flag in zip(own, flags, strict=True))
    return shape.blocks[block].groups


def linear_flops(
    shape: Shape, first: int = 0, last: int | None = None, *, backward: bool = False
) -> float:
    """Frozen linear layers, for one token: ``2 K N`` forward, ``2 K N`` where a gradient flows to
    the input. There is no gradient of a frozen weight."""
    total = 0.0
    for i in range(first, len(shape.blocks) if last is None else last):
        for group in groups_of(shape, i, first):
            if not backward or group.backward:
                total += 2.0 * group.inner * group.outer
    return total


def tuned_flops(
    shape: Shape, first: int = 0, last: int | None = None, *, backward: bool = False
) -> float:
    """Trainable matrices, for one token: ``2 p`` forward; ``4 p`` backward, for the gradients of
    the weight and of the input."""
    return (4.0 if backward else 2.0) * sum(b.tuned for b in shape.blocks[first:last])


def attention_flops(
    shape: Shape, length: float, first: int = 0, last: int | None = None, *, products: int = 2
) -> float:
    """Attention, for one token: each of ``Q K^T`` and ``P V`` is ``2 L A``.

    Args:
        products: 2 forward; 5 backward of fused attention, which makes the scores again; 4 backward
            where they were kept.
    """
    count = len(shape.blocks[first:last])
    return 2.0 * products * length * shape.attention * count


def head_flops(shape: Shape, *, backward: bool = False) -> float:
    """The head, for one token: ``2 D C`` forward, as much for its input, and for its weight.

    ``label-words`` multiplies at the last token alone: nothing to speak of.
    """
    if not shape.head_trained and not shape.head_per_token:
        return 0.0
    times = 0 if not backward else 2 if shape.head_trained else 1
    return 2.0 * shape.head * (times if backward else 1)


def forward_work(
    shape: Shape, batch: Batch, first: int = 0, last: int | None = None, *, head: bool = True
) -> Work:
    """A forward pass of some blocks."""
    each = linear_flops(shape, first, last) + tuned_flops(shape, first, last)
    each += attention_flops(shape, batch.length, first, last) + head * head_flops(shape)
    saved = _saved(shape, first, last) + head * shape.saved_outside
    return Work(flops=batch.tokens * each, traffic=TRAFFIC_FORWARD * batch.tokens * saved)


def step_work(shape: Shape, batch: Batch, first: int = 0, *, checkpointing: bool = False) -> Work:
    """A training step of the blocks from ``first`` on: forward, backward, and forward once more
    where activations are not kept."""
    start = max(first, shape.first_tuned)
    each = linear_flops(shape, first, backward=True) + tuned_flops(shape, first, backward=True)
    each += attention_flops(shape, batch.length, start, products=5)
    each += head_flops(shape, backward=True)
    saved = _saved(shape, first) + shape.saved_outside
    back = Work(flops=batch.tokens * each, traffic=TRAFFIC_BACKWARD * batch.tokens * saved)
    ahead = forward_work(shape, batch, first)
    again = forward_work(shape, batch, start, head=False) if checkpointing else Work()
    return ahead + again + back


def _saved(shape: Shape, first: int = 0, last: int | None = None) -> float:
    """Bytes for a token; what a block would keep if it were tuned counts for its traffic."""
    most = max(b.saved for b in shape.blocks)
    return sum(b.saved or most for b in shape.blocks[first:last])


# --- masked products (Method 1) -------------------------------------------------------------------


def products(shape: Shape, first: int, *, backward: bool) -> list[tuple[int, int]]:
    """(columns sent, columns returned) of every masked product of a step, from block ``first``."""
    found = []
    for i in range(first, len(shape.blocks)):
        for group in groups_of(shape, i, first):
            found.append((group.inner, group.outer))
            if backward and group.backward:
                found.append((group.outer, group.inner))
    return found


def accelerator_bytes(shape: Shape, tokens: float, first: int, *, backward: bool) -> float:
    """Between enclave and accelerator in one step: 4 bytes for each code, both ways; with plain
    leading blocks also 8 bytes a token id and ``4 D`` a token back."""
    total = sum(4.0 * tokens * (k + n) for k, n in products(shape, first, backward=backward))
    return total + (tokens * (8 + 4 * shape.width) if first else 0.0)


def accelerator_work(shape: Shape, batch: Batch, first: int, *, backward: bool) -> Work:
    """What the accelerator does in one step: ring products, ``8 T K N``; and plain blocks."""
    ring = sum(8.0 * batch.tokens * k * n for k, n in products(shape, first, backward=backward))
    plain = forward_work(shape, batch, 0, first, head=False) if first else Work()
    return plain + Work(ring=ring)


def pads_work(shape: Shape, tokens: float, first: int, *, backward: bool) -> Work:
    """Pads of one step, made in the enclave: key stream, and a ring product for each."""
    pairs = products(shape, first, backward=backward)
    return Work(
        ring=sum(8.0 * tokens * k * n for k, n in pairs),
        traffic=sum(4.0 * tokens * k * AES_TRAFFIC for k, _ in pairs),
    )


def enclave_work(
    shape: Shape, batch: Batch, first: int, *, backward: bool, integrity_bits: int
) -> Work:
    """What the client enclave does in one step beside pads: everything that is not frozen and
    linear, coding, key stream, and the checks: ``bits / 2`` combinations of all rows sent and
    returned (8 int8 operations a value and check) and as many rows through the ring product."""
    whole = step_work(shape, batch, first) if backward else forward_work(shape, batch, first)
    frozen = linear_flops(shape, first)
    if backward:
        frozen += linear_flops(shape, first, backward=True)
    pairs = products(shape, first, backward=backward)
    checks = (integrity_bits + 1) // 2
    codes = sum(4.0 * batch.tokens * (k + n) for k, n in pairs)
    stream = sum(4.0 * batch.tokens * k * AES_TRAFFIC for k, _ in pairs)
    check = sum(8.0 * checks * (batch.tokens * (k + n) + k * n) for k, n in pairs)
    return Work(
        flops=whole.flops - batch.tokens * frozen,
        traffic=whole.traffic + TRAFFIC_CODES * codes + stream,
        ring=check,
    )


# --- memory, in bytes -----------------------------------------------------------------------------


def activation_memory(
    shape: Shape, tokens: float, first: int = 0, *, width: int = 4, checkpointing: bool = False
) -> float:
    """Activations at the peak of a training step.

    Args:
        tokens: of the largest step.
        width: bytes of a value: 4, or 2 for bf16.
        checkpointing: keep each block's input, and all of one block.
    """
    kept = sum(b.saved for b in shape.blocks[first:])
    if checkpointing:
        inputs = 4.0 * shape.width * len(shape.blocks[first:])
        kept = inputs + max(b.saved for b in shape.blocks)
    logits = LOGIT_BUFFERS * 4.0 * shape.vocabulary if shape.head_per_token else 0.0
    return tokens * (HEAP * (kept + shape.saved_outside) * width / 4 + logits)


def tuning_memory(trainable: int) -> float:
    """20 bytes a trainable parameter: value, gradient, two moments of AdamW, and the copy that a
    round is compared with."""
    return 20.0 * trainable


def loading_memory(parameters: int, file_bytes: int, *, width: int = 4) -> float:
    """Weights while they are read: in memory, and as mapped pages of their file."""
    return float(parameters) * (width + file_bytes)


def plain_memory(shape: Shape, tokens: float) -> float:
    """Plain PEFT: the whole model in fp32, and one step."""
    running = 4.0 * shape.whole + tuning_memory(shape.trainable())
    running += activation_memory(shape, tokens)
    return RUNTIME + max(loading_memory(shape.whole, shape.file_bytes), running)


def client_enclave_memory(shape: Shape, tokens: float, first: int) -> float:
    """Method 1: int8 weights for pads and checks, all pads of one step, its activations, and the
    model in fp32: its frozen linear layers are let go of once masked ones stand in their place, but
    the C library keeps those pages. While it starts, the model and its mapped file; at the end as
    much once more, to compare the written adapter."""
    int8 = float(sum(block.linear for block in shape.blocks[first:]))
    inside = 4.0 * (shape.whole - sum(b.linear for b in shape.blocks))
    pads = sum(4.0 * tokens * n for _, n in products(shape, first, backward=True))
    running = 4.0 * shape.whole + pads + tuning_memory(shape.trainable())
    running += activation_memory(shape, tokens, first)
    loading = loading_memory(shape.whole, shape.file_bytes)
    return RUNTIME + int8 + max(running, inside + loading)


def accelerator_memory(shape: Shape, tokens: float, first: int) -> float:
    """Method 1, outside: int8 weights, the digits and products of one call, plain blocks."""
    int8 = float(sum(block.linear for block in shape.blocks[first:]))
    largest = max((5.0 * k + 24.0 * n for k, n in products(shape, first, backward=True)), default=0)
    plain = 4.0 * shape.bottom(first) if first else 0.0
    return RUNTIME_ACCELERATOR + int8 + tokens * largest + plain


def aggregator_memory(trainable: int) -> float:
    """Method 1's server: a running sum in twice double precision, and one update as it came, open,
    parsed and in float64."""
    return RUNTIME_AGGREGATOR + trainable * (16.0 + 4 * 4.0)


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
    shape: Shape, cut: int, tokens: float, *, width: int = 4, checkpointing: bool = False
) -> float:
    """Method 2's server: the top and one step; at the end a second top, to compare the export."""
    top, tuned = shape.top(cut), tuning_memory(shape.trainable(cut))
    step = activation_memory(shape, tokens, cut, width=width, checkpointing=checkpointing)
    loading = loading_memory(top, shape.file_bytes, width=width)
    return RUNTIME + tuned + width * top + max(step + EXPORT_SHARE * width * top, loading)


# --- bytes on the network -------------------------------------------------------------------------


def upload_bytes(
    form: Form, width: int, samples: int, tokens: int, chunk: int, *, with_ids: bool
) -> float:
    """Method 2, one site, once: activations, 8 bytes a sample for length and label, 4 a token for
    ``causal-lm``, sealed in chunks."""
    activations = tokens * bytes_per_token(form, width)
    body = activations + 8 * samples + (4 * tokens if with_ids else 0)
    chunks = max(1, -(-activations // chunk))
    return float(sealed_size(body)) + chunks * MESSAGE_BYTES
