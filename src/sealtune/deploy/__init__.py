"""How a party's programs become services of a host: systemd units, containers.

Trust domain: operator (untrusted).
"""

from sealtune.deploy.containers import compose_file
from sealtune.deploy.proxy import nginx
from sealtune.deploy.services import Service, services_of
from sealtune.deploy.systemd import accounts_file, folders_file, unit

__all__ = [
    "Service",
    "accounts_file",
    "compose_file",
    "folders_file",
    "nginx",
    "services_of",
    "unit",
]
