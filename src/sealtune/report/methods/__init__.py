"""What the report knows of each method: which parties, which sections, which costs.

    method_of(log.method).picture(facts)

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.report.methods.federated import Federated
from sealtune.report.methods.method import Method
from sealtune.report.methods.split import Split

__all__ = ["Method", "method_of"]


def method_of(name: str | None) -> Method:
    """The method of that name; a log that does not say is read as a federated job's."""
    return Split() if name == "split" else Federated()
