"""What every ``Grid`` of sealtune's has in common: one run, and no waiting inside Flower.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


class OneRunGrid(Grid):  # type: ignore[misc]  # flwr is not type-checked here
    """A ``Grid`` for the one run of this process; messages come to be from its identity.

    Args:
        run, node, task: ids of the run, of the server's side, and of the run's task.
    """

    def __init__(self, run: int, node: int, task: int) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, task

    def set_run(self, run: Run) -> None:
        """There is one run only."""

    @property
    def run(self) -> Run:
        """The run, where something is known about it."""
        raise NotImplementedError("this grid has no run information")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See ``Grid``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Not offered: sealtune polls for itself."""
        raise NotImplementedError("push and pull instead")
