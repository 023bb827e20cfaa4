"""Power cuts and dead links: each party comes back by the same command, and the job goes on.

It ends with the losses of a run on one machine that nothing disturbed.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from sealtune.demo.consortium import COORDINATOR, SERVER
from sealtune.demo.party import Party
from tests.deploy.setting import (
    SITES,
    Quick,
    end_all,
    events_of,
    losses,
    needs_hosts,
    start_all,
)

pytestmark = [needs_hosts, pytest.mark.slow, pytest.mark.timeout(900)]
KILLED = SITES[0]


def rounds(party: Party) -> list[int]:
    return [event["round"] for event in party.of("round")]


def asked(party: Party) -> int:
    """Of a site: the last round that it began to train."""
    return max((e["round"] for e in party.of("phase") if e["phase"] == "train"), default=-1)


def test_every_party_can_be_killed_and_comes_back(
    described: Quick, alone: Path, tmp_path: Path
) -> None:
    group = described
    group.begin_anew()
    state = group.folder(SERVER) / "server" / "state"
    with ExitStack() as stack:

        def again(name: str) -> Party:
            parties[name].kill()
            parties[name] = stack.enter_context(group.start(name))
            return parties[name]

        parties = start_all(group, stack)
        parties[KILLED].until(lambda site: asked(site) == 1)
        group.hosts[SERVER].cut()  # answers come in, and cannot reach the server
        again(COORDINATOR).until_ready()  # and are lost with the coordinator
        group.hosts[SERVER].mend()
        parties[SERVER].until(lambda server: 1 in rounds(server))
        shutil.copytree(state, tmp_path / "old")
        first = again(SERVER).until(lambda server: bool(rounds(server)))
        assert rounds(first)[0] >= 1  # from its checkpoint, not from the start
        parties[KILLED].until(lambda site: asked(site) == 2)
        again(KILLED)
        parties[SERVER].until(lambda server: 2 in rounds(server))

        # its operator tries an older state: no site follows, and no round is made of it
        parties[SERVER].kill()
        newest = state.rename(tmp_path / "newest")
        shutil.copytree(tmp_path / "old", state)
        older = again(SERVER).until(lambda server: bool(server.of("error")))
        assert older.of("error")[0]["error"] == "RollbackError"
        assert not rounds(older)
        older.kill()
        shutil.rmtree(state)
        shutil.copytree(newest, state)
        again(COORDINATOR).until_ready()
        again(SERVER)
        codes = end_all(parties)
    assert set(codes.values()) == {0}, codes
    told = losses(events_of(group.folder(SERVER) / "server" / "metrics.jsonl"))
    assert told == losses(events_of(alone / "metrics.jsonl"))
    wanted = (alone / "adapter" / "adapter_model.safetensors").read_bytes()
    for site in SITES:
        own = group.folder(site) / site / "sites" / site / "adapter"
        assert (own / "adapter_model.safetensors").read_bytes() == wanted
