"""Images are built alike, of the lock's packages alone, and hold one program and no more."""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from sealtune.attest.measure import program_digest
from sealtune.errors import ConfigError, DigestMismatchError, StorageError
from sealtune.images import fetch as fetching
from sealtune.images.archive import Entry
from sealtune.images.build import build
from sealtune.images.elf import needed
from sealtune.images.fetch import fetch, sha256_of
from sealtune.images.image import BOOTED, LIST, Image
from sealtune.images.kernel import take_kernel
from sealtune.images.lock import SHIPPED, Lock, Package, read_lock
from sealtune.images.parts import OWN, libraries, wheel_files
from sealtune.images.programs import PROGRAMS
from sealtune.start import ROOT, read_program
from tests.images.conftest import AGGREGATOR, PACKAGES
from tests.images.cpio import members, unpack


def test_two_builds_are_equal_wherever_and_however_they_are_made(
    aggregator: Image, lock: Lock, tmp_path: Path
) -> None:
    lock.write(tmp_path / "lock.json")
    other = tmp_path / "somewhere" / "else"
    other.mkdir(parents=True)
    command = [sys.executable, "-m", "sealtune.cli.main", "image", "build", "--program", AGGREGATOR]
    options = ["-o", "out", "--lock", "../../lock.json", "--packages", str(PACKAGES)]
    odd = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "99"}
    done = subprocess.run(
        [*command, *options],
        cwd=other,
        env=os.environ | odd,
        umask=0o077,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in (*BOOTED, LIST):
        assert (other / "out" / name).read_bytes() == (aggregator.folder / name).read_bytes()
    assert aggregator.contents.digest in done.stdout.decode()


def test_nothing_in_it_tells_when_or_by_whom_it_was_built(aggregator: Image) -> None:
    found = members(aggregator.initrd)
    assert list(found) == sorted(found)
    assert {(m.user, m.group, m.time) for m in found.values()} == {(0, 0, 0)}
    assert {m.mode for m in found.values()} == {0o100644, 0o100755, 0o040755}
    started = {path for path, m in found.items() if m.mode == 0o100755}
    assert started == {"init", "lib64/ld-linux-x86-64.so.2", "usr/bin/python3.11"}


def test_it_holds_the_program_and_what_its_list_names(aggregator: Image, tmp_path: Path) -> None:
    found = {path for path, m in members(aggregator.initrd).items() if m.mode & 0o100000}
    assert found == {file.path for file in aggregator.contents.files}
    program = read_program(AGGREGATOR)
    own = {path.removeprefix(f"{OWN}/") for path in found if path.startswith(OWN)}
    assert own == {"programs/aggregator.txt", *program.at_start, *program.on_demand}
    tops = {
        PurePosixPath(path).relative_to("usr/local/lib/python3.11/dist-packages").parts[0]
        for path in found
        if "dist-packages" in path
    }
    code = {top.partition(".")[0] for top in tops if not top.endswith(".dist-info")}
    assert code == set(program.packages) - set(aggregator.contents.absent)
    assert not any(path.endswith((".pyc", ".pth", ".egg-link")) for path in found)
    assert not any({"site-packages", "sitecustomize.py"} & {*Path(p).parts} for p in found)
    # what runs inside has the digest that a manifest names
    unpack(aggregator.initrd, tmp_path)
    assert program_digest(AGGREGATOR, tmp_path / OWN).hex() == aggregator.contents.code
    assert aggregator.contents.code == program_digest(AGGREGATOR).hex()


def test_other_code_gives_another_digest(aggregator: Image, lock: Lock, tmp_path: Path) -> None:
    root = tmp_path / "sealtune"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    add_line(root / "methods" / "federated" / "update_bound.py")
    other = build(lock, AGGREGATOR, tmp_path / "image", cache=PACKAGES, root=root)
    assert other.contents.digest != aggregator.contents.digest
    assert other.contents.code != aggregator.contents.code
    add_line(root / "accelerator" / "server.py")  # of another program: no matter
    again = build(lock, AGGREGATOR, tmp_path / "image", cache=PACKAGES, root=root)
    assert again.contents.digest == other.contents.digest


def add_line(file: Path) -> None:
    file.write_text(file.read_text() + "\n")


def copied(image: Image, folder: Path) -> Path:
    shutil.copytree(image.folder, folder)
    return folder


@pytest.mark.parametrize("name", BOOTED)
def test_an_image_with_one_changed_byte_is_refused(
    aggregator: Image, tmp_path: Path, name: str
) -> None:
    folder = copied(aggregator, tmp_path / "image")
    with (folder / name).open("r+b") as file:
        file.seek(30)
        byte = file.read(1)
        file.seek(30)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DigestMismatchError, match=f"not what was built: {name}"):
        Image.read(folder)


def test_a_list_that_was_changed_along_shows_another_digest(
    aggregator: Image, tmp_path: Path
) -> None:
    folder = copied(aggregator, tmp_path / "image")
    (folder / "cmdline").write_text("init=/bin/sh")
    text, old = (folder / LIST).read_text(), aggregator.contents.booted["cmdline"]
    (folder / LIST).write_text(text.replace(old, sha256_of(folder / "cmdline")))
    with pytest.raises(DigestMismatchError, match="digest"):
        Image.read(folder)
    (folder / LIST).write_text("{}")
    with pytest.raises(ConfigError, match="program"):
        Image.read(folder)
    (folder / LIST).unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        Image.read(folder)


@pytest.mark.parametrize("name", ["numpy", "libc6"])
def test_a_package_that_was_changed_in_the_cache_is_refused(
    lock: Lock, tmp_path: Path, name: str
) -> None:
    package = next(one for one in lock.packages if one.name == name)
    kept = fetch(package, PACKAGES)
    cache = tmp_path / "cache"
    cache.mkdir()
    changed = bytearray(kept.read_bytes())
    changed[len(changed) // 2] ^= 1
    (cache / kept.name).write_bytes(changed)
    for other in lock.packages:
        if other.name != name and (PACKAGES / f"{other.sha256}.{other.kind}").exists():
            os.symlink(fetch(other, PACKAGES), cache / f"{other.sha256}.{other.kind}")
    with pytest.raises(DigestMismatchError, match=f"(?s){name} .* was changed: delete it"):
        build(lock, AGGREGATOR, tmp_path / "image", cache=cache)
    assert not (tmp_path / "image" / LIST).exists()


def test_a_registry_that_gives_out_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hostile(_kind: str, _name: str, _version: str, folder: Path) -> Path:
        (folder / "numpy.whl").write_bytes(b"another")
        return folder / "numpy.whl"

    monkeypatch.setattr(fetching, "download", hostile)
    package = Package(kind="whl", name="numpy", version="2", sha256="0" * 64)
    with pytest.raises(DigestMismatchError, match="is not what the lock names"):
        fetch(package, tmp_path)
    assert list(tmp_path.iterdir()) == []


def wheel(folder: Path, names: tuple[str, ...]) -> Path:
    path = folder / "x.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return path


PACKAGE = Package(kind="whl", name="x", version="1", sha256="0" * 64, modules=("x",))


def test_of_a_wheel_only_listed_modules_are_taken(tmp_path: Path) -> None:
    names = ("x/a.py", "x/a.pyi", "x/tests/b.py", "x/__pycache__/a.cpython-311.pyc", "y/c.py")
    meta = ("x-1.dist-info/METADATA", "x-1.dist-info/RECORD", "evil.pth", "x.libs/l.so")
    taken = dict(wheel_files(wheel(tmp_path, names + meta), PACKAGE, ("x",)))
    assert {path.partition("dist-packages/")[2] for path in taken} == {
        "x/a.py", "x-1.dist-info/METADATA", "x.libs/l.so",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../x/a.py", "/x/a.py", "x/../../a.py", "x-1.data/purelib/x.py"])
def test_a_wheel_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="has no place here"):
        list(wheel_files(wheel(tmp_path, (name,)), PACKAGE, ("x",)))


def test_machine_code_says_what_it_needs() -> None:
    assert "libc.so.6" in needed(Path(sys.executable).resolve().read_bytes())
    assert needed(b"#!/bin/sh") == []
    with pytest.raises(StorageError, match="cut short"):
        needed(Path(sys.executable).resolve().read_bytes()[:80])
    with pytest.raises(StorageError, match="64 bits"):
        needed(b"\x7fELF\x01\x01")


def test_a_library_that_no_package_has_is_missed_at_once() -> None:
    code = Path(sys.executable).resolve().read_bytes()
    loader = {"lib64/ld-linux-x86-64.so.2": (b"", "libc6")}
    with pytest.raises(StorageError, match=r"a needs lib\S+, which no package of the lock has"):
        libraries({"a": Entry(code, "test")}, loader)


def module(*needs: str) -> bytes:
    return b"\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def test_modules_of_the_kernel_come_after_what_they_need() -> None:
    files = {
        "boot/vmlinuz-6.9": b"kernel",
        "lib/modules/6.9/kernel/virtio_net.ko": module("net_failover"),
        "lib/modules/6.9/kernel/net_failover.ko": module("failover"),
        "lib/modules/6.9/kernel/failover.ko.xz": lzma.compress(module()),
        "lib/modules/6.9/kernel/9pnet_virtio.ko": module("9pnet"),
        "lib/modules/6.9/kernel/9pnet.ko": module(),
        "lib/modules/6.9/kernel/9p.ko": module("9pnet"),
        "lib/modules/6.9/kernel/sev-guest.ko": module("tsm"),
        "lib/modules/6.9/kernel/tdx-guest.ko": module("tsm"),
        "lib/modules/6.9/kernel/tsm.ko": module(),
        "lib/modules/6.9/kernel/floppy.ko": module(),
    }
    kernel = take_kernel(files, "linux")
    network, folders = ["failover", "net_failover", "virtio_net"], ["9pnet", "9pnet_virtio", "9p"]
    order = [*network, *folders, "tsm", "sev_guest", "tdx_guest"]
    assert list(kernel.modules) == [f"{name}.ko" for name in order]
    assert kernel.modules["failover.ko"].data == module()
    assert (kernel.release, kernel.image) == ("6.9", b"kernel")
    del files["lib/modules/6.9/kernel/tsm.ko"]
    with pytest.raises(StorageError, match="no module tsm"):
        take_kernel(files, "linux")
    with pytest.raises(StorageError, match="0 kernels"):
        take_kernel({}, "linux")


def test_the_lock_that_comes_with_sealtune_serves_every_program() -> None:
    lock = read_lock()
    for name in PROGRAMS.values():
        _, absent = lock.wheels_of(read_program(name).packages)
        # of extras, and of what a machine with a GPU has
        assert set(absent) <= {
            "_multiprocess", "datasets", "dateutil", "dill", "multiprocess", "pandas", "pynvml",
            "six", "tzdata", "xxhash",
        }  # fmt: skip
    pinned = dict(
        line.split("==")
        for line in (ROOT.parents[1] / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for package in lock.packages:
        if package.kind == "whl" and package.name in pinned:
            assert package.version.partition("+")[0] == pinned[package.name]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"format": 1', '"format": 2', "format"),
        ('"sha256": "', '"sha256": "x', "sha256"),
        ('"name": "libc6"', '"name": "../libc6"', "name"),
        ('"name": "libc6"', '"name": "-libc6"', "name"),
        ('"kernel": "', '"kernel": "other-', "not among the packages"),
        ("{", "", "JSON"),
    ],
)
def test_a_malformed_lock_is_refused(tmp_path: Path, old: str, new: str, fault: str) -> None:
    text = SHIPPED.read_text()
    assert old in text
    (tmp_path / "lock.json").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=fault):
        read_lock(tmp_path / "lock.json")
