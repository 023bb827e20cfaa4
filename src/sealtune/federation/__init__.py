"""Glue between sealtune's enclaves and the network engine Flower: it moves opaque sealed bytes.

Nothing in this package holds a key, opens a message or decides anything about training. Keep it
light: a ClientApp process is started for every message, so these modules import flwr and
``sealtune.frames`` and nothing else.

Trust domain: network engine (untrusted).
"""
