"""Code that somebody else puts in the way of a program is not run: each way in is really tried."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import sealtune
from sealtune.attest.measure import program_digest
from sealtune.launch.environment import variables
from sealtune.start import list_file, read_program

PROBE = "sealtune.enclave.probe"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that may be tampered with, with a program that imports and prints."""
    root = tmp_path / "installed" / "sealtune"
    shutil.copytree(
        Path(sealtune.__file__).parent, root, ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "enclave" / "probe.py").write_text(
        "import importlib, sys\n"
        "if __name__ == '__main__':\n"
        "    for name in sys.argv[1:]:\n"
        "        print(importlib.import_module(name).__file__)\n"
    )
    lines = list_file("site-enclave", root).read_text().splitlines()
    lines[lines.index("[main]") + 1] = "enclave/probe.py"
    list_file("probe", root).write_text("\n".join(lines))
    put_on_list(root, "enclave/linked.py", "enclave/probe.py")
    (root / "enclave" / "linked.py").write_text("")
    return root


def put_on_list(root: Path, *files: str) -> None:
    path = list_file("probe", root)
    path.write_text(path.read_text().replace("[on demand]", "\n".join(("[on demand]", *files))))


def digest_of(root: Path) -> bytes:
    return program_digest("probe", root)


def isolated(root: Path, *names: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The probe, started as a run starts its programs, in the copy."""
    command = [sys.executable, "-I", "-B", "-u", str(root / "start.py"), "probe", *names]
    return _run(command, options)


def ordinary(root: Path, *names: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The probe by ``python -m``: shows that the attack works where nothing stops it."""
    environment = {**os.environ, "PYTHONPATH": str(root.parent)}
    return _run([sys.executable, "-B", "-m", PROBE, *names], {"env": environment, **options})


def _run(command: list[str], options: dict[str, object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, **{"env": variables({}), **options}, capture_output=True, text=True, check=False
    )


def evil(folder: Path, name: str) -> Path:
    """A module that leaves a mark; returns where."""
    mark = folder / "mark"
    (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    return mark


@pytest.mark.parametrize("name", ["rfc8785", "numpy", "json", "sealtune"])
def test_modules_in_the_current_folder(package: Path, tmp_path: Path, name: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    mark = evil(here, name)
    done = isolated(package, "sealtune.job.manifest", cwd=here)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
    if name == "rfc8785":
        ordinary(package, "sealtune.job.manifest", cwd=here)
        assert mark.exists()


def test_modules_that_variables_point_at(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    mark = evil(here, "rfc8785")
    evil(here, "sitecustomize")
    monkeypatch.setenv("PYTHONPATH", str(here))
    monkeypatch.setenv("PYTHONSTARTUP", str(here / "rfc8785.py"))
    for environment in (variables({}), dict(os.environ)):  # ``-I`` alone stops it, too
        assert isolated(package, "sealtune.job.manifest", env=environment).returncode == 0
        assert not mark.exists()


def test_a_neighbour_of_the_package(package: Path) -> None:
    """Of the folder that sealtune lies in, sealtune alone is taken."""
    mark = evil(package.parent, "rfc8785")
    assert isolated(package, "sealtune.job.manifest").returncode == 0
    assert not mark.exists()
    ordinary(package, "sealtune.job.manifest")
    assert mark.exists()


def test_planted_bytecode(package: Path, tmp_path: Path) -> None:
    """A cached file that claims to be of the source as it is, and is not."""
    source = package / "frames.py"
    mark = tmp_path / "mark"
    other = tmp_path / "frames.py"
    text = f"open({str(mark)!r}, 'w').close()\n"
    other.write_text(text + "#" * (source.stat().st_size - len(text) - 1) + "\n")
    stamp = source.stat()
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir()
    py_compile.compile(str(other), cfile=str(cached), dfile=str(source), doraise=True)
    assert isolated(package, "sealtune.frames").stdout.strip() == str(source)
    assert not mark.exists()
    ordinary(package, "sealtune.frames")
    assert mark.exists()


def test_a_planted_extension_module(package: Path) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (package / f"frames{suffix}").write_bytes(b"\x7fELF and the rest")
    done = isolated(package, "sealtune.frames")
    assert done.stdout.strip() == str(package / "frames.py"), done.stderr
    assert ordinary(package, "sealtune.frames").returncode != 0  # Python prefers the extension


@pytest.mark.parametrize("where", ["frames", "linked", "errors"])
def test_a_folder_that_hides_a_measured_file(package: Path, tmp_path: Path, where: str) -> None:
    """Python prefers it to the file; the digest does not see it."""
    before = digest_of(package)
    away = tmp_path / "away"
    away.mkdir()
    if where == "linked":
        (package / "enclave" / "linked").symlink_to(away)
        name, folder = "sealtune.enclave.linked", away
    else:
        folder = package / where
        folder.mkdir()
        name = f"sealtune.{where}"
    mark = evil(folder, "__init__")
    assert digest_of(package) == before
    done = isolated(package, name)
    assert not mark.exists()
    assert "is no source file of the program" in done.stderr
    ordinary(package, name)
    assert mark.exists()


def test_a_room_that_is_a_link_out_of_the_package(package: Path, tmp_path: Path) -> None:
    """Python's usual finder must not take over there: it reads bytecode and extensions."""
    before = digest_of(package)
    away = tmp_path / "away"
    shutil.move(package / "channel", away)
    (package / "channel").symlink_to(away)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (away / f"stream{suffix}").write_bytes(b"\x7fELF and the rest")
    assert digest_of(package) == before
    done = isolated(package, "sealtune.channel.stream")
    assert done.returncode != 0
    assert "is no source file of the program" in done.stderr


@pytest.mark.parametrize("name", ["launch.child", "cli.main", "federation.relay", "owner.site"])
def test_an_enclave_finds_no_code_of_other_programs(package: Path, name: str) -> None:
    done = isolated(package, f"sealtune.{name}")
    assert done.returncode == 1
    first = package / name.split(".", maxsplit=1)[0] / "__init__.py"
    assert f"{str(first)!r} is no source file of the program" in done.stderr


def test_the_code_digest_covers_each_file_of_the_list(package: Path) -> None:
    listed = read_program("probe", package)
    digests = {digest_of(package)}
    files = ("programs/probe.txt", *listed.at_start, *listed.on_demand)
    for name in files:
        with (package / name).open("a") as file:
            file.write("\n")
        digests.add(digest_of(package))
    assert "start.py" in files
    assert len(digests) == 1 + len(files)


def test_the_code_digest_covers_nothing_else(package: Path) -> None:
    """A file that is on no list does not matter, because the program does not find it."""
    before = digest_of(package)
    for name in ("enclave/more.py", "launch/child.py", "demo/icd10.py", "report/page.py"):
        with (package / name).open("a") as file:
            file.write("x = 1\n")
        done = isolated(package, f"sealtune.{name.removesuffix('.py').replace('/', '.')}")
        assert "is no source file of the program" in done.stderr
    assert digest_of(package) == before


def test_a_file_put_on_the_list_changes_the_digest(package: Path) -> None:
    (package / "enclave" / "more.py").write_text("x = 1\n")
    before = digest_of(package)
    put_on_list(package, "enclave/more.py")
    assert isolated(package, "sealtune.enclave.more").returncode == 0
    assert digest_of(package) != before


def adds(package: Path, text: str) -> str:
    """A further module of the probe's; returns its name."""
    (package / "enclave" / "extra.py").write_text(text)
    put_on_list(package, "enclave/extra.py")
    return "sealtune.enclave.extra"


CALLS = (
    "huggingface_hub.hf_hub_download('owner/name', 'config.json')",
    "huggingface_hub.HfApi().model_info('owner/name')",
    "transformers.AutoConfig.from_pretrained('owner/name')",
    "huggingface_hub.utils.httpx.get('https://example.org')",
    "huggingface_hub.get_session()",
)


def test_an_enclave_opens_no_connection_through_the_hub(package: Path) -> None:
    text = "import huggingface_hub, traceback, transformers\n"
    for call in CALLS:
        text += f"try:\n    {call}\nexcept Exception:\n    print(traceback.format_exc(), 'END')\n"
    online = {k: v for k, v in variables({}).items() if not k.endswith("_OFFLINE")}
    done = isolated(package, adds(package, text), env=online)
    faults = done.stdout.split("END\n")[:-1]
    assert len(faults) == len(CALLS), done.stderr
    for fault in faults:
        assert "ConnectError: httpx" in fault
        assert "in a program that opens no connection of its own" in fault


def test_an_enclave_finds_a_model_of_the_hub_that_was_fetched_before(
    package: Path, tmp_path: Path
) -> None:
    commit = "0123456789" * 4
    folder = tmp_path / "hub" / "models--owner--name"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    name = adds(
        package,
        "from huggingface_hub import snapshot_download\n"
        f"for revision in (None, {commit!r}):\n"
        "    print(snapshot_download('owner/name', revision=revision))\n",
    )
    for more in ({}, {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}):
        done = isolated(package, name, env=variables({"HF_HOME": str(tmp_path), **more}))
        assert done.stdout.split()[:2] == [str(folder / "snapshots" / commit)] * 2, done.stderr


def test_an_enclave_finds_no_package_that_is_not_on_its_list(package: Path) -> None:
    name = adds(package, "import importlib.util as u; assert u.find_spec('pytest') is None\n")
    done = isolated(package, name)
    assert done.returncode == 0, done.stderr
    done = isolated(package, "pytest")
    assert "No module named 'pytest'" in done.stderr
    assert ordinary(package, "pytest").returncode == 0
