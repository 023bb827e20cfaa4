"""The commands of docs/deploy.md, followed literally by somebody who has nothing yet.

With a tiny model and a few rows in place of those that the page fetches, on a host of its own, so
that its loopback addresses are nobody else's. A block's first line says where it is to be run:
```` ```sh ```` in the folder of all machines, ```` ```sh charity ```` on that machine; ``starts``
after it: in a terminal of its own, which is waited for; ``serves``: in one that is left open.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealtune.demo.hosts import Host, Hosts
from tests.deploy.setting import needs_hosts
from tests.sample_job import write_texts

GUIDE = Path(__file__).parents[2] / "docs" / "deploy.md"
MACHINES = ("charity", "county", "university", "coordinator", "server", "accelerator")
LEFT_OUT = {"install", "fetch", "later"}  # another machine's, the network's, and only if need be
_BLOCK = re.compile(r"^```sh(?: ([a-z ]+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Commands to copy."""

    where: str
    manner: str
    commands: str


def blocks(text: str) -> list[Block]:
    found = []
    for words, commands in _BLOCK.findall(text):
        where, _, manner = words.partition(" ")
        found.append(Block(where, manner, commands))
    return found


def test_the_page_is_understood() -> None:
    found = blocks(GUIDE.read_text())
    assert {block.where for block in found} == {"", *MACHINES, *LEFT_OUT}
    assert {block.manner for block in found} == {"", "starts", "serves"}
    assert len(found) > 15


@dataclass
class Newcomer:
    """Somebody at a machine."""

    host: Host
    open: list[subprocess.Popen[bytes]]

    def follow(self, block: Block) -> None:
        """Copy a block into a terminal."""
        if not block.manner:
            self.wait()
        folder = self.host.folder / block.where
        command = ["bash", "-euo", "pipefail", "-c", block.commands]
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        log = self.host.folder / f"{block.where or 'all'}.log"
        with log.open("ab") as out:
            process = self.host.start(
                command, env={"PATH": path}, cwd=folder, stdout=out, stderr=subprocess.STDOUT
            )
        if block.manner == "serves":
            return
        if block.manner == "starts":
            self.open.append(process)
        else:
            assert process.wait(280) == 0, f"{block.commands}\n{log.read_text()[-3000:]}"

    def wait(self) -> None:
        """Wait until all that was started has ended."""
        logs = sorted(self.host.folder.glob("*.log"))
        for process in self.open:
            code = process.wait(280)
            assert code == 0, "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)
        self.open.clear()


@pytest.fixture
def newcomer(tmp_path: Path, llama: Path) -> Iterator[Newcomer]:
    with Hosts(tmp_path / "hosts") as hosts:
        host = hosts.add("newcomer")
        shutil.copytree(llama, host.folder / "model")
        (host.folder / "icd10").mkdir()
        for number, (part, rows) in enumerate({"train": 60 * 24, "test": 60 * 8}.items()):
            write_texts(host.folder / "icd10" / f"{part}.jsonl", rows, number)
        yield Newcomer(host, [])


@needs_hosts
@pytest.mark.slow
def test_a_newcomer_gets_to_a_finished_job(newcomer: Newcomer) -> None:
    for block in blocks(GUIDE.read_text()):
        if block.where not in LEFT_OUT:
            newcomer.follow(block)
    newcomer.wait()
    adapters = {
        (newcomer.host.folder / site / site / "sites" / site / "adapter/adapter_model.safetensors")
        for site in MACHINES[:3]
    }
    assert len({path.read_bytes() for path in adapters}) == 1
    summary = json.loads((newcomer.host.folder / "server/server/summary.json").read_text())
    assert summary["job"]["name"] == "icd10"
