"""Who sees what in a split job, as data; ``split_picture.py`` draws it.

A site has no enclave: what is on its machine is its own. What protects its samples afterwards is
the evidence of the server enclave, and nothing else.

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.report.parties import Facts, Party, enclave_kind, enclave_trust, names, network

NEVER = "never"
CAUSAL_LM = "causal-lm"
NOT_HIDDEN = "message sizes, and so the number of tokens; timing"


def owner(facts: Facts) -> Party:
    """A site: data, and the first blocks of the model."""
    count = len(facts.sites)
    several = f"Data owners’ machines × {count}" if count else "Each data owner’s machine"
    gets = "" if facts.release == NEVER else "; the released adapter"
    return Party(
        "owner",
        "Data owner’s machine" if count == 1 else several,
        f"{names(facts.sites) or 'hospital, bank, agency, …'}: no enclave, proves who it is by its "
        "participant key",
        f"its own text and labels; {_first(facts)}, frozen{gets}",
        "other sites’ samples; "
        + ("the adapter" if facts.release == NEVER else "the adapter while the job runs"),
    )


def server_enclave(facts: Facts) -> Party:
    """Where the later blocks are tuned."""
    causal = facts.task == CAUSAL_LM
    sent = "token ids, so the text itself" if causal else "labels"
    return Party(
        enclave_kind(facts),
        "Server enclave",
        enclave_trust(facts, "every site"),
        f"cut activations and {sent}; {_later(facts)}, adapter, gradients, scores",
        "what the sites do not send" if causal else "the text (but activations tell much of it)",
    )


def operator(facts: Facts) -> Party:
    """Who runs the server machine."""
    kept = "text, activations, labels, adapter" if facts.task != CAUSAL_LM else (
        "text, activations, adapter"
    )  # fmt: skip
    return Party(
        "outside",
        "Server operator",
        "untrusted: owns the machine",
        "job manifest; sealed files; metrics it lets out: losses, scores, chosen heads",
        kept,
    )


def parties(facts: Facts) -> list[Party]:
    """All of them, from the data to the adapter."""
    return [owner(facts), network(facts), operator(facts), server_enclave(facts)]


def link_words(facts: Facts) -> tuple[str, str]:
    """What goes up to the server enclave, and what comes down in the end."""
    up = "cut activations, token ids" if facts.task == CAUSAL_LM else "cut activations, labels"
    return up, "no adapter: it stays" if facts.release == NEVER else "the adapter, at the end"


def _first(facts: Facts) -> str:
    if facts.cut is None:
        return "embedding and first blocks"
    return f"embedding and first {_blocks(facts.cut)}"


def _later(facts: Facts) -> str:
    if facts.cut is None or facts.blocks is None:
        return "the later blocks"
    return f"the last {_blocks(facts.blocks - facts.cut)}"


def _blocks(number: int) -> str:
    return f"{number} block{'' if number == 1 else 's'}"
