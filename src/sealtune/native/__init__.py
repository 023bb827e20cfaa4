"""Passes over memory in C, for the enclave's and the accelerator's arithmetic.

    cpu.c         which instructions this processor has, and which may be used
    keystream.c   AES-256-CTR
    passes.c      both enclave sides of a masked product (sealtune.offload.passes)
    ring.c        integer products mod 2^32 (sealtune.offload.ring)

Each function has a reference in Python that gives the same bits, and works where no library is.

Trust domain: none of its own; both sides of the boundary use it.
"""
