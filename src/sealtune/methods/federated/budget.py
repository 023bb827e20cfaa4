"""What the rounds of a job have cost of its budget of privacy; no epsilon is worked out here.

No ledger is needed beside the sealed checkpoint. A round's noise leaves the enclaves with the
adapter that is in the checkpoint by then, so as many rounds have been paid for as it says. A round
that did not come so far has left nothing behind, and is asked for again at no cost.

Trust domain: server enclave.
"""

from __future__ import annotations

from sealtune.job.events import PrivacySpent
from sealtune.job.manifest import Manifest


def spent(manifest: Manifest, rounds: int, *, ended: bool = False) -> PrivacySpent | None:
    """What to tell after so many rounds; None where there is no differential privacy.

    Args:
        ended: whether training ends for want of budget.
    """
    dp, privacy = manifest.dp, manifest.settings.privacy
    if dp is None:
        return None
    return PrivacySpent(
        round=rounds,
        epsilon=dp.spent(rounds),
        delta=privacy.delta,
        budget=privacy.epsilon,
        ended=ended,
    )
