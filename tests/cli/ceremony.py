"""Organisations on machines of their own, as folders: each describes itself, and all sign one job.

parties = Parties.make(folder)      # model, data, keys, cards and local files
parties.build()                     # the coordinator's manifest, and a copy for each site
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from click.testing import Result
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.job.dsse import Envelope, Signature
from sealtune.job.key_files import load_private
from sealtune.job.proposal import sign
from tests.model.tiny import make_llama
from tests.sample_job import write_texts

MANIFEST = "job.manifest.json"
JOB = """
[job]
name = "tiny"
rounds = 2
[data]
max_tokens = 24
[sites]
names = [{names}]
[tuning]
rank = 4
"""


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})


def ok(*words: str | Path) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.stderr or result.output
    return result.stdout


def refused(*words: str | Path, code: int = 10) -> str:
    """What is said of it, on one line."""
    result = run(*words)
    assert result.exit_code == code, result.output + result.stderr
    return " ".join(result.stderr.split())


def use_folders(patch: pytest.MonkeyPatch, base: Path) -> None:
    """Keys of simulated evidence and caches lie below ``base``."""
    patch.setenv("XDG_DATA_HOME", str(base / "data-home"))
    patch.setenv("SEALTUNE_CACHE", str(base / "cache"))


class Parties:
    """Folders of a job's parties; the coordinator's is ``hub``.

    Args:
        extra: more lines of the job file.
        site_options: of each ``site describe``.
    """

    def __init__(self, folder: Path, extra: str = "", site_options: Sequence[str] = ()) -> None:
        self.folder = folder
        self.hub = folder / "hub"
        self.extra = extra
        self.site_options = site_options

    @classmethod
    def make(
        cls, folder: Path, *sites: str, extra: str = "", site_options: Sequence[str] = ()
    ) -> Parties:
        """All of them, up to their cards, which lie at the coordinator, too."""
        parties = cls(folder, extra, site_options)
        parties.hub.mkdir(parents=True)
        make_llama(parties.hub / "model")
        parties.write_job(*sites, extra=extra)
        for number, site in enumerate(sites):
            parties.add(site, number)
        ok("coordinator", "describe", parties.job, "--sites-at", "hub.test:9092",
           "--server-at", "192.0.2.1:9093", "-o", parties.card("coordinator"),
           "--local-out", parties.hub / "coordinator.toml")  # fmt: skip
        ok("server", "describe", parties.job, "-o", parties.card("server"),
           "--local-out", parties.hub / "server.toml")  # fmt: skip
        return parties

    @property
    def job(self) -> Path:
        return self.hub / "job.toml"

    @property
    def manifest(self) -> Path:
        return self.hub / MANIFEST

    def write_job(self, *sites: str, extra: str = "") -> None:
        names = ", ".join(json.dumps(site) for site in sites)
        self.job.write_text(JOB.format(names=names) + extra)

    def card(self, name: str) -> Path:
        """A card at the coordinator."""
        return self.hub / f"{name}.card.json"

    @property
    def cards(self) -> list[Path]:
        return sorted(self.hub.glob("*.card.json"))

    def add(self, site: str, number: int) -> None:
        """A site with a key, data and a card of its own."""
        home = self.folder / site
        home.mkdir()
        shutil.copytree(self.hub / "model", home / "model")
        write_texts(home / "train.jsonl", 30, number)
        write_texts(home / "test.jsonl", 12, number + 50)
        ok("keys", "new", site, "--out", home)
        self.describe(site)

    def describe(self, site: str, *more: str | Path) -> str:
        """Make a site's card, and send it to the coordinator; its local file is made once."""
        home = self.folder / site
        local = () if (home / "local.toml").exists() else ("--local-out", home / "local.toml")
        said = ok("site", "describe", self.job, "--site", site, "--key", home / f"{site}.key",
                  "--train", home / "train.jsonl", "--test", home / "test.jsonl",
                  "--model", home / "model", "-o", home / f"{site}.card.json", *local,
                  *self.site_options, *more)  # fmt: skip
        shutil.copy(home / f"{site}.card.json", self.card(site))
        return said

    def build(self, *more: str | Path) -> str:
        """The manifest at the coordinator."""
        return ok("job", "build", self.job, "--cards", *self.cards, "--model", self.hub / "model",
                  "-o", self.manifest, "--force", *more)  # fmt: skip

    def build_refused(self, *more: str | Path, code: int = 10) -> str:
        said = refused("job", "build", self.job, "--cards", *self.cards, "--model",
                       self.hub / "model", "-o", self.manifest, *more, code=code)  # fmt: skip
        assert not self.manifest.exists()
        return said

    def local(self, site: str) -> Path:
        return self.folder / site / "local.toml"

    def copy(self, site: str) -> Path:
        """The manifest as a site got it."""
        return Path(shutil.copy(self.manifest, self.folder / site / MANIFEST))

    def sign(self, *sites: str) -> None:
        """Each signs a copy, and the coordinator merges them."""
        copies = [self.copy(site) for site in sites]
        for site, copy in zip(sites, copies, strict=True):
            ok("job", "sign", copy, "--local", self.local(site))
        ok("job", "merge", *copies, "-o", self.manifest)

    def key(self, site: str) -> Path:
        return self.folder / site / f"{site}.key"


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any], *signers: Path) -> None:
    """Other contents of a card or manifest, under the signatures that it has or of ``signers``."""
    envelope = Envelope.read(file)
    content = json.loads(envelope.payload)
    change(content)
    envelope = replace(envelope, payload=rfc8785.dumps(content))
    if signers:
        envelope = replace(envelope, signatures=())
    for signer in signers:
        envelope = sign(envelope, load_private(signer))
    file.write_bytes(envelope.encode())


def signatures(file: Path) -> tuple[Signature, ...]:
    return Envelope.read(file).signatures
