"""The pad accelerator: makes products of pads for enclaves, ahead of their use.

It knows the pads, and nothing of what they mask; whoever multiplies the masked numbers must be
somebody else (``docs/threat-model.md``). It may import ``sealtune.accelerator.engine``, of
``sealtune.offload`` ring, kernels, wire and pads, and ``sealtune.channel.hpke``.
"""
