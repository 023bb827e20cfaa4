"""The commands of docs/deploy.md, followed literally by somebody who has nothing yet.

With a tiny model and a few rows in place of those that the page fetches, on a host of its own, so
that its loopback addresses are nobody else's. A block's first line says where it is to be run:
```` ```sh ```` in the folder of all machines, ```` ```sh charity ```` on that machine. Behind it,
``starts``: in a terminal of its own, until it says that it is ready; ``serves``: the same, and it
does not end by itself; ``after``: when all that was started has ended.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sealtune.demo.hosts import Host, Hosts
from tests.deploy.setting import needs_hosts
from tests.sample_job import write_texts

GUIDE = Path(__file__).parents[2] / "docs" / "deploy.md"
MACHINES = ("charity", "county", "university", "coordinator", "server", "accelerator")
LEFT_OUT = {"install", "fetch"}  # another machine's, and the network's
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
    assert {block.manner for block in found} == {"", "starts", "serves", "after"}
    assert len(found) > 15
    for block in found:
        if block.where not in LEFT_OUT:  # readers do not see where a block belongs
            folder = f"{block.where}/" if block.where else "the folder of all"
            assert block.commands.startswith(f"# in {folder}\n")


@dataclass
class Newcomer:
    """Somebody at a machine."""

    host: Host
    open: list[subprocess.Popen[bytes]] = field(default_factory=list)
    count: int = 0

    def follow(self, block: Block) -> None:
        """Copy a block into a terminal."""
        if block.manner == "after":
            self.wait()
        command = ["bash", "-euo", "pipefail", "-c", block.commands]
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        self.count += 1
        log = self.host.folder / f"terminal-{self.count}.log"
        with log.open("wb") as out:
            process = self.host.start(
                command,
                env={"PATH": path},
                cwd=self.host.folder / block.where,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        if block.manner in ("starts", "serves"):
            for _ in range(2400):
                if b'{"event":"ready"' in log.read_bytes() or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert b'{"event":"ready"' in log.read_bytes(), log.read_text()[-3000:]
            self.open += [process] if block.manner == "starts" else []
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
        yield Newcomer(host)


@needs_hosts
@pytest.mark.slow
@pytest.mark.timeout(900)
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
    assert summary["name"] == "icd10"
