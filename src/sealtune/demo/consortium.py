"""A job of several organisations, each on a host of its own: from nothing to a signed manifest.

What people do on their own machines and hand to one another is done here by ``sealtune``'s own
commands, each in its host, and by copying files from one host's folder to another's.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sealtune.demo.hosts import Hosts
from sealtune.demo.party import SEALTUNE, Party, Said
from sealtune.errors import ProcessDiedError

JOB, MANIFEST, MODEL = "job.toml", "job.manifest.json", "model"
COORDINATOR, SERVER, ACCELERATOR = "coordinator", "server", "accelerator"
SITES_PORT, SERVER_PORT, ACCELERATOR_PORT = 9092, 9093, 9100
_ACCELERATOR = f"""\
manifest = "{MANIFEST}"
role = "accelerator"
folder = "accelerator"
listen = "tcp:0.0.0.0:{ACCELERATOR_PORT}"

[model]
path = "{MODEL}"
"""
_TIMEOUT = 300.0  # seconds for one command


@dataclass(frozen=True)
class Site:
    """What lies at a site before anything begins: its rows, and how far away it is.

    Attributes:
        own_accelerator: it has one on its own host: a masked step moves far more than a round does.
    """

    train: Path
    test: Path
    delay_ms: float = 0.0
    mbit: float = 0.0
    own_accelerator: bool = False


class Consortium:
    """The hosts of a job, and what its organisations do.

    Args:
        hosts: no host in it yet.
        job: text of the job file that goes round; it names no place.
        sites: name -> what lies there.
        model: folder of the base model, which every host that needs it has for itself.
        accelerated: whether the sites use an accelerator, which gets a host.
        server_trains: whether the server needs the model.
        workers: commands of different organisations that run at the same time.
    """

    def __init__(
        self,
        hosts: Hosts,
        job: str,
        sites: Mapping[str, Site],
        model: Path,
        *,
        accelerated: bool = True,
        server_trains: bool = False,
        workers: int = 2,
    ) -> None:
        self.hosts, self.sites = hosts, tuple(sites)
        self.accelerated, self._workers = accelerated, workers
        names = [COORDINATOR, SERVER, *([ACCELERATOR] if accelerated else ())]
        for name in names:
            hosts.add(name)
        for name, site in sites.items():
            host = hosts.add(name, delay_ms=site.delay_ms, mbit=site.mbit)
            shutil.copy(site.train, host.folder / "train.jsonl")
            shutil.copy(site.test, host.folder / "test.jsonl")
        self._own = {name for name, site in sites.items() if accelerated and site.own_accelerator}
        for host in hosts:
            (host.folder / JOB).write_text(job)
        held = [COORDINATOR, *sites]  # the coordinator works out the plan
        held += [ACCELERATOR] * accelerated + [SERVER] * server_trains
        for name in held:
            shutil.copytree(model, hosts[name].folder / MODEL, copy_function=_link)
        for name in [*([ACCELERATOR] if accelerated else ()), *self._own]:
            # it has no card: nobody has to trust it
            (self.folder(name) / f"{ACCELERATOR}.toml").write_text(_ACCELERATOR)
        self._server_model = ["--model", MODEL] if server_trains else []

    def agree(self) -> Path:
        """Cards, manifest, signatures: the whole ceremony. Returns the coordinator's manifest."""
        self.describe()
        self.build()
        self.sign()
        return self.merge()

    def describe(self) -> None:
        """Every party makes its keys and its card; cards go to the coordinator."""
        self.each([*self.sites, SERVER, COORDINATOR], self._describe)
        for name in (*self.sites, SERVER):
            self.hand_over(f"{name}.card.json", name, COORDINATOR)

    def build(self, *options: str) -> None:
        """The coordinator makes the manifest of all cards, and everybody gets it."""
        cards = [f"{name}.card.json" for name in (*self.sites, SERVER, COORDINATOR)]
        to = ["--model", MODEL, "-o", MANIFEST, *options]
        self.run(COORDINATOR, "job", "build", JOB, "--cards", *cards, *to)
        self.publish()

    def sign(self) -> None:
        """Every organisation compares the manifest with what lies at its site, and signs it."""
        self.each(self.sites, self._sign)

    def merge(self) -> Path:
        """The coordinator joins the signatures, and everybody gets the result."""
        for name in self.sites:
            self.hand_over(MANIFEST, name, COORDINATOR, f"{name}.signed.json")
        signed = [f"{name}.signed.json" for name in self.sites]
        self.run(COORDINATOR, "job", "merge", *signed, "-o", MANIFEST)
        self.publish()
        return self.folder(COORDINATOR) / MANIFEST

    def publish(self) -> None:
        """Give everybody the coordinator's manifest."""
        for host in self.hosts:
            if host.name != COORDINATOR:
                self.hand_over(MANIFEST, COORDINATOR, host.name)

    def hand_over(self, file: str, sender: str, receiver: str, name: str = "") -> None:
        """Copy a file from one host to another, as people do by mail."""
        shutil.copy(self.folder(sender) / file, self.folder(receiver) / (name or file))

    def run(self, name: str, *arguments: str) -> str:
        """Run a command of ``sealtune``'s on a host; returns what it prints.

        Raises:
            ProcessDiedError: it failed.
        """
        done = self.hosts[name].run([SEALTUNE, *arguments], timeout=_TIMEOUT)
        if done.returncode:
            raise ProcessDiedError(
                f"`sealtune {' '.join(arguments)}` on {name} ended with code {done.returncode}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done.stdout

    def each(self, names: Sequence[str], do: Callable[[str], None]) -> None:
        """Let several organisations do the same at the same time."""
        with ThreadPoolExecutor(self._workers) as pool:
            list(pool.map(do, names))

    def start(self, name: str, hear: Callable[[Said], None] = lambda _: None) -> Party:
        """Start the command of the party on a host."""
        role = "site" if name in self.sites else name
        return Party(self.hosts[name], [role, "--local", f"{name}.toml"], hear)

    def start_accelerators(self) -> list[Party]:
        """Start those that sites have on their own hosts."""
        command = [ACCELERATOR, "--local", f"{ACCELERATOR}.toml"]
        return [Party(self.hosts[name], command) for name in sorted(self._own)]

    def folder(self, name: str) -> Path:
        """The folder of a host."""
        return self.hosts[name].folder

    def _describe(self, name: str) -> None:
        local = ["--local-out", f"{name}.toml"]
        if name == SERVER:
            self.run(name, "server", "describe", JOB, *self._server_model, *local)
        elif name == COORDINATOR:
            address = self.hosts[name].address
            at = [f"{address}:{SITES_PORT}", f"{address}:{SERVER_PORT}"]
            options = ["--sites-at", at[0], "--server-at", at[1]]
            self.run(name, "coordinator", "describe", JOB, *options, *local)
        else:
            self._describe_site(name, local)

    def _describe_site(self, name: str, local: Sequence[str]) -> None:
        self.run(name, "keys", "new", name)
        data = ["--train", "train.jsonl", "--test", "test.jsonl", "--model", MODEL]
        who = ["--site", name, "--key", f"{name}.key"]
        self.run(name, "site", "describe", JOB, *who, *data, *local)
        if self.accelerated:
            host = self.hosts[name if name in self._own else ACCELERATOR]
            at = f"tcp:{host.address}:{ACCELERATOR_PORT}"
            set_key(self.folder(name) / f"{name}.toml", "accelerator", at)

    def _sign(self, name: str) -> None:
        own = ["--local", f"{name}.toml", "--card", f"{name}.card.json"]
        self.run(name, "job", "sign", MANIFEST, *own)


def set_key(file: Path, key: str, value: str) -> None:
    """Set a text of a local file, as with an editor."""
    text, count = re.subn(rf'(?m)^{key} *= *"[^"]*"', f'{key} = "{value}"', file.read_text())
    if count != 1:
        raise ValueError(f"{file} has {count} lines of {key}")
    file.write_text(text)


def _link(source: str, target: str) -> None:
    """A second name for a big file that nobody changes; a copy, on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
