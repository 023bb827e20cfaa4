"""A manifest template for SGX: the files of an image, by hash, as a Gramine enclave.

Every file that the image of a program holds (Python, libraries, packages, the program) is a trusted
file with its hash, so MRENCLAVE covers what the image's digest covers. The host gives four folders,
as to the image: ``in`` and ``model`` to read, ``folder`` and ``history`` for sealed state, results
and a site's log of jobs. The program verifies what it reads there and seals what it keeps with the
key of its MRENCLAVE itself; a mount that Gramine encrypts with that key would use it twice. Other
than an image it does not copy them into memory first: the host can change a file between two reads.

A Unix socket under Gramine is encrypted and reaches no process of the host, so a party's file names
sockets as ``tcp:HOST:PORT``. Source: Gramine documentation, "Manifest syntax". Not tried: no SGX
was at hand.

Trust domain: operator (untrusted). What was made is believed by its MRENCLAVE.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sealtune.images import init
from sealtune.images.image import Content, Contents

LIBOS, RUNTIME = "file:{{ gramine.libos }}", "file:{{ gramine.runtimedir() }}"
ROOT = "file:root"
# What the host gives, as to the image; nothing of it is code.
HOST = {
    place: f"file:{Path(place).name}" for place in (init.IN, init.MODEL, init.FOLDER, init.HISTORY)
}
LIBRARIES = "/lib/x86_64-linux-gnu"
ARGUMENTS = (init.PYTHON, "-I", "-B", "-u", init.START)
ENVIRONMENT = {
    "HOME": "/root",
    "HF_HUB_OFFLINE": "1",
    "LD_LIBRARY_PATH": f"/lib:{LIBRARIES}:/usr{LIBRARIES}",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TRANSFORMERS_OFFLINE": "1",
    "XDG_STATE_HOME": init.HISTORY,
}
THREADS = "OMP_NUM_THREADS"
# GiB of enclave memory; a site's model decides what it needs
SIZES = {"aggregator": 4, "site-enclave": 16, "split-server": 32}
_HELPERS = 16  # threads of Gramine, of Python and of sockets
# Folders of the image that are for its kernel: Gramine brings its own C library to /lib.
_OF_THE_KERNEL = ("etc/modules.order", "init", "lib/modules/")


def enclave_files(contents: Contents) -> list[Content]:
    """The files of an image that an enclave of its program uses."""
    return [file for file in contents.files if not file.path.startswith(_OF_THE_KERNEL)]


def manifest(contents: Contents, *, threads: int, gib: int | None = None) -> str:
    """The template, for ``gramine-manifest`` and ``gramine-sgx-sign``.

    Args:
        contents: of the image.
        threads: with which the program computes.
        gib: size of the enclave; default: `SIZES`.
    """
    return "".join(f"{line}\n" for line in _lines(contents, threads, gib))


def _lines(contents: Contents, threads: int, gib: int | None) -> Iterator[str]:
    program = contents.program
    yield f"# sealtune {program} {contents.code}"
    yield f"# of the image {contents.digest}; Gramine 1.8 or later"
    yield ""
    yield f"loader.entrypoint.uri = {_text(LIBOS)}"
    yield f"libos.entrypoint = {_text(init.PYTHON)}"
    yield f"loader.argv = {_text([*ARGUMENTS, program, init.LOCAL])}"
    yield 'loader.log_level = "error"'
    for name, value in {**ENVIRONMENT, THREADS: str(threads)}.items():
        yield f"loader.env.{name} = {_text(value)}"
    yield ""
    yield f"fs.root = {{ type = {_text('chroot')}, uri = {_text(ROOT)} }}"
    yield "fs.mounts = ["
    for path, uri in mounts().items():
        yield f"  {{ path = {_text(path)}, uri = {_text(uri)} }},"
    yield '  { type = "tmpfs", path = "/tmp" },'
    yield "]"
    yield ""
    yield "sys.enable_sigterm_injection = true"  # the host can stop it anyway
    yield "sys.disallow_subprocesses = true"
    yield "sgx.debug = false"
    yield 'sgx.remote_attestation = "dcap"'
    yield 'sgx.file_check_policy = "strict"'
    yield f'sgx.enclave_size = "{gib or SIZES.get(program, 16)}G"'
    yield f"sgx.max_threads = {2 * threads + _HELPERS}"
    yield f"sgx.allowed_files = {_text([f'{uri}/' for uri in HOST.values()])}"
    yield "sgx.trusted_files = ["
    yield f"  {_text(LIBOS)},"
    yield f"  {_text(f'{RUNTIME}/')},"
    for file in enclave_files(contents):
        uri = f"{ROOT}/{file.path}"
        yield f"  {{ uri = {_text(uri)}, sha256 = {_text(file.sha256)} }},"
    yield "]"


def mounts() -> dict[str, str]:
    """Where in the enclave what is found."""
    return {
        "/lib": RUNTIME,
        "/lib64": RUNTIME,
        LIBRARIES: f"{ROOT}{LIBRARIES}",
        **HOST,
    }


def _text(value: str | list[str]) -> str:
    """TOML's strings and arrays of such are written as JSON's."""
    return json.dumps(value)
