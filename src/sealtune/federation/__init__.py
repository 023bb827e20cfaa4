"""Relay, link and nodes between the enclaves, over the network engine Flower: sealed bytes move.

Nothing in this package holds an enclave's key, opens a message or decides anything about training,
and nothing in it fetches, unpacks or imports what came over the network: ``relay``, ``node``
and ``link`` are whole programs, installed where they run. These modules import flwr,
``sealtune.frames`` and ``sealtune.sockets`` and nothing else.

Trust domain: network engine (untrusted).
"""
