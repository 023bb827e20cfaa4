"""The small file that tells an enclave process who it is; it holds nothing secret.

Trust domain: every enclave; data owner (split). Written by the untrusted launcher: it names places,
and decides nothing that the job id or attestation has to vouch for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sealtune.errors import ConfigError, Problem


class EnclaveConfig(BaseModel):
    """``CONFIG.json``.

    Attributes:
        role: which program this is for.
        site: the client's site; None for the server.
        job: path of ``job.resolved.json``.
        socket: Unix socket to listen on for the glue.
        accelerator: ``unix:/path`` or ``tcp:host:port``.
        run_dir: the run's folder.
        resume: go on from the sealed checkpoint in ``run_dir``.
        key: file of the organisation's private key; for a site of a split job.
        serve: answer this site with the model of a finished split job, and train nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["server", "client"]
    site: str | None = None
    job: Path
    socket: Path
    accelerator: str = ""
    run_dir: Path
    resume: bool = False
    key: Path | None = None
    serve: str | None = None


def read_config(path: Path, role: str) -> EnclaveConfig:
    """Read the file and check that it is for ``role``.

    Raises:
        ConfigError: missing, malformed, or for another program.
    """
    try:
        config = EnclaveConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(str(path), [Problem("file", f"cannot be read: {reason}")]) from error
    except ValidationError as error:
        problems = [
            Problem(".".join(map(str, e["loc"])) or "file", e["msg"])
            for e in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigError(str(path), problems) from error
    if config.role != role or (role == "client") != (config.site is not None):
        raise ConfigError(str(path), [Problem("role", f"this program is the {role}")])
    return config
