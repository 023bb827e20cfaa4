"""Which attacks there are. To add one, write its file and name it below.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from sealtune.audit.attack import Attack
from sealtune.audit.cut_inversion import CUT_INVERSION
from sealtune.audit.gradient_inversion import GRADIENT_INVERSION

ATTACKS: tuple[Attack, ...] = (CUT_INVERSION, GRADIENT_INVERSION)
