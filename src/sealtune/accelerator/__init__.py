"""The untrusted accelerator: multiplies with the public backbone and sees nothing else.

It may import ``sealtune.offload`` (ring and wire), ``sealtune.frames`` and ``sealtune.errors``.
"""
