"""The relay, with a hostile app and its run already in Flower's state.

python poisoned_relay.py CONFIG.json CANARIES
"""

from __future__ import annotations

import sys
from pathlib import Path

from flwr.common.constant import NOOP_FLWR_AID
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType

from sealtune.federation import link_grid, relay

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.federation.hostile import hostile_app

CONFIG, CANARIES = Path(sys.argv[1]), Path(sys.argv[2])


def poisoned() -> InMemoryLinkState:
    state = link_grid.link_state()
    fab = hostile_app(CANARIES)
    state.store_fab(fab)
    for kind in (TaskType.SERVER_APP, TaskType.CLIENT_APP, TaskType.AGENT_APP):
        state.create_run(
            "stranger/hostile",
            "1.0.0",
            fab.hash_str,
            {},
            NOOP_FEDERATION_ID,
            None,
            NOOP_FLWR_AID,
            kind,
        )
    return state


relay.link_state = poisoned
sys.exit(relay.main(CONFIG))
