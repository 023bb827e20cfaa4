"""Gramine manifests: the one that is made, and each way in which one lets the host in."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.errors import ConfigError
from sealtune.images.gramine import manifest
from sealtune.images.gramine_lint import check
from sealtune.images.image import Content, Contents
from tests.images import made_up

PATH = Path("a.manifest.template")
FILES = (
    Content(path="init", sha256="34" * 32, size=7, origin="init"),
    Content(path="lib/modules/tsm.ko", sha256="35" * 32, size=7, origin="kernel"),
    Content(path="opt/sealtune/start.py", sha256="36" * 32, size=7, origin="sealtune"),
    Content(path="usr/bin/python3.11", sha256="37" * 32, size=7, origin="python3.11"),
)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    made = made_up.image(tmp_path_factory.mktemp("image")).contents
    return made.model_copy(update={"files": FILES})


@pytest.fixture(scope="module")
def text(contents: Contents) -> str:
    return manifest(contents, threads=4)


def refusal(text: str, contents: Contents | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        check(text.encode(), PATH, contents)
    return error.value.message


def test_what_is_made_holds_and_has_every_file_by_hash(text: str, contents: Contents) -> None:
    assert check(text.encode(), PATH, contents) == 4
    table = tomllib.loads(text)
    assert {one["uri"]: one["sha256"] for one in table["sgx"]["trusted_files"][2:]} == {
        "file:root/opt/sealtune/start.py": "36" * 32,
        "file:root/usr/bin/python3.11": "37" * 32,
    }
    assert table["loader"]["argv"][1:3] == ["-I", "-B"]
    assert table["sgx"]["debug"] is False
    assert text == manifest(contents, threads=4)


# What is added to a good manifest, and what the refusal says of it.
ADDED = [
    ("loader.insecure__use_cmdline_argv = true", "choose what is run"),
    ("loader.insecure__use_host_env = true", "LD_PRELOAD"),
    ("loader.insecure__disable_aslr = true", "not known to be harmless"),
    ('loader.argv_src_file = "file:in/arguments"', "stand in the manifest"),
    ('loader.env_src_file = "file:in/environment"', "stands in the manifest"),
    ("loader.env.PYTHONPATH = { passthrough = true }", "steers the interpreter"),
    ('loader.env.PYTHONSTARTUP = "/run/in/x.py"', "steers the interpreter"),
    ("loader.env.LD_PRELOAD = { passthrough = true }", "which code is loaded"),
    ('loader.env.LD_PRELOAD = "/run/in/x.so"', "which code is loaded"),
    ('loader.env.SSL_CERT_FILE = "/run/in/ca.pem"', "no program of sealtune asks"),
    ("loader.env.HTTPS_PROXY = { passthrough = true }", "no program of sealtune asks"),
    ('fs.insecure__keys.default = "00112233445566778899aabbccddeeff"', "has the key"),
    ('sgx.insecure__protected_files_key = "00112233445566778899aabbccddeeff"', "insecure"),
    ("sgx.insecure__rpc_thread_num = 4", "insecure"),
    ("sgx.insecure__allow_memfaults_without_exinfo = true", "insecure"),
    ('sgx.profile.enable = "all"', "debug"),
    ("sgx.enable_stats = true", "debug"),
    ("sgx.vtune_profile = true", "debug"),
    ('sgx.seal_key.flags_mask = "0x0"', "other enclaves"),
    ("sgx.allowed_ioctls = [{ request_code = 1 }]", "devices"),
    ("sys.enable_extra_runtime_domain_names_conf = true", "name service"),
    ("sys.insecure__allow_eventfd = true", "not known to be harmless"),
    ("sgx.unheard_of = true", "not known to be harmless"),
    ("libos.check_invalid_pointers = false", "must be True"),
    ('"sgx.debug" = false', "not known to be harmless"),
    ('"fs.root.uri" = "file:root"', "not known to be harmless"),
    ("# {{ '\\nsgx.debug = true' }}", "evaluated by whoever renders it"),
    ("# {% include 'more' %}", "evaluated by whoever renders it"),
    ("# {# hidden #}", "evaluated by whoever renders it"),
    ("# {{ env['X'] }}", "evaluated by whoever renders it"),
]


@pytest.mark.parametrize(("line", "words"), ADDED)
def test_what_lets_the_host_in_is_refused(line: str, words: str, text: str) -> None:
    said = refusal(f"{line}\n{text}")
    assert words in said
    assert "1 problem" in said


# What is replaced in a good manifest.
REPLACED = [
    ("sgx.debug = false", "sgx.debug = true", "sgx.debug"),
    ("sgx.debug = false", "sgx.debug = 0", "sgx.debug"),
    ('"strict"', '"allow_all_but_log"', "file_check_policy"),
    ('"dcap"', '"none"', "remote_attestation"),
    ('"dcap"', '"epid"', "remote_attestation"),
    ('log_level = "error"', 'log_level = "trace"', "log_level"),
    ('"-I", ', "", "isolated"),
    ("start.py", "other.py", "loader.argv"),
    ('"aggregator", "/run', '"relay", "/run', "names none"),
    ('"aggregator", "/run', '"aggregator", "-c", "/run', "names none"),
    ("/run/in/local.json", "/folder/local.json", "the party's file"),
    ('XDG_STATE_HOME = "/history"', "XDG_STATE_HOME = { passthrough = true }", "from the host"),
    ('HF_HUB_OFFLINE = "1"', 'HF_HUB_OFFLINE = "0"', "HF_HUB_OFFLINE"),
    ('"/lib:/lib/x86', '"/run/in:/lib/x86', "LD_LIBRARY_PATH"),
    ('entrypoint = "/usr/bin/python3.11"', 'entrypoint = "/run/in/python"', "libos.entrypoint"),
    ("file:{{ gramine.libos }}", "file:in/libsysdb.so", "Gramine's own"),
    ('uri = "file:root" }', 'uri = "file:/" }', "fs.root.uri"),
    ('["file:in/", ', '["file:in/", "file:root/opt/", ', "file:root/opt/"),
    ('["file:in/", ', '["file:in/", "file:root/opt/sealtune/errors.py", ', "errors.py"),
    ('["file:in/", ', '["file:in/", "dev:/dev/shm", ', "dev:/dev/shm"),
    ('["file:in/", ', '["file:in/../", ', "file:in/../"),
    ('path = "/run/in"', 'path = "/opt/sealtune"', "/opt/sealtune"),
    ('"/lib64", uri = "file:{{ gramine.runtimedir() }}"', '"/lib64", uri = "file:in"', "/lib64"),
    (
        '{ type = "tmpfs", path = "/tmp" }',
        '{ type = "encrypted", path = "/state", uri = "file:s", key_name = "_sgx_mrsigner" }',
        "seals its state itself",
    ),
    (
        '{ type = "tmpfs", path = "/tmp" }',
        '{ type = "untrusted_shm", path = "/dev/shm", uri = "dev:/dev/shm" }',
        "shared with the host",
    ),
    ('{ type = "tmpfs", path = "/tmp" }', '{ type = "tmpfs", path = "/opt" }', "unknown type"),
    (f', sha256 = "{"36" * 32}" }}', " }", "has no hash"),
    (f'sha256 = "{"36" * 32}"', 'sha256 = "36"', "has no hash"),
    ("sgx.trusted_files = [", 'sgx.trusted_files = [ "file:in/x.py",', "has no hash"),
    ("sgx.trusted_files = [", 'sgx.trusted_files = [ "file:root/",', "has no hash"),
    ('sgx.remote_attestation = "dcap"', "", "is missing"),
    ('sgx.remote_attestation = "dcap"', '"sgx.remote_attestation" = "dcap"', "is missing"),
    (', uri = "file:root" }', " }", "fs.root.uri: is missing"),
    ("sgx.max_threads = 24", 'sgx.max_threads = "24"', "sgx.max_threads"),
]


@pytest.mark.parametrize(("old", "new", "words"), REPLACED)
def test_what_is_weakened_is_refused(old: str, new: str, words: str, text: str) -> None:
    assert old in text
    assert words in refusal(text.replace(old, new))


def test_files_that_are_not_the_images(text: str, contents: Contents) -> None:
    other = text.replace("36" * 32, "aa" * 32)
    assert check(other.encode(), PATH)  # nothing to compare with
    assert "another hash" in refusal(other, contents)
    lines = [line for line in text.splitlines() if "python3.11" not in line or "uri" not in line]
    assert "lacks file:root/usr/bin/python3.11" in refusal("\n".join(lines), contents)
    more = text.replace(
        "sgx.trusted_files = [",
        f'sgx.trusted_files = [ {{ uri = "file:root/opt/x.py", sha256 = "{"ab" * 32}" }},',
    )
    assert "no file of the image" in refusal(more, contents)
    site = text.replace('"aggregator"', '"site-enclave"')
    assert "does not start aggregator" in refusal(site, contents)


def test_a_manifest_as_gramine_renders_and_signs_it(text: str, contents: Contents) -> None:
    place = "file:/usr/lib/x86_64-linux-gnu/gramine"
    rendered = text.replace("file:{{ gramine.libos }}", f"{place}/libsysdb.so")
    rendered = rendered.replace("file:{{ gramine.runtimedir() }}", f"{place}/runtime/glibc")
    signed = rendered.replace(
        f'"{place}/runtime/glibc/",',
        f'{{ uri = "{place}/runtime/glibc/libc.so.6", sha256 = "{"cd" * 32}" }},',
    ).replace(
        f'  "{place}/libsysdb.so",',
        f'{{ uri = "{place}/libsysdb.so", sha256 = "{"ef" * 32}" }},',
    )
    assert check(signed.encode(), PATH, contents) == 4
    assert "no file of the image" in refusal(signed.replace("gramine/runtime", "other"), contents)


@given(noise=st.text(max_size=60), line=st.integers(0, 40))
def test_any_text_is_refused_or_known(noise: str, line: int, text: str) -> None:
    """A line more never makes a manifest that is accepted and says something new."""
    lines = text.splitlines()
    lines.insert(min(line, 16), noise)
    changed = "\n".join(lines)
    try:
        check(changed.encode("utf-8", "surrogatepass"), PATH)
    except ConfigError:
        return
    assert tomllib.loads(changed) == tomllib.loads(text)


def test_the_command(tmp_path: Path, contents: Contents) -> None:
    made_up.image(tmp_path / "image", program="site-enclave")
    out = tmp_path / "site.manifest.template"

    def run(*words: str | Path) -> Result:
        return CliRunner().invoke(
            app, ["image", "gramine", *map(str, words)], env={"COLUMNS": "200"}
        )

    made = run(tmp_path / "image", "-o", out, "--threads", "8", "--size", "24")
    assert made.exit_code == 0, made.output
    assert 'enclave_size = "24G"' in out.read_text()
    looked = run(tmp_path / "image", "--check", out)
    assert looked.exit_code == 0, looked.output
    alone = run("--check", out)
    assert "compared with nothing" in alone.stderr
    out.write_text(out.read_text().replace("sgx.debug = false", "sgx.debug = true"))
    assert run("--check", out).exit_code == 2
    assert run(tmp_path / "image").exit_code == 2
    other = run(tmp_path / "image", "--program", "aggregator", "-o", tmp_path / "x")
    assert other.exit_code == 2
    assert not (tmp_path / "x").exists()
