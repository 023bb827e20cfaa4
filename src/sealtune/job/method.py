"""What a job's method fixes: which programs run, who proves what, and what may be released.

    method_of(manifest.method).releases      # of a job file's sections: job.rules.releases

Nothing else asks which method a job is of; each room keeps what is its own under the same names
(``plan.planner``, ``report.methods``).

Trust domain: every process; public facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sealtune.errors import Problem

Attested = Literal["server", "site"]  # roles that may show evidence
Compute = Literal["masked", "enclave", "attested-gpu"]


@dataclass(frozen=True)
class Method:
    """A way to tune a model together.

    Attributes:
        name: as in the manifest: ``job.method``, and what ``job.trust`` adds to it.
        programs: ``server`` and ``site`` -> the program that runs there (``sealtune.programs``).
        attested: which of them run in a TEE and show evidence; a site that does not signs with its
            organisation's key.
        computes: where an enclave's frozen layers may be computed, ``protection.compute``; first
            where they are if the job does not say. None: the model is at data owners alone.
        server_trains: whether the server trains, on the samples of all sites; otherwise each site
            does, and the server aggregates.
        sums_only: whether the server learns sums of updates and no single one.
        releases: rules of release that its programs keep to.
        least_organisations: whose contributions an aggregate comes from at least, where there are
            so many; with ``sums_only``, there have to be.
        required, refused: sections of the job file -> what to say of a job without, or with it.
        unused: sections and keys of the job file that it does not read -> why.
    """

    name: str
    programs: Mapping[str, str]
    attested: tuple[Attested, ...]
    computes: tuple[Compute, ...]
    server_trains: bool
    sums_only: bool
    releases: tuple[str, ...]
    least_organisations: int
    required: Mapping[str, Problem]
    refused: Mapping[str, Problem]
    unused: Mapping[str, str]

    def least_cohort(self, organisations: int) -> int:
        """Organisations that an aggregate comes from at least, of so many."""
        if self.sums_only:
            return self.least_organisations
        return min(self.least_organisations, organisations)

    def least_sites(self, sites: int) -> int:
        """Sites that an aggregate comes from at least, of so many."""
        return max(self.least_organisations, more_than_two_thirds(sites)) if self.sums_only else 1

    @property
    def trains(self) -> Attested:
        """The role that holds what is tuned, and computes with it."""
        return "server" if self.server_trains else "site"

    @property
    def sites_sign(self) -> bool:
        """Whether a site proves who it is with its organisation's key."""
        return "site" not in self.attested


def more_than_two_thirds(count: int) -> int:
    """The least number above two thirds of so many: two such sets have a third in common."""
    return 2 * count // 3 + 1


_ONLY_SPLIT = {
    "split": Problem(
        "job.method", 'is "federated-lora", but there is a section [split]; set "split"'
    ),
    "tuning.spf": Problem(
        "tuning.spf",
        'needs job.method = "split": it runs in a large server enclave (a preset may ask for it)',
    ),
}
_OF_SPLIT = ("split", "tuning.spf", "tuning.preset")
_NEEDS_SPLIT = "there is no large server enclave"
NO_ACCELERATOR = "no accelerator takes part"
# keys of [protection] that are of its accelerator
ACCELERATED = ("protect", "integrity_bits", "pads", "pad_budget")
_NOISELESS = "the server trains without noise"
_FOR_ADVICE = {"equipment": "`sealtune advise` alone reads it"}

METHODS = {
    one.name: one
    for one in (
        Method(
            name="federated-lora",
            programs={"server": "aggregator", "site": "site-enclave"},
            attested=("server", "site"),
            computes=("masked", "enclave", "attested-gpu"),
            server_trains=False,
            sums_only=False,
            releases=("participants",),  # a site's enclave holds the adapter all along
            least_organisations=2,  # an average of one's updates would hand them to the others
            required={},
            refused=_ONLY_SPLIT,
            unused=dict.fromkeys(_OF_SPLIT, _NEEDS_SPLIT) | _FOR_ADVICE,
        ),
        Method(
            name="federated-lora-secagg",
            programs={"server": "secagg-server", "site": "owner-trainer"},
            attested=(),
            computes=(),
            server_trains=False,
            sums_only=True,
            releases=("participants",),  # every site has the adapter all along
            least_organisations=3,  # of a sum of two, each knows the other's part
            required={},
            refused=_ONLY_SPLIT,
            unused={
                **dict.fromkeys(_OF_SPLIT, _NEEDS_SPLIT),
                "tuning.lora.ranks": "factors of different ranks have no sum",
                "protection": "there is neither enclave nor accelerator",
                **_FOR_ADVICE,
            },
        ),
        Method(
            name="split",
            programs={"server": "split-server", "site": "owner-site"},
            attested=("server",),
            computes=("enclave", "attested-gpu"),
            server_trains=True,
            sums_only=False,
            releases=("participants", "never"),
            least_organisations=1,
            required={
                "split": Problem(
                    "split.cut", 'is missing: job.method = "split" needs the section [split]'
                )
            },
            refused={},
            unused={
                **{f"protection.{key}": NO_ACCELERATOR for key in ACCELERATED},
                "job.trust": "the frozen blocks above the cut run in the server's enclave",
                "aggregation": "the server trains, so no updates come together",
                "privacy.unit": _NOISELESS,
                "privacy.epsilon": _NOISELESS,
                "privacy.delta": _NOISELESS,
                "privacy.clip": _NOISELESS,
                "privacy.noise_multiplier": _NOISELESS,
                "tuning.lora.ranks": "the server trains, at one rank",
                **_FOR_ADVICE,
            },
        ),
    )
}


def method_of(name: str) -> Method:
    """The method of that name; a manifest's is one of them."""
    return METHODS[name]


def method_name(method: str, trust: str) -> str:
    """What the method is called that ``job.method`` and ``job.trust`` name together."""
    return f"{method}-secagg" if trust == "secure-aggregation" else method
