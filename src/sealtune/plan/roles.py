"""What each program is in a job, and what of it it holds.

Trust domain: none of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from sealtune.party.admit import AGGREGATOR, SUMMING_SERVER, Role
from sealtune.plan.holdings import hold_data, hold_model, hold_task

COORDINATOR = Role("coordinator", "", ("listen_server", "tls_key"))
SITE_ENCLAVE = Role("site", "site-enclave", ("model", "data"), hold_data, contributes=True)
ACCELERATOR = Role("accelerator", "", ("model",), hold_model)
PAD_ACCELERATOR = Role("pad-accelerator", "", ("model", "pad_key"), hold_model)
SPLIT_SERVER = Role("server", "split-server", ("model",), hold_model)
OWNER_SITE = Role("site", "owner-site", ("model", "data", "key"), hold_data, contributes=True)
OWNER_TRAINER = Role("site", "owner-trainer", ("model", "data", "key"), hold_data, contributes=True)
OWNER_ASKING = Role("site", "owner-site", ("model", "key"), hold_task)  # of a finished run

# method -> what its parties run
ROLES: Mapping[str, Mapping[str, Role]] = {
    "federated-lora": {
        "accelerator": ACCELERATOR,
        "coordinator": COORDINATOR,
        "pad-accelerator": PAD_ACCELERATOR,
        "server": AGGREGATOR,
        "site": SITE_ENCLAVE,
    },
    "federated-lora-secagg": {
        "coordinator": COORDINATOR,
        "server": SUMMING_SERVER,
        "site": OWNER_TRAINER,
    },
    "split": {"coordinator": COORDINATOR, "server": SPLIT_SERVER, "site": OWNER_SITE},
}
