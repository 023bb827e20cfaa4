"""``sealtune demo-hosts``: the three hospitals of ``make demo``, each on a host of its own.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sealtune.demo.consortium import Consortium
    from sealtune.demo.party import Party, Said
    from sealtune.launch.progress import Progress

    Inbox = SimpleQueue[tuple[str, Said]]

_EXAMPLE = Path("examples/icd10.toml")
_DATA, _MODEL = Path("demo/data"), Path("demo/model")
_FAR = "county"  # the hospital behind a slow link
_DELAY_MS, _MBIT = 25.0, 20.0  # of that link, each way
_ROUNDS, _STEPS = 3, 8
_TICK = 0.25  # seconds between two looks at what was said


def demo_hosts(
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the hosts; what is there is replaced.")
    ] = Path("runs/icd10-hosts"),
) -> None:
    """Run the demo's job between six hosts, which are network namespaces on this machine.

    Three hospitals (one behind a link of 50 ms and 20 Mbit/s, with its own accelerator), a
    coordinator, a server and an accelerator, each with an address and files of its own. They make
    cards, build, compare and sign the manifest and run the job, with the commands of
    docs/deploy.md. Then it is looked up what each host has, and what went over the coordinator's
    wire.

    Needs root and `ip`, and the demo's model and data: `sudo make demo-hosts` sees to both.
    """
    from rich.console import Console

    from sealtune.demo.consortium import COORDINATOR, Consortium, Site
    from sealtune.demo.dealt import deal_out, job_text
    from sealtune.demo.hosts import Hosts, missing
    from sealtune.errors import FederationError, StorageError

    console = Console(highlight=False)
    if absent := [place for place in (_EXAMPLE, _DATA, _MODEL) if not place.exists()]:
        raise StorageError(
            f"there is no {absent[0]} here",
            hint="`sudo make demo-hosts`, in a copy of sealtune's repository, sees to it",
        )
    if reason := missing():
        raise FederationError(f"cannot make hosts here: {reason}")
    say = _Clock(console)
    folder = out.resolve()
    _clear(folder)
    sites = {
        name: Site(files["train"], files["test"], _DELAY_MS, _MBIT, own_accelerator=True)
        if name == _FAR
        else Site(files["train"], files["test"])
        for name, files in deal_out(_EXAMPLE, folder / "dealt").items()
    }
    job = job_text(_EXAMPLE, name="icd10-hosts", rounds=_ROUNDS, steps=_STEPS)
    with Hosts(folder / "hosts", hidden=[_DATA, folder / "dealt"]) as hosts:
        group = Consortium(hosts, job, sites, _MODEL.resolve())
        say(f"{len(list(hosts))} hosts, each with its own address and files")
        say("each party makes its keys and its card on its own host; no row and no key leaves it")
        group.describe()
        say("the coordinator builds the manifest of the cards")
        group.build()
        say("each hospital compares it with its own data, code and model, and signs")
        group.sign()
        group.merge()
        say("all signatures are joined; each host has the manifest, and starts its command")
        with hosts[COORDINATOR].capture(folder / "coordinator.pcap"):
            _work(group, console)
        say("all parties have ended; looking through each host's files, and what was on the wire")
        _show(group, folder / "coordinator.pcap", console)
    say(f"everything is in {out}; docs/deploy.md does the same by hand")


class _Clock:
    """Says what is done, and when."""

    def __init__(self, console: Console) -> None:
        self._console, self._start = console, time.monotonic()

    def __call__(self, text: str) -> None:
        seconds = f"{time.monotonic() - self._start:.0f} s".rjust(11)
        self._console.print(f"{seconds}  {text}", markup=False, soft_wrap=True)


def _clear(folder: Path) -> None:
    """Remove an earlier demo; anything else is left as it is."""
    from sealtune.errors import StorageError

    if folder.exists() and any(folder.iterdir()) and not (folder / "hosts").is_dir():
        raise StorageError(f"{folder} is no folder of this demo", hint="choose another --out")
    shutil.rmtree(folder, ignore_errors=True)


def _work(group: Consortium, console: Console) -> None:
    """Run every party's command until the job is done."""
    from sealtune.demo.consortium import ACCELERATOR, COORDINATOR, SERVER
    from sealtune.launch.display import Display
    from sealtune.launch.progress import Progress

    inbox: Inbox = SimpleQueue()
    progress = Progress.begin(group.sites, _ROUNDS)
    stood: set[str] = set()
    with contextlib.ExitStack() as stack:
        parties: dict[str, Party] = {}
        for name in (COORDINATOR, SERVER, ACCELERATOR, *group.sites):

            def hear(said: Said, name: str = name) -> None:
                inbox.put((name, said))

            parties[name] = stack.enter_context(group.start(name, hear))
        helpers = [parties.pop(ACCELERATOR)]
        for own in group.start_accelerators():
            helpers.append(stack.enter_context(own))
        with Display(console, progress, "icd10 across hosts") as display:
            while any(party.process.poll() is None for party in parties.values()):
                for name, said in _taken(inbox):
                    _apply(progress, stood, name, said)
                display.update()
                for party in (*helpers, *parties.values()):
                    party.check()
        for helper in helpers:
            helper.stop()


def _taken(inbox: Inbox) -> Iterator[tuple[str, Said]]:
    with contextlib.suppress(Empty):
        yield inbox.get(timeout=_TICK)
        while True:
            yield inbox.get_nowait()


def _apply(progress: Progress, stood: set[str], name: str, said: Said) -> None:
    from sealtune.job.event_log import parse

    if said["event"] == "ready" and name not in stood:  # each of its programs says so, too
        stood.add(name)
        progress.notices.append(f"{name} is ready")
    event = parse(json.dumps(said).encode())
    if event is not None:
        progress.apply(event.model_copy(update={"role": str(said.get("role", ""))}))


def _show(group: Consortium, wire: Path, console: Console) -> None:
    """The last page: what each host has, what it sent, and what it has of others' texts."""
    from rich.table import Table

    from sealtune.demo.consortium import SERVER
    from sealtune.demo.seen import count, look, texts_of
    from sealtune.job.units import size

    title = f"What each host has ({_FAR} is behind {_MBIT:.0f} Mbit/s)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("host", "address", "delay", "sent", "received", "private", "others' texts"):
        table.add_column(column, no_wrap=True)
    for one in look(group):
        table.add_row(
            one.host.name,
            one.host.address,
            f"{2 * _DELAY_MS:.0f} ms" if one.host.name == _FAR else "none",
            size(one.traffic.sent),
            size(one.traffic.received),
            one.private,
            f"{one.found} of {one.of:,}",
        )
    console.print(table)
    every = set().union(*(texts_of(group.folder(site)) for site in group.sites))
    on_wire = count(every, [wire.read_bytes()])
    lines = [
        f"on the coordinator's wire  {on_wire} of {len(every):,} texts, and TLS ({wire})",
        f"rounds and losses          sealtune report {group.folder(SERVER) / SERVER}",
    ]
    for site in group.sites:
        adapter = group.folder(site) / site / "sites" / site / "adapter"
        lines.append(f"adapter of {site}".ljust(27) + str(adapter))
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
