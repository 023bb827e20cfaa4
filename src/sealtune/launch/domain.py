"""One process of a party: what it is called, and how it is started.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sealtune.job.local import Local

GLUE = "flower:"  # begins the roles of the network engine's programs


@dataclass(frozen=True)
class Domain:
    """A program to start, in a process and trust domain of its own.

    Attributes:
        role: what events call it: ``server``, ``client:<site>``, ``accelerator``, ``flower:…``.
        command: program and arguments.
        variables: of its environment. The network engine's programs have no others; the rest also
            get the launcher's few (``environment.variables``).
    """

    role: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_glue(self) -> bool:
        """Whether it is of the network engine, which is believed nothing and given nothing."""
        return self.role.startswith(GLUE)


def role_of(local: Local) -> str:
    """What events call a party's own program."""
    return f"client:{local.site}" if local.site else local.role
