"""Whether a Gramine manifest keeps the host out, as far as its text can tell.

Refused is what is not known to be harmless: a key, a variable, a mount or a Jinja expression that
this version does not know is not let through. Gramine's own check looks at the syntax alone.

Trust domain: whoever compares MRENCLAVE, and the operator.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sealtune.errors import ConfigError, Problem
from sealtune.images import init
from sealtune.images.gramine import (
    ARGUMENTS,
    ENVIRONMENT,
    HOST,
    LIBOS,
    ROOT,
    RUNTIME,
    THREADS,
    enclave_files,
    mounts,
)
from sealtune.images.image import Contents
from sealtune.images.programs import PROGRAMS
from sealtune.job.storage import read_bounded

_LARGEST = 16 << 20
_HASH = re.compile(r"[0-9a-f]{64}")
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SIZE = re.compile(r"[1-9][0-9]{0,3}[KMGT]?")
_JINJA = re.compile(r"\{\{.*?\}\}|\{[%#]", re.S)
_OWN_JINJA = ("{{ gramine.libos }}", "{{ gramine.runtimedir() }}")
# Gramine's own files, when gramine-manifest has put their paths in
_GRAMINE = re.compile(r"file:/[\w./-]*/gramine/[\w./-]+")
_LIBOS = re.compile(r"file:/[\w./-]*/gramine/libsysdb\.so")
_REQUIRED = (
    "fs.root.uri",
    "libos.entrypoint",
    "loader.argv",
    "sgx.remote_attestation",
    "sgx.trusted_files",
)
# Beginnings of keys, and why they are refused; the first that fits is told.
_WHY = (
    ("loader.insecure__use_cmdline_argv", "the host would choose what is run"),
    ("loader.insecure__use_host_env", "the host's environment loads code, such as by LD_PRELOAD"),
    ("loader.argv_src_file", "arguments stand in the manifest, where they are measured"),
    ("loader.env_src_file", "the environment stands in the manifest, where it is measured"),
    ("loader.env.LD_", "it decides which code is loaded"),
    ("loader.env.PYTHON", "it steers the interpreter"),
    ("loader.env.", "no program of sealtune asks for it"),
    ("fs.insecure__keys", "whoever has the manifest has the key"),
    ("sgx.insecure__", "insecure, as its name says"),
    ("sgx.protected_files", "the program seals its files itself"),
    ("sgx.profile", "for debug enclaves"),
    ("sgx.vtune", "for debug enclaves"),
    ("sgx.enable_stats", "for debug enclaves"),
    ("sgx.seal_key", "a seal key of fewer attributes opens in other enclaves, too"),
    ("sgx.allowed_ioctls", "devices are the host's"),
    ("sys.allowed_ioctls", "devices are the host's"),
    ("sys.enable_extra_runtime_domain_names_conf", "the host's name service would count"),
)


def check_file(path: Path, contents: Contents | None = None) -> int:
    """Look at a template, or at the manifest that was made of it; see ``check``."""

    def refused(said: str) -> ConfigError:
        return ConfigError(str(path), [Problem("(file)", said)])

    return check(read_bounded(path, _LARGEST, refused), path, contents)


def check(data: bytes, path: Path, contents: Contents | None = None) -> int:
    """Look at the text of a manifest.

    Args:
        data: the text.
        path: of its file, for messages.
        contents: of an image, to compare hashes with.

    Returns:
        the number of trusted files.

    Raises:
        ConfigError: everything that is refused, with reasons.
    """
    try:
        text = data.decode()
        table = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(str(path), [Problem("(file)", f"is no TOML: {error}")]) from error
    problems = [*_jinja(text), *_faults(table, contents)]
    if problems:
        raise ConfigError(str(path), problems, hint="`sealtune image gramine` makes one that holds")
    return len(table["sgx"]["trusted_files"])


def _jinja(text: str) -> Iterator[Problem]:
    """Expressions are evaluated in comments, too, and may write any line."""
    for tag in dict.fromkeys(_JINJA.findall(text)):
        if tag not in _OWN_JINJA:
            yield Problem("(template)", f"{tag[:40]!r} is evaluated by whoever renders it")


def _faults(table: Mapping[str, Any], contents: Contents | None) -> Iterator[Problem]:
    flat = dict(_flattened(table))
    for key in _REQUIRED:
        if key not in flat:
            yield Problem(key, "is missing")
    for key, value in flat.items():
        rule = _RULES.get(key)
        if rule is None:
            why = [said for start, said in _WHY if key.startswith(start)]
            yield Problem(key, why[0] if why else "is not known to be harmless")
        else:
            yield from (Problem(key, said) for said in rule(value))
    if contents is not None and isinstance(flat.get("sgx.trusted_files"), list):
        yield from _differences(flat, contents)


def _flattened(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys; a variable's table stays whole. A name with a dot in it stays quoted."""
    for name, value in table.items():
        key = f"{prefix}{name if _BARE.fullmatch(name) else repr(name)}"
        if isinstance(value, dict) and not prefix.startswith("loader.env."):
            yield from _flattened(value, f"{key}.")
        else:
            yield key, value


# ---- rules: each yields what is wrong with a value ----------------------------------------------

_Rule = Callable[[Any], Iterator[str]]


def _only(*accepted: object) -> _Rule:
    def rule(value: Any) -> Iterator[str]:
        if not any(value == one and type(value) is type(one) for one in accepted):
            yield f"must be {' or '.join(map(repr, accepted))}"

    return rule


def _number(value: Any) -> Iterator[str]:
    if type(value) is not int or not 0 <= value < 2**16:
        yield "is no number below 65536"


def _size(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not _SIZE.fullmatch(value):
        yield 'is no size such as "4G"'


def _hash(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        yield "is no SHA-256"


def _libos(value: Any) -> Iterator[str]:
    if value != LIBOS and not (isinstance(value, str) and _LIBOS.fullmatch(value)):
        yield "is not Gramine's own"


def _variable(name: str) -> _Rule:
    def rule(value: Any) -> Iterator[str]:
        if isinstance(value, dict) and value.keys() == {"value"}:
            value = value["value"]
        if not isinstance(value, str):
            yield "is taken from the host, who may change it at will"
        elif name == THREADS and not value.isdecimal():
            yield "is no number"
        elif name in ENVIRONMENT and value != ENVIRONMENT[name]:
            yield f"must be {ENVIRONMENT[name]!r}"

    return rule


def _arguments(value: Any) -> Iterator[str]:
    wanted = list(ARGUMENTS)
    if not isinstance(value, list) or value[: len(wanted)] != wanted:
        yield f"must begin with {' '.join(wanted)}: isolated, and with the program's own list"
    elif value[len(wanted) : -1] not in ([name] for name in PROGRAMS.values()):
        yield f"names none of {', '.join(PROGRAMS.values())}"
    elif value[-1] != init.LOCAL:
        yield f"must end with {init.LOCAL}, the party's file"


def _mounts(value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield "is no list"
        return
    for one in value:
        yield from _mount(one)


def _mount(one: Any) -> Iterator[str]:
    if not isinstance(one, dict):
        yield f"{one!r} is no mount"
        return
    kind, path, uri = one.get("type", "chroot"), one.get("path"), one.get("uri")
    known = mounts()
    if kind == "tmpfs" and path == "/tmp":
        return
    if kind == "encrypted":
        yield f"{path} is encrypted: the program seals its state itself, with the same key"
    elif kind == "untrusted_shm":
        yield f"{path} is shared with the host: no program of sealtune uses such"
    elif kind != "chroot":
        yield f"{path} is of the unknown type {kind!r}"
    elif not isinstance(path, str) or path not in known:
        yield f"{path} is no place that a program of sealtune looks at"
    elif uri != known[path] and not (known[path] == RUNTIME and _is_gramine(uri)):
        yield f"{path} must be {known[path]}, not {uri}"


def _is_gramine(uri: Any) -> bool:
    return isinstance(uri, str) and ".." not in uri and bool(_GRAMINE.fullmatch(uri))


def _allowed(value: Any) -> Iterator[str]:
    for uri in value if isinstance(value, list) else [value]:
        if uri not in [f"{folder}/" for folder in HOST.values()]:
            yield f"{uri!r} could be changed by the host: code and settings are trusted files"


def _trusted(value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield "is no list"
        return
    seen = set()
    for one in value:
        uri, digest = (one.get("uri"), one.get("sha256")) if isinstance(one, dict) else (one, None)
        if one in (LIBOS, f"{RUNTIME}/"):
            continue  # gramine-sgx-sign hashes its own files
        if not isinstance(digest, str) or not _HASH.fullmatch(digest):
            yield f"{uri!r} has no hash: whoever signs it would choose the file"
        if uri in seen:
            yield f"{uri!r} stands there twice"
        seen.add(uri)


def _differences(flat: Mapping[str, Any], contents: Contents) -> Iterator[Problem]:
    """Where trusted files are not those of an image."""
    key = "sgx.trusted_files"
    given = {str(one.get("uri")): one.get("sha256") for one in flat[key] if isinstance(one, dict)}
    wanted = {f"{ROOT}/{file.path}": file.sha256 for file in enclave_files(contents)}
    yield from (Problem(key, f"lacks {uri}") for uri in wanted if uri not in given)
    for uri, digest in given.items():
        if uri in wanted and digest != wanted[uri]:
            yield Problem(key, f"{uri} has another hash than the image's")
        elif uri not in wanted and not _is_gramine(uri):
            yield Problem(key, f"{uri} is no file of the image")
    arguments = flat.get("loader.argv")
    if isinstance(arguments, list) and contents.program not in arguments:
        yield Problem("loader.argv", f"does not start {contents.program}, the image's program")


_BOOLEAN = _only(True, False)
_RULES: Mapping[str, _Rule] = {
    "loader.entrypoint": _libos,
    "loader.entrypoint.uri": _libos,
    "loader.entrypoint.sha256": _hash,
    "libos.entrypoint": _only(init.PYTHON),
    "libos.check_invalid_pointers": _only(True),
    "loader.argv": _arguments,
    "loader.log_level": _only("none", "error"),
    **{f"loader.env.{name}": _variable(name) for name in (*ENVIRONMENT, THREADS)},
    "fs.root.type": _only("chroot"),
    "fs.root.uri": _only(ROOT),
    "fs.mounts": _mounts,
    "sys.enable_sigterm_injection": _BOOLEAN,
    "sys.disallow_subprocesses": _BOOLEAN,
    "sys.stack.size": _size,
    "sys.brk.max_size": _size,
    "sgx.debug": _only(False),
    "sgx.edmm_enable": _BOOLEAN,
    "sgx.preheat_enclave": _BOOLEAN,
    "sgx.remote_attestation": _only("dcap"),
    "sgx.file_check_policy": _only("strict"),
    "sgx.enclave_size": _size,
    "sgx.max_threads": _number,
    "sgx.isvprodid": _number,
    "sgx.isvsvn": _number,
    "sgx.allowed_files": _allowed,
    "sgx.trusted_files": _trusted,
}
