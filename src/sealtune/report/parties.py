"""Who sees what, as data: what all methods share. ``methods`` hold each method's parties.

This is DESIGN section 1 in words short enough for a picture; the page's template draws it.

Trust domain: server operator.
"""

from __future__ import annotations

from dataclasses import dataclass

ADAPTER_DATA, ADAPTER, UNMASKED = "adapter+data", "adapter", "insecure-none"


@dataclass(frozen=True)
class Facts:
    """What the picture needs to know about a run; ``None`` where nothing was measured.

    Attributes:
        protect: protection level of the job.
        sites: site names; empty for a general picture.
        simulated: True if the enclaves were ordinary processes; None for a general picture.
        prefix_blocks: leading blocks that run in the plain (level ``adapter``); None: not known.
        up, down: sealed bytes to and from the server, all sites.
        out, back: bytes from the enclaves to the accelerator, and back.
        cut, blocks: blocks that run at the sites, and all blocks (split job).
        release: who gets the adapter (split job).
        task: what the model learns.
    """

    protect: str = ADAPTER_DATA
    sites: tuple[str, ...] = ()
    simulated: bool | None = None
    prefix_blocks: int | None = None
    up: float | None = None
    down: float | None = None
    out: float | None = None
    back: float | None = None
    cut: int | None = None
    blocks: int | None = None
    release: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class Party:
    """One trust domain.

    Attributes:
        kind: ``enclave``, ``simulated`` (an enclave that is none), ``owner``, ``outside`` or
            ``exposed``; picks colour and border.
        title: its name.
        trust: on what its trust rests.
        sees: what it gets to see.
        never: what must not reach it.
    """

    kind: str
    title: str
    trust: str
    sees: str
    never: str


@dataclass(frozen=True)
class Link:
    """What passes between two parties: both ways in words, and in bytes where they were measured.

    Attributes:
        forth: from data owner to server, or from enclave to accelerator.
    """

    forth: str
    back: str
    bytes_forth: float | None = None
    bytes_back: float | None = None


@dataclass(frozen=True)
class Picture:
    """Where the parties stand: data owner, carrier, server; perhaps a device at the owner's side.

    Attributes:
        site, server: outer and inner box of each side; the inner one may be missing.
        path: what the carrier's frames hold.
        device: link and party.
        handshake: what passes from enclave to enclave over the carrier's head.
        hidden: what is hidden from nobody.
    """

    site: tuple[Party, Party | None]
    network: Party
    server: tuple[Party, Party | None]
    path: Link
    device: tuple[Link, Party] | None
    handshake: str
    hidden: str
    simulated: bool


def network() -> Party:
    """The engine that carries frames."""
    return Party(
        "outside",
        "Flower network",
        "untrusted carrier",
        "sealed frames, their sizes, node ids",
        "any plaintext",
    )


def enclave_kind(facts: Facts) -> str:
    """A simulated enclave is drawn as what it is."""
    return "simulated" if facts.simulated else "enclave"


def enclave_trust(facts: Facts, by: str) -> str:
    """What an enclave's protection rests on."""
    if facts.simulated:
        return "SIMULATED: an ordinary process"
    return f"trusted once attested by {by}"


def several(singular: str, plural: str, general: str, sites: tuple[str, ...]) -> str:
    """A title for the owners of these sites."""
    if len(sites) == 1:
        return singular
    return f"{plural} × {len(sites)}" if sites else general


def names(sites: tuple[str, ...]) -> str:
    """The first few names."""
    shown = ", ".join(sites[:4])
    return shown if len(sites) <= 4 else f"{shown} and {len(sites) - 4} more"
