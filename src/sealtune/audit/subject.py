"""A finished run, as an attack finds it: its manifest, model, rows and adapter.

    subject = Subject(Path("runs/icd10"))
    small = subject.miniature(blocks=4, train=64)     # on which an attack is over in a minute

What lies here is held against the signed manifest before anything is attacked.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sealtune.audit.miniature import Miniature, at_most, cut_model
from sealtune.data.digest import identify
from sealtune.data.site import Example, SiteData, load_sites
from sealtune.errors import DigestMismatchError, StorageError
from sealtune.job.dsse import Envelope
from sealtune.job.local import Local, read_local
from sealtune.job.manifest import job_id, open_manifest
from sealtune.job.spec import Job, placed
from sealtune.launch.folder import MANIFEST
from sealtune.launch.parties import party_file
from sealtune.model.load import load_config
from sealtune.party.admit import check_code
from sealtune.party.found import Found, check_found
from sealtune.plan.holdings import identify_model
from sealtune.tuning.adapter import FINGERPRINT

QUICK = 4  # by which ``quick`` divides


class Subject:
    """The run in a folder of ``sealtune run``, or of a party that holds a site's rows.

    Args:
        folder: of the run.
        quick: attacks take fewer trials, see ``scaled``.

    Attributes:
        folder: of the run.
        quick: see above.
        manifest: as signed.
        job_id: SHA-384 of it, 96 hex digits.
        job: the signed settings, with the places of model and rows on this machine.
        labels: class names in the order of their numbers; empty for ``causal-lm``.

    Raises:
        StorageError: it is no run's folder, or no site's rows are here.
        DigestMismatchError: the model is not what was signed.
        ManifestError, ConfigError, ModelError: files of the run that cannot be used.
    """

    def __init__(self, folder: Path, *, quick: bool = False) -> None:
        signed = folder / MANIFEST
        if not signed.is_file():
            raise StorageError(
                f"{folder} holds no {MANIFEST}, so it is not a run's folder",
                hint="give what `sealtune run` wrote, such as runs/my-job",
            )
        envelope = Envelope.read(signed)
        self.folder, self.quick = folder, quick
        self.manifest = open_manifest(envelope)
        self.job_id = job_id(envelope.payload)
        self.labels = self.manifest.labels
        self.job = self._place()
        check_found(self.manifest, Found(model=identify_model(self.job.model)))

    @property
    def seed(self) -> int:
        """The job's: all randomness of an attack follows from it."""
        return self.job.job.seed

    @cached_property
    def same_code(self) -> bool:
        """Whether the programs that are attacked are those that were signed."""
        try:
            check_code(self.manifest)
        except DigestMismatchError:
            return False
        return True

    @cached_property
    def adapter(self) -> Path | None:
        """Folder of the released adapter, or of the first site's own; None: none was let out."""
        places = ("adapter", *(f"sites/{name}/adapter" for name in self.job.sites.names))
        found = (self.folder / place for place in places)
        return next((path for path in found if (path / FINGERPRINT).is_file()), None)

    @cached_property
    def sites(self) -> dict[str, SiteData]:
        """Each site's examples, of those sites whose rows are here.

        Raises:
            DigestMismatchError: they are not those that were signed.
            DataError: they cannot be read.
        """
        found = load_sites(self.job, self.labels, only=self._here)
        data = {name: identify(rows, self.labels) for name, rows in found.items()}
        check_found(self.manifest, Found(data=data))
        return found

    @cached_property
    def blocks(self) -> int:
        """Of the model."""
        return int(load_config(self.job.model).num_hidden_layers)

    def scaled(self, count: int, least: int = 1) -> int:
        """So many trials, or a quarter of them for a quick audit."""
        return max(least, count // QUICK) if self.quick else count

    def miniature(
        self, *, blocks: int = 4, train: int = 64, test: int = 32, tokens: int = 32
    ) -> Miniature:
        """The run's own settings on its model's first blocks and a part of its rows.

        Args:
            blocks: of the model, at most.
            train: training rows of each site, at most; drawn with the job's seed.
            test: test rows of each site, at most.
            tokens: of a text, at most.
        """
        model = cut_model(self.job.model, min(blocks, self.blocks))
        sites = {
            name: SiteData(self._some(data.train, train), self._some(data.test, test))
            for name, data in self.sites.items()
        }
        job = at_most(self.job, model, min(blocks, self.blocks), self.blocks, tokens)
        return Miniature(job, self.labels, sites)

    def _some(self, rows: list[Example], count: int) -> list[Example]:
        drawn = np.random.default_rng(self.seed).permutation(len(rows))[:count]
        return [rows[i] for i in sorted(drawn)]

    @cached_property
    def _locals(self) -> dict[str, Local]:
        """What each site's program read, of the sites that ran here."""
        every = {
            n: party_file(self.folder, f"site-{n}") for n in self.manifest.settings.sites.names
        }
        return {name: read_local(path) for name, path in every.items() if path.is_file()}

    @property
    def _here(self) -> tuple[str, ...]:
        return tuple(self._locals)

    def _place(self) -> Job:
        own = {n: one for n, one in self._locals.items() if one.data is not None}
        if not own:
            raise StorageError(
                f"{self.folder} names no site's rows: attacks need those of a site at least",
                hint="audit where the run was started, or at a site",
            )
        first = next(iter(own.values()))
        assert first.model is not None, "a site's own file has it"
        where: dict[str, Any] = {"model": first.model.path, "revision": first.model.revision}
        for part in ("train", "test"):
            files = {name: getattr(one.data, part) for name, one in own.items()}
            one_file = self.manifest.settings.sites.partition != "file"
            where[part] = files[first.site or ""] if one_file else files
        return placed(self.manifest.settings, **where)
