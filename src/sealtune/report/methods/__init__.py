"""What the report knows of each method: which parties, which sections, which costs.

    view_of(log.method).picture(facts)

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.report.methods.federated import Federated
from sealtune.report.methods.secagg import SecureAggregation
from sealtune.report.methods.split import Split
from sealtune.report.methods.view import View

__all__ = ["View", "view_of"]

_VIEWS = {view.method.name: view for view in (Federated(), SecureAggregation(), Split())}


def view_of(name: str | None) -> View:
    """The view of that method; a log that does not say is read as a federated job's."""
    return _VIEWS.get(name or "", _VIEWS["federated-lora"])
