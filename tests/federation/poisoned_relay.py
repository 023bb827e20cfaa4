"""The relay, with a hostile app and its run already in Flower's state.

python poisoned_relay.py CONFIG.json CANARIES
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.federation import relay

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.federation.hostile import poisoned

CONFIG, CANARIES = Path(sys.argv[1]), Path(sys.argv[2])

relay.link_state = lambda: poisoned(CANARIES)
sys.exit(relay.main(CONFIG))
