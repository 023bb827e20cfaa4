"""``sealtune deploy render``: units that systemd takes, a compose file, and who may touch what."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.deploy.services import PERMANENT
from tests.job.sample import NETWORK, make_manifest, sign_all

yaml = pytest.importorskip("yaml")

COMMON = 'manifest = "job.manifest.json"\nfolder = "{name}"\n'
FILES = {
    "coordinator": 'role = "coordinator"\nlisten = "tcp:0.0.0.0:9092"\n'
    'listen_server = "tcp:0.0.0.0:9093"\ntls_key = "c.key"\n',
    "server": 'role = "server"\nlisten = "/run/sealtune-server/s.sock"\ntls_key = "s.key"\n',
    "north": 'role = "site"\nsite = "north"\nlisten = "/run/sealtune-north/n.sock"\n'
    'accelerator = "unix:/run/sealtune-gpu/g.sock"\nnode_key = "n.key"\nkey = "north.key"\n'
    '[model]\npath = "/models/small"\n[data]\ntrain = "/data/a b.csv"\ntest = "/data/t.csv"\n',
    "gpu": 'role = "accelerator"\nlisten = "unix:/run/sealtune-gpu/g.sock"\n'
    '[model]\npath = "/models/small"\n',
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a space and a percent sign in its name, which units must quote."""
    folder = tmp_path / "jobs of 100%"
    folder.mkdir()
    manifest = sign_all(make_manifest(network=NETWORK))
    (folder / "job.manifest.json").write_bytes(manifest.encode())
    for name, text in FILES.items():
        (folder / f"{name}.toml").write_text(COMMON.format(name=name) + text)
    return folder


def render(place: Path, *names: str, program: str = sys.executable) -> Path:
    files = [part for name in names for part in ("--local", str(place / f"{name}.toml"))]
    args = ["deploy", "render", *files, "-o", str(place / "out"), "--program", program]
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return place / "out"


def options(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)
    return found


def test_systemd_takes_the_units(place: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    units = sorted((render(place, *FILES) / "systemd").iterdir())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "sealtune" in line]
    assert complaints == []


def test_the_network_has_accounts_of_its_own(place: Path) -> None:
    out = render(place, *FILES)
    units = {path.stem: options(path) for path in (out / "systemd").iterdir()}
    assert set(units) == {
        "sealtune-coordinator", "sealtune-server", "sealtune-server-link", "sealtune-site-north",
        "sealtune-site-north-node", "sealtune-accelerator",
    }  # fmt: skip
    users = {name: unit["User"][0] for name, unit in units.items()}
    assert len(set(users.values())) == len(users)
    for own, glue in (
        ("sealtune-server", "sealtune-server-link"),
        ("sealtune-site-north", "sealtune-site-north-node"),
    ):
        assert units[own]["Group"] == units[glue]["Group"] != [users[own]]
        assert units[glue]["BindsTo"] == [f"{own}.service"]
        assert "--only enclave" in units[own]["ExecStart"][0]
        assert "--only network" in units[glue]["ExecStart"][0]
        assert units[own]["PrivateNetwork"] == ["yes"], "its only way out is the socket"
        assert units[own]["LimitMEMLOCK"] == ["infinity"]
        assert "MemoryMax" in units[glue]
    for unit in units.values():
        assert unit["NoNewPrivileges"] == ["yes"]
        assert unit["ProtectSystem"] == ["strict"]
        assert unit["CapabilityBoundingSet"] == [""]
        assert unit["RestartPreventExitStatus"] == [" ".join(map(str, PERMANENT))]
        assert "100%%" in unit["ExecStart"][0]
    writes = units["sealtune-site-north-node"]["ReadWritePaths"][0]
    assert writes == f'"{place}/north/network"'.replace("%", "%%"), "and not the site's folder"
    folders = (out / "tmpfiles.d" / "sealtune.conf").read_text()
    assert (
        f'z "{place}/n.key" 0600 sealtune-north-node sealtune-north-net'.replace("%", "%%")
        in folders
    )
    assert "d /run/sealtune-north 0750 sealtune-north sealtune-north-net" in folders
    accounts = (out / "sysusers.d" / "sealtune.conf").read_text().splitlines()
    assert {line.split()[1] for line in accounts if line.startswith("u ")} == set(users.values())
    assert "m sealtune-north-node sealtune-north-net" in accounts
    # the accelerator's socket is of the group of the site that it serves
    assert units["sealtune-accelerator"]["Group"] == units["sealtune-site-north"]["Group"]


def test_a_folder_of_shared_memory_stays_whose_it_is(place: Path) -> None:
    for name in ("north", "gpu"):
        file = place / f"{name}.toml"
        file.write_text(f'untrusted_shm = "/dev/shm/masked"\n{file.read_text()}')
    out = render(place, "north", "gpu")
    for name in ("sealtune-site-north", "sealtune-accelerator"):
        writes = options(out / "systemd" / f"{name}.service")["ReadWritePaths"][0]
        assert writes.endswith(" /dev/shm/masked")
    node = options(out / "systemd" / "sealtune-site-north-node.service")
    assert "masked" not in node["ReadWritePaths"][0]
    assert "masked" not in (out / "tmpfiles.d" / "sealtune.conf").read_text()


def test_hospitals_publish_no_port(place: Path) -> None:
    found: dict[str, Any] = yaml.safe_load((render(place, *FILES) / "compose.yaml").read_text())
    services = found["services"]
    assert {name for name, one in services.items() if "ports" in one} == {"sealtune-coordinator"}
    assert services["sealtune-coordinator"]["ports"] == ["9092:9092", "9093:9093"]
    for name in ("sealtune-site-north", "sealtune-server"):
        assert services[name]["network_mode"] == "none"
    assert services["sealtune-site-north-node"]["networks"] == ["outgoing"]
    for one in services.values():
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["user"].split(":")[0] != "0"
    seen = {volume["source"] for volume in services["sealtune-site-north-node"]["volumes"]}
    assert not {source for source in seen if "data" in source or source.endswith("north.key")}


def test_a_proxy_before_the_coordinator(place: Path) -> None:
    out = render(place, "coordinator")
    text = (out / "nginx" / "sealtune.conf").read_text()
    assert f'ssl_certificate "{out}/nginx/relay.pem";' in text
    assert f'ssl_certificate_key "{place}/c.key";' in text
    assert "server 127.0.0.1:9092;" in text
    assert "listen 9092 ssl;" in text
    assert "server_name relay.test;" in text
    assert (out / "nginx" / "relay.pem").read_text() == NETWORK.certificate


def test_hardware_and_far_accelerators(place: Path) -> None:
    text = FILES["north"].replace("unix:/run/sealtune-gpu/g.sock", "tcp:10.0.0.7:9100")
    (place / "north.toml").write_text(COMMON.format(name="north") + text)
    unit = options(render(place, "north") / "systemd" / "sealtune-site-north.service")
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    assert "PrivateNetwork" not in unit
    (place / "server.toml").write_text(
        COMMON.format(name="server") + FILES["server"] + 'image = "img"\n'
    )
    unit = options(render(place, "server") / "systemd" / "sealtune-server.service")
    assert "/dev/kvm rw" in unit["DeviceAllow"]


def test_a_pad_accelerator_keeps_its_secrets(place: Path) -> None:
    (place / "pads.toml").write_text(
        COMMON.format(name="pads")
        + 'role = "pad-accelerator"\nlisten = "tcp:0.0.0.0:9101"\npad_key = "pads.hpke.key"\n'
    )
    out = render(place, "pads")
    unit = options(out / "systemd" / "sealtune-pad-accelerator.service")
    assert unit["LimitMEMLOCK"] == ["infinity"]  # seeds and masks
    assert "--only" not in unit["ExecStart"][0]
    owned = f'z "{place}/pads.hpke.key" 0600 sealtune-pad-accelerator'.replace("%", "%%")
    assert owned in (out / "tmpfiles.d" / "sealtune.conf").read_text()
    found: dict[str, Any] = yaml.safe_load((out / "compose.yaml").read_text())
    assert found["services"]["sealtune-pad-accelerator"]["ports"] == ["9101:9101"]


def test_a_site_reaches_a_far_pad_accelerator(place: Path) -> None:
    text = 'pad_accelerator = "tcp:192.0.2.8:9101"\n' + FILES["north"]
    (place / "north.toml").write_text(COMMON.format(name="north") + text)
    unit = options(render(place, "north") / "systemd" / "sealtune-site-north.service")
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    assert "PrivateNetwork" not in unit


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"/run/sealtune-north": "/tmp/n"}, "each service has for itself"),
        ({'role = "site"': 'role = "nobody"'}, "role"),
    ],
)
def test_what_cannot_be_a_service(place: Path, change: dict[str, str], said: str) -> None:
    text = FILES["north"]
    for old, new in change.items():
        text = text.replace(old, new)
    (place / "north.toml").write_text(COMMON.format(name="north") + text)
    assert said in refused(place, "north")


def test_a_dollar_is_expanded_in_commands_alone(place: Path) -> None:
    (place / "server.toml").write_text(COMMON.format(name="of $5") + FILES["server"])
    out = render(place, "server", program="/opt/$HOME/sealtune")
    unit = options(out / "systemd" / "sealtune-server.service")
    assert unit["ExecStart"][0].startswith("/opt/$$HOME/sealtune server ")
    assert f'"{place}/of $5"'.replace("%", "%%") in unit["ReadWritePaths"][0].split(" /run")
    assert '/of $5" 0710 ' in (out / "tmpfiles.d" / "sealtune.conf").read_text()


@pytest.mark.parametrize("party", ["north", "server", "gpu"])
@pytest.mark.parametrize(
    ("socket", "said"),
    [
        ("/run/n.sock", "lies in /run, which"),
        ("/n.sock", "lies in /, which"),
        ("/run/sealtune/../n.sock", "lies in /run, which"),
        ("/var/lib/n.sock", "lies in /var/lib, which"),
        ("/home/alice/n.sock", "lies in /home/alice, which"),
        ("n.sock", "{party}.toml in it"),
        ("../n.sock", "{party}.toml in it"),
        ("{party}/../n.sock", "{party}.toml in it"),
    ],
)
def test_no_service_is_given_what_is_not_its_own(
    place: Path, party: str, socket: str, said: str
) -> None:
    """What root makes of the rendered files would give /run away, or a folder with keys and data
    to the account that talks to the network."""
    lines = FILES[party].splitlines()
    at = f'listen = "unix:{socket.format(party=party)}"'
    text = "\n".join(at if line.startswith("listen") else line for line in lines)
    (place / f"{party}.toml").write_text(COMMON.format(name=party) + text)
    assert said.format(party=party) in refused(place, party)


@pytest.mark.parametrize("folder", ["/", "/var", "/run", "/home/alice", "/var/log", "/etc/.."])
@pytest.mark.parametrize("key", ["folder", "history"])
def test_no_service_is_given_a_folder_of_the_system(place: Path, key: str, folder: str) -> None:
    common = f'manifest = "job.manifest.json"\n{key} = "{folder}"\n'
    common += 'folder = "north"\n' if key == "history" else ""
    (place / "north.toml").write_text(common + FILES["north"])
    assert f"{key}: is /" in refused(place, "north")


def refused(place: Path, party: str) -> str:
    args = ["deploy", "render", "--local", str(place / f"{party}.toml"), "-o", str(place / "out")]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2, done.output
    assert not (place / "out").exists()
    return done.output


def test_the_same_party_twice(place: Path) -> None:
    shutil.copy(place / "north.toml", place / "again.toml")
    files = ["--local", str(place / "north.toml"), "--local", str(place / "again.toml")]
    done = CliRunner().invoke(app, ["deploy", "render", *files, "-o", str(place / "out")])
    assert done.exit_code == 2
    assert "stands in two files" in done.output


def test_what_comes_next_is_printed(place: Path) -> None:
    files = [part for name in FILES for part in ("--local", str(place / f"{name}.toml"))]
    done = CliRunner().invoke(app, ["deploy", "render", *files, "-o", str(place / "out")])
    assert done.exit_code == 0
    assert "systemctl daemon-reload && systemctl enable --now sealtune-coordinator" in done.output
    key = "~/.local/share/sealtune/simulated-tee.key"
    for user, group, state in (
        ("sealtune-server", "sealtune-server-net", "server"),
        ("sealtune-north", "sealtune-north-net", "site-north"),
    ):
        kept = f"/var/lib/sealtune/{state}/sealtune/simulated-tee.key"
        assert f"  install -D -m 600 -o {user} -g {group} {key} {kept}\n" in done.output
    unit = options(place / "out" / "systemd" / "sealtune-site-north.service")
    assert "XDG_DATA_HOME=%S/sealtune/site-north" in unit["Environment"][0]
