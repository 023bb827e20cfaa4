"""What one party of a job knows alone: its places, sockets, key and device.

The signed manifest is what all share. People write a ``local.toml`` (``job.local_file``); programs
read the same as JSON, with absolute paths, from their operator. So it is not believed: it names
places, and decides nothing that the manifest or evidence has to vouch for.

Trust domain: every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sealtune.errors import ConfigError, Problem
from sealtune.job.sections import Name, faults, rule_error
from sealtune.job.storage import read_bounded
from sealtune.sockets import parse

MAX_BYTES = 1 << 20
Side = Literal["server", "site", "accelerator", "pad-accelerator", "coordinator"]
# which parties have a key that not all have
_ONLY: Mapping[str, tuple[Side, ...]] = {
    "site": ("site",),
    "key": ("site",),
    "node_key": ("site",),
    "data": ("site",),
    "history": ("site",),
    "accelerator": ("site",),
    "pad_accelerator": ("site",),
    "pad_key": ("pad-accelerator",),
    "resume": ("server",),
    "serve": ("server",),
    "image": ("server", "site"),
    "tls_key": ("coordinator", "server"),
    "listen_server": ("coordinator",),
    "device": ("accelerator", "pad-accelerator", "server", "site"),
    "untrusted_shm": ("site", "accelerator"),
    "model": ("server", "site", "accelerator", "pad-accelerator"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelPlace(_Strict):
    """Where the base model lies."""

    path: str = Field(min_length=1, description="folder of the base model, or a hub id")
    revision: str | None = Field(default=None, description="commit of a hub's model")


class DataPlace(_Strict):
    """Where a site's data lies."""

    train: Path = Field(description="the site's training file, or the pooled one")
    test: Path = Field(description="the site's test file, or the pooled one")


def _choice(value: object) -> object:
    """One fault where a union would have one for each of its members."""
    if value is True or value is False or value == "auto":
        return value
    raise PydanticCustomError("choice", 'should be true, false or "auto"')


class Local(_Strict):
    """One party's own file. Sockets are ``unix:/path``, ``tcp:host:port`` or ``vsock:cid:port``; a
    path alone is a Unix socket's. A coordinator listens on TCP.
    """

    manifest: Path = Field(description="the job's manifest, signed by every participant")
    role: Side = Field(
        description="which party this is: server, site, accelerator, pad-accelerator or coordinator"
    )
    site: Name | None = Field(default=None, description="the site's name in the manifest")
    folder: Path = Field(description="folder for results, sealed state and logs")
    listen: str = Field(min_length=1, description="socket to listen on")
    listen_server: str = Field(
        default="", description="where the coordinator waits for the server, tcp:host:port"
    )
    accelerator: str = Field(default="", description="where a site's accelerator listens")
    pad_accelerator: str = Field(
        default="", description="where a site's pad accelerator listens, if the job has them"
    )
    pad_key: Path | None = Field(
        default=None, description="private key that sites' enclaves seal their pads' seeds to"
    )
    key: Path | None = Field(
        default=None,
        description="private key of the site's organisation: a site without a TEE signs with it",
    )
    node_key: Path | None = Field(
        default=None, description="private key that the coordinator knows the site's node by"
    )
    tls_key: Path | None = Field(
        default=None,
        description="private key of the certificate that the manifest names for this party",
    )
    history: Path | None = Field(
        default=None,
        description="folder where the site remembers its jobs; left out: the user's state folder",
    )
    device: Literal["cpu", "cuda"] | None = Field(
        default=None,
        description="where it computes; left out: an accelerator on CUDA, if it can, an enclave "
        "where the job says, a data owner's own machine on the processor",
    )
    untrusted_shm: Path | None = Field(
        default=None,
        description="folder that a site and its accelerator both see, for memory that they share "
        "in the place of messages: /dev/shm, or one that a virtual machine shares with its host",
    )
    collateral: Path | None = Field(
        default=None, description="Intel's collateral for this machine, to go with its evidence"
    )
    evidence_root: Path | None = Field(
        default=None,
        description='folder of a software TEE in the place of "/", for tests: only under a '
        "manifest that names its insecure_test_root",
    )
    resume: Annotated[bool | Literal["auto"], BeforeValidator(_choice)] = Field(
        default=False,
        description='true: go on from the sealed checkpoint; "auto": where there is one',
    )
    serve: Name | None = Field(
        default=None, description="the site to answer with a finished split job's model"
    )
    image: Path | None = Field(
        default=None, description="folder of a built image to boot in place of a process"
    )
    model: ModelPlace | None = Field(default=None, description="place of the base model")
    data: DataPlace | None = Field(default=None, description="place of the site's data")

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        given = {key: getattr(self, key) for key in self.model_fields_set}
        if problems := role_problems(given):
            raise rule_error("Local", problems)
        return self

    @property
    def accelerates(self) -> bool:
        """Whether it multiplies for enclaves, and is believed nothing and known to no network."""
        return self.role in ("accelerator", "pad-accelerator")

    @property
    def name(self) -> str:
        """What its process and its file are called: ``server``, ``site-north``."""
        return f"{self.role}-{self.site}" if self.site else self.role


def role_problems(given: Mapping[str, object]) -> list[Problem]:
    """Keys that the party of ``given`` does not have, odd sockets, and a site's missing name."""
    role = given.get("role")
    problems = [
        Problem(key, f"belongs into a file of role {_either(sides)}, not '{role}'")
        for key, sides in _ONLY.items()
        if given.get(key) and role is not None and role not in sides
    ]
    problems += [
        Problem(key, fault)
        for key in ("listen", "listen_server", "accelerator", "pad_accelerator")
        if isinstance(address := given.get(key), str)
        and (fault := _socket_fault(address, remote=role == "coordinator"))
    ]
    if (first := given.get("accelerator")) and first == given.get("pad_accelerator"):
        words = "is the accelerator's address, too: one machine would hold a mask and what it hides"
        problems.append(Problem("pad_accelerator", words))
    if role == "site" and not given.get("site"):
        problems.append(Problem("site", "is missing: which of the job's sites is this?"))
    return problems


def _either(sides: tuple[Side, ...]) -> str:
    return " or ".join(f"'{side}'" for side in sides)


def _socket_fault(address: str, *, remote: bool) -> str:
    try:
        # a path alone may be relative here, as the user's file has it
        where = parse(address if ":" in address else f"unix:{address}") if address else None
    except ValueError as error:
        return str(error)
    if where and remote and where.scheme != "tcp":
        return "is not tcp:host:port"
    if where and where.scheme == "tcp" and not where.port:
        return f"{address!r} has port 0; ports are from 1 to 65535"
    return ""


def read_local(path: Path) -> Local:
    """The JSON form, as a program gets it.

    Raises:
        ConfigError: missing, too long or malformed; all faults are listed.
    """
    data = read_bounded(
        path, MAX_BYTES, lambda said: ConfigError(str(path), [Problem("file", said)])
    )
    try:
        return Local.model_validate_json(data)
    except ValidationError as error:
        raise ConfigError(str(path), faults(error)) from error
