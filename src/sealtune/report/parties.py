"""Who sees what, as data: what all methods share. ``methods`` hold each method's parties.

This is DESIGN section 1 in words short enough for a picture; the page's template draws it.

Trust domain: server operator.
"""

from __future__ import annotations

from typing import NamedTuple

ADAPTER_DATA, ADAPTER, UNMASKED = "adapter+data", "adapter", "insecure-none"


class Facts(NamedTuple):
    """What the picture needs to know about a run; ``None`` where it is not known."""

    protect: str = ADAPTER_DATA
    sites: tuple[str, ...] = ()  # names; empty for a general picture
    simulated: bool | None = None  # enclaves were ordinary processes; None for a general picture
    prefix_blocks: int | None = None  # leading blocks that run in the plain (level ``adapter``)
    cut: int | None = None  # blocks that run at the sites (split job)
    blocks: int | None = None  # all of them
    release: str | None = None  # who gets the adapter (split job)
    task: str | None = None
    pads: bool = False  # pad accelerators multiply the masks
    compute: str | None = None  # where frozen layers are computed


class Party(NamedTuple):
    """One trust domain."""

    kind: str  # enclave, simulated (one that is none), owner, outside, exposed: colour and border
    title: str
    trust: str  # on what its trust rests
    sees: str
    never: str  # what must not reach it


class Link(NamedTuple):
    """What passes between two parties."""

    forth: str  # from data owner to server, or from enclave to accelerator
    back: str


class Picture(NamedTuple):
    """Where the parties stand: data owner, carrier, server; perhaps a device at the owner's side.

    ``site`` and ``server`` are the outer and the inner box of a side; the inner one may be missing.
    """

    site: tuple[Party, Party | None]
    server: tuple[Party, Party | None]
    path: Link  # what the carrier's frames hold
    device: tuple[Link, Party] | None
    handshake: str  # what passes from enclave to enclave over the carrier's head
    hidden: str  # what is hidden from nobody
    network: Party = Party(
        "outside",
        "Flower network",
        "untrusted carrier",
        "sealed frames, their sizes, node ids",
        "any plaintext",
    )


def owner(facts: Facts, place: str, sees: str, never: str, proof: str = "") -> Party:
    """The data owners of these sites; ``place`` is what each of them has."""
    count, names = len(facts.sites), ", ".join(facts.sites[:4])
    title = (
        f"Each data owner’s {place}", f"Data owner’s {place}", f"Data owners’ {place}s × {count}",
    )[min(count, 2)]  # fmt: skip
    if count > 4:
        names += f" and {count - 4} more"
    return Party("owner", title, (names or "hospital, bank, agency, …") + proof, sees, never)


def enclave(
    facts: Facts, title: str, by: str, sees: str, never: str, *, gpu: bool = False
) -> Party:
    """An enclave that ``by`` attests, with a GPU or without; a simulated one is drawn as it is."""
    if facts.simulated:
        trust = f"SIMULATED: an ordinary process{', whose GPU proves nothing' if gpu else ''}"
        return Party("simulated", title, trust, sees, never)
    trust = f"trusted once attested by {by}{', with the GPU that it computes on' if gpu else ''}"
    return Party("enclave", title, trust, sees, never)


def operator(sees: str, never: str) -> Party:
    """Whoever runs the server's machine."""
    return Party("outside", "Server operator", "untrusted: owns the machine", sees, never)
