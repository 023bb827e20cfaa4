"""A job file, ``job.toml``, as its writer states it. Reading files is in ``job.load``.

Trust domain: operator and data owners; no enclave loads it.
"""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import Field

from sealtune.errors import Problem
from sealtune.job.sections import Section, SitesSpec
from sealtune.job.spec import DataSpec, Job

Probed = Annotated[float | None, Field(gt=0, strict=True)]


class EquipmentSpec(Section):
    """``[equipment]``: what there is to compute with. For ``sealtune advise`` only; nothing else
    reads it and no manifest holds it."""

    client_tee: bool = Field(default=True, strict=True)
    """Whether every site has a TEE; without one, Method 1 is out."""
    client_tee_memory_gib: Probed = None
    """Memory of a site's TEE, in GiB."""
    client_tee_tflops: Probed = None
    """10^12 fp32 operations a second that its matrix products really reach."""
    accelerator_tops: Probed = None
    """10^12 int8 operations a second of a site's accelerator, in products."""
    accelerator_gbit: Probed = None
    """Link between TEE and accelerator, in Gbit/s; without it, memory that both share."""
    owner_memory_gib: Probed = None
    """Memory of a data owner's machine, for its client TEE and accelerator or the first blocks."""
    owner_tflops: Probed = None
    """As `client_tee_tflops`, of the data owner's machine."""
    server_tee_memory_gib: Probed = None
    """Memory of the server TEE, in GiB."""
    server_tee_tflops: Probed = None
    """As `client_tee_tflops`, of the server TEE."""
    uplink_mbit: float = Field(default=100.0, gt=0, strict=True)
    """From each site to the server, in Mbit/s."""
    downlink_mbit: float = Field(default=100.0, gt=0, strict=True)
    """From the server to each site, in Mbit/s."""
    one_machine: bool = Field(default=False, strict=True)
    """All sites compute on one machine, in turn, as in a trial run."""
    client_tee_cost: float = Field(default=0.0, ge=0, strict=True)
    """Of one site's TEE in an hour, in any currency."""
    accelerator_cost: float = Field(default=0.0, ge=0, strict=True)
    """Of one site's accelerator in an hour."""
    server_tee_cost: float = Field(default=0.0, ge=0, strict=True)
    """Of the server TEE in an hour."""
    max_hours: float | None = Field(default=None, gt=0, strict=True)
    """Ways that take longer are out."""


class JobFile(Job):
    """A whole ``job.toml``."""

    equipment: EquipmentSpec = EquipmentSpec()

    def _disagreements(self) -> list[Problem]:
        return file_problems(self.data, self.sites) + super()._disagreements()


def file_problems(data: DataSpec | None, sites: SitesSpec | None) -> list[Problem]:
    """Whether every site has its files; a section that is itself faulty is None."""
    if data is None or sites is None:
        return []
    problems = []
    for key, files in (("data.train", data.train), ("data.test", data.test)):
        if isinstance(files, dict):
            if sites.partition != "file":
                message = "is a table of site = file, so sites.partition must be 'file'"
                problems.append(Problem(key, message))
            for name in sites.names:
                if name not in files:
                    problems.append(Problem(f"{key}.{name}", "is missing: every site needs a file"))
            for name in files:
                if name not in sites.names:
                    near = difflib.get_close_matches(name, sites.names, n=1)
                    advice = "add it to sites.names or remove it"
                    advice = f"did you mean '{near[0]}'?" if near else advice
                    message = f"is not one of sites.names; {advice}"
                    problems.append(Problem(f"{key}.{name}", message))
        elif sites.partition == "file":
            message = (
                "is one pooled file: set sites.partition to 'dirichlet' or 'label', or give a "
                "table with one file for each site"
            )
            problems.append(Problem(key, message))
    return problems
