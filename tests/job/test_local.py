"""A party's own file: every fault is found, with its key, before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sealtune.errors import ConfigError
from sealtune.job.local import DataPlace, Local, ModelPlace, read_local
from sealtune.job.local_file import load_local

SITE: dict[str, Any] = {
    "manifest": "/m.json",
    "role": "site",
    "site": "north",
    "folder": "/run",
    "listen": "/n.sock",
    "accelerator": "unix:/a.sock",
    "model": {"path": "/model"},
    "data": {"train": "/a.csv", "test": "/b.csv"},
}
COORDINATOR: dict[str, Any] = dict.fromkeys(("site", "data", "model", "accelerator")) | {
    "role": "coordinator",
    "listen": "tcp:0.0.0.0:9092",
    "listen_server": "tcp:[::]:9093",
    "tls_key": "/tls.key",
    "accelerator": "",
}
TOML = """
manifest = "job.manifest.json"
role = "site"
site = "north"
folder = "out"
listen = "n.sock"
accelerator = "unix:gpu.sock"
key = "keys/north.key"
[model]
path = "model"
[data]
train = "../train.csv"
test = "hf:owner/name:test"
"""


def read(folder: Path, content: object) -> Local:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "local.json").write_text(text)
    return read_local(folder / "local.json")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, SITE)
    assert found.name == "site-north"
    assert read(tmp_path, found.model_dump_json()) == found


@pytest.mark.parametrize(
    "change",
    [
        COORDINATOR,
        {"node_key": "/node.key", "image": "/image", "listen": "vsock:3:5000"},
    ],
)
def test_keys_of_a_job_on_several_hosts(tmp_path: Path, change: dict[str, Any]) -> None:
    found = read(tmp_path, SITE | change)
    assert read(tmp_path, found.model_dump_json()) == found


def test_a_server_goes_on_where_there_is_something(tmp_path: Path) -> None:
    server = {key: SITE[key] for key in ("manifest", "folder", "listen")} | {"role": "server"}
    for value in (False, True, "auto"):
        assert read(tmp_path, server | {"resume": value}).resume == value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"role": "client"}, "role: "),
        ({"role": "server"}, "site: belongs into a file of role 'site', not 'server'"),
        ({"role": "accelerator", "resume": True}, "resume: belongs into a file of role 'server'"),
        ({"site": None}, "site: is missing"),
        ({"site": "No Name"}, "site: "),
        ({"serve": "south"}, "serve: belongs into a file of role 'server'"),
        ({"role": "server", "untrusted_shm": "/s"}, "untrusted_shm: belongs into a file of role"),
        (COORDINATOR | {"device": "cpu"}, "device: belongs into a file of role 'accelerator' or '"),
        ({"pad_key": "/k"}, "pad_key: belongs into a file of role 'pad-accelerator'"),
        (
            {"role": "accelerator", "pad_accelerator": "b.sock"},
            "pad_accelerator: belongs into a file of role 'site'",
        ),
        ({"pad_accelerator": "gpu:sock"}, "pad_accelerator: 'gpu:sock' is neither unix:/path nor"),
        (
            {"accelerator": "tcp:h:1", "pad_accelerator": "tcp:h:1"},
            "pad_accelerator: is the accelerator's address, too",
        ),
        ({"listen": ""}, "listen: "),
        ({"accelerator": "gpu:sock"}, "accelerator: 'gpu:sock' is neither unix:/path nor tcp"),
        (
            {"role": "accelerator", "listen": "a:sock"},
            "'a:sock' is neither unix:/path nor tcp",
        ),
        (
            {"role": "accelerator", "listen": "tcp:1:2:3"},
            "'tcp:1:2:3' is neither unix:/path nor tcp",
        ),
        (
            {"role": "accelerator", "listen": "tcp:127.0.0.1:99999"},
            "listen: 'tcp:127.0.0.1:99999' has port 99999; ports are from 1 to 65535",
        ),
        ({"accelerator": "tcp:[::1]:0"}, "has port 0; ports are from 1 to 65535"),
        ({"resume": 1}, 'resume: should be true, false or "auto"'),
        ({"resume": "Auto"}, 'resume: should be true, false or "auto"'),
        ({"tls_key": "/k"}, "tls_key: belongs into a file of role 'coordinator' or 'server'"),
        ({"listen_server": "tcp:h:1"}, "listen_server: belongs into a file of role 'coordinator'"),
        ({"role": "server", "node_key": "/k"}, "node_key: belongs into a file of role 'site'"),
        ({"role": "accelerator", "image": "/i"}, "image: belongs into a file of role 'server' or"),
        (COORDINATOR | {"listen": "c.sock"}, "listen: is not tcp:host:port"),
        (COORDINATOR | {"listen": "unix:/c.sock"}, "listen: is not tcp:host:port"),
        (COORDINATOR | {"listen_server": "tcp:h:0"}, "listen_server: 'tcp:h:0' has port 0"),
        (COORDINATOR | {"model": {"path": "/m"}}, "model: belongs into a file of role 'server' or"),
        ({"colour": "red"}, "colour: "),
        ({"data": {"train": "/a.csv"}}, r"data\.test: Field required"),
        ({"model": {"path": ""}}, r"model\.path: "),
    ],
)
def test_faults_of_the_form_that_programs_read(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, SITE | change)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"role": 1}', "[" * 100_000])
def test_other_bytes_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read(tmp_path, text)


def test_a_file_that_is_not_there_or_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_local(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        read(tmp_path, " " * (1 << 20) + "7")


def test_paths_are_taken_from_the_files_own_folder(tmp_path: Path) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    file = tmp_path / "here" / "local.toml"
    file.write_text(TOML)
    here = tmp_path / "here"
    assert load_local(file) == Local(
        manifest=here / "job.manifest.json",
        role="site",
        site="north",
        folder=here / "out",
        listen=str(here / "n.sock"),
        accelerator=f"unix:{here}/gpu.sock",
        key=here / "keys" / "north.key",
        model=ModelPlace(path=str(here / "model")),
        data=DataPlace(train=tmp_path / "train.csv", test=Path("hf:owner/name:test")),
    )
    file.write_text(TOML.replace("unix:gpu.sock", "tcp:host:80").replace('"model"', '"org/model"'))
    found = load_local(file)
    assert (found.accelerator, found.model) == ("tcp:host:80", ModelPlace(path="org/model"))


def test_keys_of_a_job_on_several_hosts_lie_beside_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "local.toml"
    file.write_text('node_key = "node.key"\nimage = "image"\n' + TOML)
    found = load_local(file)
    assert (found.node_key, found.image) == (tmp_path / "node.key", tmp_path / "image")
    file.write_text("""
manifest = "job.manifest.json"
role = "coordinator"
folder = "out"
listen = "tcp:0.0.0.0:9092"
listen_server = "tcp:0.0.0.0:9093"
tls_key = "tls.key"
""")
    found = load_local(file)
    assert found.tls_key == tmp_path / "tls.key"
    assert (found.listen, found.listen_server) == ("tcp:0.0.0.0:9092", "tcp:0.0.0.0:9093")


def test_what_goes_with_evidence_lies_beside_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "local.toml"
    file.write_text('collateral = "intel.json"\nevidence_root = "guest"\n' + TOML)
    found = load_local(file)
    assert (found.collateral, found.evidence_root) == (tmp_path / "intel.json", tmp_path / "guest")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = TOML.replace('folder = "out"', 'fodler = "out"\nserve = "x"\nresume = 3')
    (tmp_path / "local.toml").write_text(text.replace("[model]\npath", "[model]\npart"))
    with pytest.raises(ConfigError) as caught:
        load_local(tmp_path / "local.toml")
    assert {(one.key, one.message) for one in caught.value.problems} == {
        ("fodler", "unknown key; did you mean 'folder'?"),
        ("folder", "is missing: folder for results, sealed state and logs"),
        ("serve", "belongs into a file of role 'server', not 'site'"),
        ("resume", "belongs into a file of role 'server', not 'site'"),
        (
            "resume",
            'should be true, false or "auto": true: go on from the sealed checkpoint; "auto": '
            "where there is one",
        ),
        ("model.path", "is missing: folder of the base model, or a hub id"),
        ("model.part", "unknown key; did you mean 'path'?"),
    }


def test_a_file_that_is_not_there_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file") as caught:
        load_local(tmp_path / "local.toml")
    assert caught.value.hint == "`sealtune site -h`, as that of each party, has an example"


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "local.toml").write_text("role = site")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_local(tmp_path / "local.toml")
