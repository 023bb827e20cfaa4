"""Pad accelerators in the ceremony: their cards, who runs what, and what is refused."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sealtune.accelerator.engine import Engine
from sealtune.channel.pad_key import load_pad_key, made_pad_key
from sealtune.errors import ConfigError, KeyFileError, UnknownKeyError
from sealtune.job.card import PadAcceleratorCard, read_card
from sealtune.job.dsse import Envelope
from sealtune.job.local_file import load_local
from sealtune.job.manifest import job_id, open_manifest
from sealtune.launch.parties import admit_party, command, party_file
from sealtune.launch.ports import free_port
from sealtune.offload.second import SecondSource
from tests.cli.ceremony import Parties, ok, refused, rewrite, use_folders
from tests.pad_accelerator.pair import bare

EXTRA = '[protection]\npads = "second-accelerator"\n'
SITE_OPTIONS = ("--accelerator-operator", "alpha")


class PadParties(Parties):
    """With an organisation ``beta`` that runs the pad accelerator of both sites."""

    @property
    def beta(self) -> Path:
        return self.folder / "beta"

    def offer(self, org: str = "beta", *more: str) -> str:
        """Its card, sent to the coordinator; ``more``: other options."""
        home = self.folder / org
        sites = () if more else ("--site", "north", "--site", "south")
        local = () if (home / "pads.toml").exists() else ("--local-out", home / "pads.toml")
        if not (home / f"{org}.key").exists():
            ok("keys", "new", org, "--out", home)
        card = home / "pad-accelerator.card.json"
        said = ok("pad-accelerator", "describe", self.job, *sites, "--key", home / f"{org}.key",
                  "-o", card, "--model", self.hub / "model", *local, *more)  # fmt: skip
        shutil.copy(card, self.card(f"pads-{org}"))
        return said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PadParties]:
    folder = tmp_path_factory.mktemp("pad-cards")
    with pytest.MonkeyPatch.context() as patch:
        use_folders(patch, folder)
        parties = PadParties.make(
            folder / "hosts", "north", "south", extra=EXTRA, site_options=SITE_OPTIONS
        )
        assert isinstance(parties, PadParties)
        parties.offer()
        yield parties


@pytest.fixture
def parties(made: PadParties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PadParties:
    """A copy to spoil."""
    use_folders(monkeypatch, made.folder.parent)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made.folder, tmp_path / "hosts")
    return PadParties(tmp_path / "hosts", EXTRA, SITE_OPTIONS)


def test_a_pad_accelerator_describes_itself(parties: PadParties) -> None:
    card = read_card(parties.card("pads-beta"))
    assert isinstance(card, PadAcceleratorCard)
    assert (card.org, card.sites) == ("beta", ("north", "south"))
    key = parties.beta / "pads.hpke.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert load_pad_key(key).public_bytes.hex() == card.pad_key
    local = load_local(parties.beta / "pads.toml")
    assert (local.role, local.pad_key) == ("pad-accelerator", key)
    before = key.read_bytes()
    parties.offer()  # once more
    assert key.read_bytes() == before


def test_a_manifest_names_both_operators_and_the_key(parties: PadParties) -> None:
    said = parties.build()
    assert "pads         of beta, for north, south" in said
    manifest = open_manifest(Envelope.read(parties.manifest))
    found = {site: one.model_dump() for site, one in manifest.pad_accelerators.items()}
    key = load_pad_key(parties.beta / "pads.hpke.key").public_bytes.hex()
    wanted = {"operator": "beta", "accelerator": "alpha", "key": key, "operators": "independent"}
    assert found == {"north": wanted, "south": wanted}
    shown = " ".join(ok("job", "show", parties.manifest).split())
    assert "on the pad accelerator of beta" in shown
    assert "on the accelerator of alpha" in shown
    assert "they must not collude" in shown


def test_a_pad_accelerator_is_admitted_and_serves_its_sites(parties: PadParties) -> None:
    parties.build()
    parties.sign("north", "south")
    shutil.copy(parties.manifest, parties.beta / parties.manifest.name)
    local = load_local(parties.beta / "pads.toml")
    assert "admitted" in ok("pad-accelerator", "--local", parties.beta / "pads.toml", "--check")
    assert command(local)[-2] == "pad-accelerator"
    config = json.loads(party_file(local.folder, local.name).read_text())
    assert config["sites"] == ["north", "south"]
    assert set(config) == {"listen", "device", "backbone", "groups", "key", "job", "sites"}
    made_pad_key(parties.beta / "other.key")
    other = local.model_copy(update={"pad_key": parties.beta / "other.key"})
    with pytest.raises(UnknownKeyError, match="of no site's pad accelerator"):
        admit_party(other)
    (parties.beta / "other.key").chmod(0o644)
    with pytest.raises(KeyFileError, match="can be read by others"):
        admit_party(other)
    parties.copy("north")
    site = load_local(parties.local("north"))
    with pytest.raises(ConfigError, match="pad_accelerator: is missing"):
        admit_party(site.model_copy(update={"pad_accelerator": ""}))


def test_signers_compare_its_card(parties: PadParties) -> None:
    parties.build()
    copy = parties.copy("north")
    said = ok("job", "sign", copy, "--local", parties.local("north"))
    assert "??  not compared: pad accelerator of beta: --card with its card" in said
    card = parties.card("pads-beta")
    said = ok("job", "sign", copy, "--local", parties.local("north"), "--card", card)
    assert f"ok  {card}: as the manifest says" in said
    assert "pad accelerator of beta" not in said


def test_a_key_that_the_builder_put_in_is_found(parties: PadParties) -> None:
    """Whoever builds could name a key of its own, and listen for the real one's seeds."""
    parties.build()
    copy = parties.copy("north")
    stranger = made_pad_key(parties.folder / "stranger.key").public_bytes.hex()

    def exchange(content: dict[str, Any]) -> None:
        content["pad_accelerators"]["north"]["key"] = stranger
        content["pad_accelerators"]["south"]["key"] = stranger

    rewrite(copy, exchange)
    said = refused("job", "sign", copy, "--local", parties.local("north"), "--card",
                   parties.card("pads-beta"))  # fmt: skip
    assert "pad_accelerators.north, pad_accelerators.south" in said


def test_another_operator_of_the_accelerator_is_found_by_its_site(parties: PadParties) -> None:
    parties.build()
    copy = parties.copy("north")

    def exchange(content: dict[str, Any]) -> None:
        content["pad_accelerators"]["north"]["accelerator"] = "gamma"

    rewrite(copy, exchange)
    said = refused("job", "sign", copy, "--local", parties.local("north"))
    assert "accelerator's operator of north" in said


def test_an_operator_of_both_is_refused(parties: PadParties) -> None:
    parties.card("pads-beta").unlink()
    parties.offer("alpha")
    said = parties.build_refused()
    assert "is of alpha, who runs the accelerator of north" in said
    assert "is of alpha, who runs the accelerator of south" in said
    assert "they must not collude" in said


def test_a_sites_own_organisation_is_refused(parties: PadParties) -> None:
    parties.card("pads-beta").unlink()
    home = parties.folder / "north"
    ok("pad-accelerator", "describe", parties.job, "--site", "north", "--site", "south", "--key",
       home / "north.key", "-o", parties.card("pads-north"))  # fmt: skip
    assert "is of north's own organisation" in parties.build_refused()


def test_one_organisation_under_two_names_is_refused(parties: PadParties) -> None:
    parties.card("pads-beta").unlink()
    home = parties.folder / "north"
    ok("pad-accelerator", "describe", parties.job, "--site", "north", "--site", "south", "--key",
       home / "north.key", "--org", "gamma", "-o", parties.card("pads-gamma"))  # fmt: skip
    assert "the same key" in parties.build_refused()


def test_one_key_of_two_operators_is_refused(parties: PadParties) -> None:
    key = str(parties.beta / "pads.hpke.key")
    parties.offer("beta", "--site", "north")
    parties.offer("gamma", "--site", "south", "--pad-key", key)
    assert "has the same pad_key as" in parties.build_refused()


def test_every_site_needs_one_and_no_more(parties: PadParties) -> None:
    parties.offer("beta", "--site", "north")
    assert "site south: has no pad accelerator's card" in parties.build_refused()
    parties.offer("gamma", "--site", "north", "--site", "south")
    assert "site north: has several pad accelerators" in parties.build_refused()


def test_jobs_without_have_no_card_of_one(parties: PadParties) -> None:
    parties.write_job("north", "south")
    said = refused("pad-accelerator", "describe", parties.job, "--site", "north", "--key",
                   parties.beta / "beta.key", code=2)  # fmt: skip
    assert "such a job has no pad accelerators" in said
    assert "protection.pads asks for none" in parties.build_refused()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--accelerator-operator: is missing: whoever runs it must not run the pad accel"),
        (("--accelerator-operator", "A B"), "'A B' should be a name"),
    ],
)
def test_a_site_says_who_runs_its_accelerator(
    parties: PadParties, options: tuple[str, ...], said: str
) -> None:
    home = parties.folder / "north"
    words = ("site", "describe", parties.job, "--site", "north", "--key", home / "north.key",
             "--local", parties.local("north"), *options)  # fmt: skip
    assert said in refused(*words, code=2)
    parties.write_job("north", "south")
    assert "multiply masks themselves" in refused(*words, "--accelerator-operator", "a", code=2)


def with_places(parties: PadParties, folder: Path) -> Path:
    """The job file of one machine that has everybody's data."""
    model = f'[model]\npath = "{parties.hub / "model"}"\n[data]\n'
    tables = ""
    for part in ("train", "test"):
        files = (f'{s} = "{parties.folder / s}/{part}.jsonl"' for s in ("north", "south"))
        tables += f"{part} = {{{', '.join(files)}}}\n"
    path = folder / "job.toml"
    path.write_text(parties.job.read_text().replace("[data]\n", model + tables))
    return path


def test_no_manifest_without_cards(parties: PadParties, tmp_path: Path) -> None:
    """One machine that holds all data knows nobody else's key."""
    assert "use --cards" in refused("job", "build", with_places(parties, tmp_path), code=2)


def test_one_machine_does_not_run_what_two_operators_are_to(
    parties: PadParties, tmp_path: Path
) -> None:
    parties.build()
    parties.sign("north", "south")
    job = with_places(parties, tmp_path)
    said = refused("run", job, "--manifest", parties.manifest, "--runs", tmp_path / "runs", code=2)
    assert "accelerators that others run: not this machine" in said
    assert not (tmp_path / "runs").exists()


def test_the_plan_says_who_must_not_collude(parties: PadParties, tmp_path: Path) -> None:
    said = " ".join(ok("plan", with_places(parties, tmp_path)).split())
    assert "a pad accelerator multiplies the masks" in said
    assert "they must not collude" in said


@pytest.mark.slow
def test_it_serves_whom_its_card_promised(parties: PadParties) -> None:
    """The whole way: card, manifest, local file, command, program, and a pad for an enclave."""
    parties.build()
    parties.sign("north", "south")
    shutil.copy(parties.manifest, parties.beta / parties.manifest.name)
    file, port = parties.beta / "pads.toml", free_port()
    file.write_text(file.read_text().replace("tcp:0.0.0.0:9101", f"tcp:127.0.0.1:{port}"))
    words = [sys.executable, "-m", "sealtune.cli.main", "pad-accelerator", "--local", str(file)]
    with subprocess.Popen([*words, "--quiet"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "ready"
            envelope = Envelope.read(parties.manifest)
            manifest = open_manifest(envelope)
            plan = admit_party(load_local(file)).plan
            source = SecondSource.connect(
                f"tcp:127.0.0.1:{port}",
                plan.groups,
                key=bytes.fromhex(manifest.pad_accelerators["south"].key),
                job_id=bytes.fromhex(job_id(envelope.payload)),
                site="south",
            )
            group, engine = (
                plan.groups[0],
                Engine(Path(plan.backbone.path), [one.model_dump() for one in plan.groups]),
            )
            pad = source.take(group.name, 5, backward=False)
            r = source.streams.mask.mask(pad.key.index, 5, group.in_features)
            assert torch.equal(bare(source, pad), engine.product(group.name, r, backward=False))
            source.close()
        finally:
            process.terminate()
    assert process.returncode == 0
