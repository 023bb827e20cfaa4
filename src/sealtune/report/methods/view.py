"""What a method tells the report, so that nothing else there asks which method it was.

Trust domain: server operator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from sealtune.job.events import Round
from sealtune.job.method import Method
from sealtune.report.log import RunLog, entry
from sealtune.report.parties import Facts, Party, Picture
from sealtune.report.values import Json, text


class View(ABC):
    """One method, seen from the report."""

    method: ClassVar[Method]
    words: ClassVar[str]  # template of what the page says of it: sentences, tiles, own sections
    site_role: ClassVar[str]  # in the trust chain's picture
    server_role: ClassVar[str]
    client: ClassVar[str]  # what a site's process is called
    time_parts: ClassVar[Mapping[str, str]]  # key of ``seconds`` -> what for, as the bars' order

    @abstractmethod
    def picture(self, facts: Facts) -> Picture:
        """Who sees what."""

    @abstractmethod
    def missing_words(self, s: Json) -> list[tuple[str, str]]:
        """Banners on sites that were lost and what stayed: (title, text) of each."""

    @abstractmethod
    def site_bytes(self, log: RunLog, site: str) -> Json:
        """Sealed bytes of one site: ``up`` to the server, ``down`` from it."""

    def parties(self, facts: Facts) -> list[Party]:
        """Everybody in the picture, from the data to the adapter."""
        picture = self.picture(facts)
        device = picture.device and picture.device[1]
        listed = (*picture.site, device, picture.network, *picture.server)
        return [party for party in listed if party is not None]

    def figures(self, log: RunLog) -> Json | None:
        """``summary.json``'s ``split``; ``None`` where there is nothing of the kind."""
        return None

    def compute(self, log: RunLog) -> str | None:
        """Where frozen layers were computed (``protection.compute``)."""
        return text(log.setting("protection", "compute")) or next(iter(self.method.computes), None)

    def level(self, log: RunLog) -> str | None:
        """The protection level under which the run is known."""
        if "masked" in self.method.computes and (where := self.compute(log)) != "masked":
            return where  # no accelerator, from which something would be kept
        return text(log.setting("protection", "protect")) or log.start.protect

    def is_exposed(self, log: RunLog) -> bool:
        """Whether codes crossed without masks."""
        return False

    def round_losses(self, log: RunLog, event: Round) -> dict[str, tuple[bool, float | None]]:
        """Whose mean loss a round states: process -> (stated, loss); of a lost site none."""
        if self.method.server_trains:
            return {"server": ("train_loss" in event.model_fields_set, event.train_loss)}
        return {
            f"client:{site}": ("train_loss" in own.model_fields_set, own.train_loss)
            for site in log.sites
            if (own := entry(event, site)).outcome == "ok"
        }

    def trainers(self, log: RunLog) -> dict[str, str]:
        """Name in the curves -> process, of whoever trains."""
        if self.method.server_trains:
            return {"server enclave, batches of all sites": "server"}
        return {site: f"client:{site}" for site in log.sites}
