"""Hosts on one machine: each a network namespace with its own address, link and files.

    with Hosts(root) as hosts:
        north = hosts.add("north", delay_ms=25, mbit=20)
        process = north.start(["sealtune", "site", "--local", "north.toml"])

They behave as machines of different organisations do on a network: nothing is on loopback between
them, a link has a delay and a rate and can be cut, and a process sees the files of its own host
only. They are no security boundary: all processes are root's, on one kernel. For demonstrations,
tests and benchmarks; needs root and ``ip``.

Trust domain: operator, before a run; no program of a run loads it.
"""

from __future__ import annotations

from sealtune.demo.hosts.network import Host, Hosts, Traffic, missing

__all__ = ["Host", "Hosts", "Traffic", "missing"]
