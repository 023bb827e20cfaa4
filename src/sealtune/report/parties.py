"""Who sees what, as data: the parties of a run at its protection level.

This is DESIGN section 1 in words short enough for a picture; ``picture.py`` draws it. The parties
of a split job are in ``split_parties.py``.

Trust domain: server operator.
"""

from __future__ import annotations

from dataclasses import dataclass

ADAPTER_DATA, ADAPTER, UNMASKED = "adapter+data", "adapter", "insecure-none"
SPLIT = "split"
NOT_HIDDEN = "matrix shapes, message sizes, sequence lengths, timing"


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
        task: what the model learns (split job).
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

    @property
    def measured(self) -> bool:
        """Whether links carry figures."""
        return any(v is not None for v in (self.up, self.down, self.out, self.back))


@dataclass(frozen=True)
class Party:
    """One box: ``kind`` is ``enclave``, ``simulated``, ``owner``, ``outside`` or ``exposed``."""

    kind: str
    title: str
    trust: str
    sees: str
    never: str


def owner(facts: Facts) -> Party:
    """The data owner's premises."""
    if len(facts.sites) == 1:
        title = "Data owner’s site"
    else:
        title = (
            f"Data owners’ sites × {len(facts.sites)}" if facts.sites else "Each data owner’s site"
        )
    return Party(
        "owner",
        title,
        names(facts.sites) or "hospital, bank, agency, …",
        "its own text; the released model, if the release rule allows",
        "other sites’ text or updates; the adapter while the job runs",
    )


def client_enclave(facts: Facts) -> Party:
    """The enclave at a site."""
    return Party(
        enclave_kind(facts),
        "Client enclave",
        enclave_trust(facts, "the server"),
        "own text, adapter, activations, gradients",
        "other sites’ updates",
    )


def accelerator(facts: Facts) -> Party:
    """The process that multiplies: what it sees is the protection level."""
    if facts.protect == UNMASKED:
        return Party(
            "exposed",
            "Accelerator",
            "NOT PROTECTED: codes cross without masks (insecure-none)",
            "activations and gradients of every step, from which text, labels and adapter follow",
            "nothing is kept from it; for comparison only",
        )
    if facts.protect == ADAPTER:
        plain = facts.prefix_blocks
        first = (
            "the blocks below the first adapter" if plain is None else f"the first {plain} blocks"
        )
        seen = f"token ids and activations of {first}, in the plain; " if plain != 0 else ""
        return Party(
            "outside",
            "Accelerator of the owner",
            "the owner’s own machine: may see the owner’s data",
            f"public backbone weights; {seen}ring-masked codes above",
            "adapter, its gradients, labels",
        )
    return Party(
        "outside",
        "Accelerator (GPU or CPU)",
        "untrusted: may be rented, may lie; its answers are checked",
        "public backbone weights; ring-masked codes; shapes, timing",
        "text, labels, activations, gradients, adapter",
    )


def network(_facts: Facts) -> Party:
    """The engine that carries frames."""
    return Party(
        "outside",
        "Flower network",
        "untrusted carrier",
        "sealed frames, their sizes, node ids",
        "any plaintext",
    )


def operator(_facts: Facts) -> Party:
    """Who runs the server machine."""
    return Party(
        "outside",
        "Server operator",
        "untrusted: owns the machine",
        "job manifest; metrics it lets out",
        "text, updates, adapter",
    )


def server_enclave(facts: Facts) -> Party:
    """The aggregator."""
    return Party(
        enclave_kind(facts),
        "Server enclave",
        enclave_trust(facts, "every site"),
        "each site’s update, the joint adapter, scores",
        "raw text",
    )


def parties(facts: Facts) -> list[Party]:
    """All of them, from the data to the joint adapter."""
    return [
        owner(facts),
        client_enclave(facts),
        accelerator(facts),
        network(facts),
        operator(facts),
        server_enclave(facts),
    ]


def link_words(facts: Facts) -> tuple[str, str]:
    """What goes from enclave to accelerator, and what comes back."""
    if facts.protect == UNMASKED:
        return "codes, not masked", "products, not masked"
    if facts.protect == ADAPTER and facts.prefix_blocks != 0:
        return "token ids; masked codes", "activations; masked products"
    return "masked codes x + r", "products W(x + r)"


def enclave_kind(facts: Facts) -> str:
    """A simulated enclave is drawn as what it is."""
    return "simulated" if facts.simulated else "enclave"


def enclave_trust(facts: Facts, by: str) -> str:
    """What an enclave's protection rests on."""
    if facts.simulated:
        return "SIMULATED: an ordinary process"
    return f"trusted once attested by {by}"


def names(sites: tuple[str, ...]) -> str:
    """The first few names."""
    shown = ", ".join(sites[:4])
    return shown if len(sites) <= 4 else f"{shown} and {len(sites) - 4} more"
