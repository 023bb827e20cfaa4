"""Which attacks there are. To add one, write its file and name it below.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from sealtune.audit.attack import Attack
from sealtune.audit.canaries import CANARIES
from sealtune.audit.cut_inversion import CUT_INVERSION
from sealtune.audit.gradient_inversion import GRADIENT_INVERSION
from sealtune.audit.membership import MEMBERSHIP
from sealtune.audit.offload_view import ADAPTER_EXTRACTION
from sealtune.audit.pads import COLLUSION, PAD_REUSE
from sealtune.audit.poisoning import POISONING
from sealtune.audit.replay import RELAY, REPLAY

ATTACKS: tuple[Attack, ...] = (
    ADAPTER_EXTRACTION,
    CUT_INVERSION,
    GRADIENT_INVERSION,
    PAD_REUSE,
    COLLUSION,
    REPLAY,
    RELAY,
    POISONING,
    MEMBERSHIP,
    CANARIES,
)
