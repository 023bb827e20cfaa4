"""One round of training as the aggregator sees it: updates come in, each is checked and clipped,
and the job's rule makes the next global adapter of them.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.errors import SiteLostError
from sealtune.job.dp_terms import DpTerms
from sealtune.job.robust_rules import fewest_sites
from sealtune.job.schedule import rate_shares
from sealtune.job.settings import Settings
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext, Rule
from sealtune.methods.federated.agreement import Agreement, Standing
from sealtune.methods.federated.norm_bound import NormBound
from sealtune.methods.federated.ranks import Outgoing
from sealtune.methods.federated.rules.registry import RULES
from sealtune.methods.federated.sketch import Sketcher
from sealtune.methods.federated.update import Update, read_update
from sealtune.methods.federated.update_bound import UpdateBound
from sealtune.party.admit import Admitted

_LEAST = 1e-22  # smaller numbers have no square in float32, so their bound is not seen


class TrainingRound:
    """What becomes of a round's answers.

    Args:
        admitted: the job.
        outgoing: the global adapter, as the sites are sent it.
        norm_ratio: what the round before left (``NormBound.next_ratio``).
        standings: what it left of the sites (``Agreement.close``).
        number: of the round, from 1.
    """

    def __init__(
        self,
        admitted: Admitted,
        outgoing: Outgoing,
        norm_ratio: float,
        standings: Mapping[str, Standing],
        number: int,
    ) -> None:
        settings: Settings = admitted.settings
        self._settings = settings
        shapes = admitted.plan.shared
        weights = {site: data.train_rows for site, data in admitted.manifest.data.items()}
        self._outgoing, self.before = outgoing, outgoing.whole.tensors
        largest = {n: max(float(t.max()), -float(t.min())) for n, t in self.before.items()}
        train, rounds = settings.train, admitted.manifest.rounds
        shares = {
            site: rate_shares(train, train.steps(rows), number, rounds)
            for site, rows in weights.items()
        }
        self._limits: Mapping[str, Mapping[str, float]] = {
            site: UpdateBound(train, settings.tuning, of_steps).limits(largest)
            for site, of_steps in shares.items()
        }
        reach = max(_LEAST, *(max(limits.values()) for limits in self._limits.values()))
        context = RoundContext(shapes, self.before, settings, weights, reach, admitted.state_folder)
        self._figures = context.figures
        self._weights = weights
        sent = {site: outgoing.to(site).tensors for site in weights}
        sizes = {site: {name: t.size for name, t in own.items()} for site, own in sent.items()}
        self.norms = NormBound(settings, sizes, shares, norm_ratio)
        self._sites: list[str] = []
        self._agreement = None
        if settings.privacy.unit != "site":  # else what single updates are like must not show
            whole = {site: sum(own.values()) for site, own in sizes.items()}
            self._agreement = Agreement(Sketcher(_sketch_key(admitted), shapes), standings, whole)
        self._discounts = settings.aggregation.outliers == "discount"
        self._rule = _rule(context, admitted.manifest.dp)

    def check(self, site: str, answer: bytes) -> Update:
        """Read a site's adapter; changes nothing.

        Raises:
            AdapterMismatchError, UpdateBoundError: it is not an honest site's.
        """
        sent = self._outgoing.to(site)
        return read_update(sent.reader.read(answer), sent.tensors, self._limits[site])

    def take(self, site: str, update: Update) -> dict[str, Any]:
        """Clip a site's update and add it; returns what the round's event says of it."""
        factor = self.norms.clip(site, update.norm)
        update = replace(update, factor=factor)
        rows = self._weights[site]
        if self._agreement:
            self._agreement.note(site, update)
            rows = self._agreement.rows(site, rows) if self._discounts else rows
        self._rule.add(site, update, rows)
        self._sites.append(site)
        return {"norm_bound": self.norms.of(site), "clipped": factor < 1}

    def figures(self) -> dict[str, Any]:
        """What the round's event says of clipping and rule, after ``result``."""
        if self._settings.privacy.unit == "site":
            return {}  # how many were clipped is no noisy answer
        auto = self._settings.aggregation.norm_bound == "auto"
        ratio = {"norm_ratio": self.norms.ratio} if auto else {}
        return {**ratio, "clipped": len(self.norms.clipped), **self._figures}

    def result(self, refused: int = 0) -> Tensors:
        """The next global adapter.

        Args:
            refused: sites that the rule need not bear: what they sent was no honest answer.

        Raises:
            SiteLostError: too few sites answered for the rule to keep what it promises.
        """
        needed = fewest_sites(self._settings.aggregation, refused)
        if len(self._sites) < needed:
            raise SiteLostError(
                f"{len(self._sites)} sites answered, but {self._settings.aggregation.rule} needs "
                f"{needed}",
                hint="bring the others back and continue with --resume",
            )
        return self._rule.result()

    def compare(self) -> tuple[dict[str, Standing], dict[str, dict[str, Any]]]:
        """Standings for the next round, and what the event says of sites beside the others."""
        if self._agreement is None:
            return {}, {}
        return self._agreement.close()


def _rule(context: RoundContext, dp: DpTerms | None) -> Rule:
    """The job's, or in its place the one that hides each site."""
    privacy = context.settings.privacy
    if dp is None or privacy.unit != "site":
        return RULES[context.settings.aggregation.rule]()(context)
    from sealtune.methods.federated.rules.private_mean import PrivateMean

    return PrivateMean(context, privacy.clip * dp.noise_multiplier)


def _sketch_key(admitted: Admitted) -> bytes:
    """Known to no site; the same after a restart."""
    kdf = HKDF(hashes.SHA256(), 32, salt=bytes.fromhex(admitted.job_id), info=b"update sketches")
    return kdf.derive(admitted.sealing_key)
