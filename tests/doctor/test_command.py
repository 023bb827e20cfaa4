"""``sealtune doctor`` as people and programs meet it, and where packages are missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sealtune.cli.doctor import as_object, show
from sealtune.cli.main import app
from sealtune.doctor import kvm, machine
from sealtune.doctor.examine import examine
from sealtune.doctor.roles import Colour, Role, judge
from sealtune.native import library
from tests.doctor import machines

# whoever has only these gets answers, and no traceback
_BARE = {"typer", "rich", "click", "psutil", "typing_extensions", "shellingham", "markdown_it",
         "mdurl", "pygments", "packaging", "colorama"}  # fmt: skip
_BLOCKED = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in {allowed!r} or top.startswith("_"):
            return None
        raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)
sys.meta_path.insert(0, Nothing())
sys.argv = ["doctor", *{words!r}]
import runpy
runpy.run_module("sealtune.cli.doctor", run_name="__main__")
"""


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["doctor", "--fast", *words], env={"COLUMNS": "200"})


def bare(*words: str) -> subprocess.CompletedProcess[str]:
    code = _BLOCKED.format(allowed=_BARE | {"sealtune"}, words=words)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_where_only_typer_and_rich_are_installed() -> None:
    done = bare("--json")
    assert done.returncode == 0, done.stderr
    roles = json.loads(done.stdout)["roles"]
    absent = roles["site"]["needs"]["packages.site"]
    assert absent["colour"] == "red"
    assert {"torch", "cryptography", "pydantic"} <= set(absent["value"])
    assert "pip install" in absent["remedy"]
    asked = bare("--role", "server")
    assert asked.returncode == 1, asked.stderr
    assert "RED" in asked.stdout
    assert "Traceback" not in asked.stderr


def test_nothing_is_imported_that_may_be_missing() -> None:
    code = (
        "import sys, sealtune.cli.doctor, sealtune.doctor.examine\n"
        "tops = {m.partition('.')[0] for m in sys.modules}\n"
        "print(sorted(tops & {'pydantic', 'torch', 'cryptography', 'numpy', 'psutil'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_json_names_every_finding_and_role() -> None:
    done = run("--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert document["version"] == 1
    assert set(document["roles"]) == set(Role)
    for role in document["roles"].values():
        assert role["colour"] in set(Colour)
        for key, need in role["needs"].items():
            assert set(need) == {"colour", "state", "words", "remedy", "install", "value"}
            assert key == "tee" or key in document["findings"]


def test_keys_in_the_page_are_those_of_the_command() -> None:
    page = (Path(__file__).parents[2] / "docs/doctor.md").read_text()
    keys = json.loads(run("--json").output)["findings"]
    named = {re.sub(r"^packages\..*", "packages.ROLE", key) for key in keys}
    assert [key for key in named if f"`{key}`" not in page] == []


def test_exit_code_is_that_of_the_role_that_was_asked_for(tmp_path: Path) -> None:
    loose = tmp_path / "loose.key"
    loose.write_text("")
    loose.chmod(0o644)
    assert run("--key", str(loose)).exit_code == 0
    done = run("--role", "coordinator", "--key", str(loose))
    assert done.exit_code == 1
    assert "RED" in done.output
    assert "chmod 600" in done.output
    assert run("--evidence", "sgz").exit_code == 2


def test_colours_are_words_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = examine(machines.laptop(tmp_path), {}, state=tmp_path)
    show(findings, [judge(Role.SERVER, findings), judge(Role.SITE, findings)])
    said = capsys.readouterr().out
    assert "server: RED" in said
    assert "site: AMBER" in said
    assert "swap on /dev/dm-1" in said
    assert "apt install chrony" in said


def test_names_in_files_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = machines.cpuinfo("\x1b[2J\x1b[31mIntel", "fpu")
    findings = examine(machines.machine(tmp_path, hostile), {}, state=tmp_path)
    show(findings, [])
    assert "\x1b" not in capsys.readouterr().out


def test_what_is_asked_of_the_kernel_here_is_answered() -> None:
    here = machine.this_machine(fast=True)
    clock = here.clock()
    assert clock is None or clock.error >= 0
    assert here.arithmetic() is None
    assert here.run(("false",)) is None
    assert here.run(("echo", "here")) == "here\n"
    assert here.run(("no-such-program",)) is None


def test_a_child_that_hangs_under_kvm_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PATIENCE", 0.2)
    assert machine.this_machine(fast=True).run(("sleep", "60")) is None


def test_kvm_is_tried_or_said_to_be_absent() -> None:
    said = machine.this_machine(fast=True).kvm()
    assert said
    if not Path("/dev/kvm").exists():
        assert "No such file" in said
    else:
        assert said == kvm.attempt()


def test_int8_products_are_tried() -> None:
    assert machine.this_machine().arithmetic() in ("native", "int8", "float64")


def test_the_library_is_looked_for() -> None:
    assert machine.this_machine().library() == (library.instructions(), library.why_off())
    assert machine.this_machine(fast=True).library() is None


def test_an_object_for_programs_is_json(tmp_path: Path) -> None:
    findings = examine(machines.sgx_server(tmp_path), {}, state=tmp_path)
    document = as_object(findings, [judge(Role.SERVER, findings, "sgx")])
    assert json.loads(json.dumps(document)) == document | {
        "findings": json.loads(json.dumps(document["findings"])),
        "roles": json.loads(json.dumps(document["roles"])),
    }
    assert document["roles"]["server"]["needs"]["tee"]["colour"] == "green"
