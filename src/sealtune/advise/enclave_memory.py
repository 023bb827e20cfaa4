"""What the memory of a site's enclave is made of, at the peak of a training step.

    parts = enclave_parts(shape, batch, job)        # what -> bytes
    sum(parts.values())

``benchmarks/offload_memory.py`` measures the same; a test holds one against the other.

Trust domain: operator; public structure and counts only.
"""

from __future__ import annotations

from sealtune.advise.costs import (
    MIB,
    Batch,
    activation_memory,
    logit_memory,
    products,
    tuning_memory,
)
from sealtune.advise.shape import Shape
from sealtune.job.spec import Job
from sealtune.offload import prime_check

# Python, torch, transformers, PEFT and a tokenizer of 49,152 tokens, in a program that finds its
# listed packages alone. Measured with torch 2.13 for CPU, transformers 5.23.
PROGRAM = 400 * MIB
# Values of 4 bytes that one masked product holds for each value that goes in or comes out: codes or
# answer, the mask's product or what is encoded, and the result or its input.
_PRODUCT_ROWS = 3


def enclave_parts(shape: Shape, batch: Batch, job: Job, first: int = 0) -> dict[str, float]:
    """Bytes by what they are for, of a masked job.

    Args:
        shape: the tuned model.
        batch: the largest step.
        job: its settings.
        first: the first block that does not run in the plain on the accelerator.
    """
    inside = sum(shape.sizes[first:]) - shape.linear(first)  # norms and biases
    tied = shape.whole == sum(shape.sizes) + shape.embedding + shape.rest
    head = 0 if tied and not first else shape.head
    widest = max((k + n for k, n in products(shape, first, backward=True)), default=0)
    own_pads = job.protection.pads == "enclave" and job.protection.protect != "insecure-none"
    checks = sum(k + n for k, n in products(shape, first, backward=True))
    vectors = prime_check.count(job.protection.integrity_bits)
    again = job.train.checkpointing
    step = activation_memory(shape, batch, first, checkpointing=again)
    return {
        "program and its libraries": PROGRAM,
        "int8 weights, to make pads": float(shape.linear(first)) if own_pads else 0.0,
        "vectors that check products": 4.0 * vectors * checks,
        "pads made ahead": job.protection.pad_budget * MIB if own_pads else 0.0,
        "embedding": 0.0 if first else float(shape.embedding * shape.file_bytes),
        "norms, biases and head": 4.0 * (inside + shape.rest) + head * shape.file_bytes,
        "adapter and optimizer": tuning_memory(shape.trainable()),
        "activations of a step": step - logit_memory(shape, batch),
        "logits of a few rows": logit_memory(shape, batch),
        "one masked product": 4.0 * _PRODUCT_ROWS * widest * batch.tokens,
    }
