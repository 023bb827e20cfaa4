"""Relay and nodes between the enclaves, over the network engine Flower: they move sealed bytes.

Nothing in this package holds an enclave's key, opens a message or decides anything about training,
and nothing in it fetches, unpacks or imports what came over the network: ``relay`` and ``node`` are
whole programs, installed where they run. These modules import flwr and ``sealtune.frames`` and
nothing else.

Trust domain: network engine (untrusted).
"""
