"""Two results that can be subtracted: the second is refused, whoever asks, and whatever was done to
the site's log of jobs is noticed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from sealtune.attest.platforms.base import MACHINE
from sealtune.cli.main import app
from sealtune.cli.signing import propose
from sealtune.errors import DifferenceReleaseError, StorageError
from sealtune.job.dsse import Envelope
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Manifest, Participant, job_id, manifest_bytes
from sealtune.party import job_log
from sealtune.party.difference import differing, may_differ_by, training_of
from sealtune.party.history import History
from sealtune.party.job_log import JobLog, own_log
from sealtune.party.own_files import own_files
from sealtune.plan.resolve import resolve
from tests.enclave.flow import make_job
from tests.party.test_admit import Signed, made, signed

__all__ = ["made", "signed"]  # fixtures: a job of each method that two organisations have signed
ORGS = ("north", "south", "west", "east")
KEYS = {org: Ed25519PrivateKey.from_private_bytes(bytes([i] * 32)) for i, org in enumerate(ORGS, 1)}
SECRET = b"s" * 32
Change = dict[str, Any]


@pytest.fixture(scope="module")
def whole(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A job of four organisations, at least two in each aggregate, all sites needed."""
    job = make_job(tmp_path_factory.mktemp("job"), llama, sites={"names": ORGS, "alpha": 5.0})
    people = [
        Participant(org=org, key=public_hex(key.public_key()), sites=(org,))
        for org, key in KEYS.items()
    ]
    return propose(resolve(job), people).model_copy(update={"min_cohort": 2})


def of(manifest: Manifest, *orgs: str, **changes: Any) -> Manifest:
    """The same job with these organisations; ``changes`` of settings, by section."""
    settings = manifest.settings.model_copy(
        update={
            "sites": manifest.settings.sites.model_copy(update={"names": orgs}),
            **{
                section: getattr(manifest.settings, section).model_copy(update=keys)
                for section, keys in changes.items()
            },
        }
    )
    return manifest.model_copy(
        update={
            "settings": settings,
            "data": {org: manifest.data[org] for org in orgs},
            "participants": tuple(p for p in manifest.participants if p.org in orgs),
        }
    )


def with_data(manifest: Manifest, *orgs: str) -> Manifest:
    """New rows at some organisations."""
    fresh = {
        org: manifest.data[org].model_copy(update={"train": f"{org:0<64}".encode().hex()[:64]})
        for org in orgs
    }
    return manifest.model_copy(update={"data": {**manifest.data, **fresh}})


def log(folder: Path, manifest: Manifest, org: str = "north", secret: bytes = SECRET) -> Any:
    identity = job_id(manifest_bytes(manifest))
    key = public_hex(KEYS[org].public_key())
    return JobLog(folder / "jobs.json", secret, manifest, identity, key)


def finish(folder: Path, manifest: Manifest) -> None:
    """The site takes part to the end."""
    jobs = log(folder, manifest)
    for number in range(1, manifest.settings.job.rounds + 1):
        jobs.take_part(number)
    jobs.mark_released()


# ---- which two jobs go together -----------------------------------------------------------------

OTHERS: dict[str, Callable[[Manifest], Manifest]] = {
    "n less 1": lambda m: of(m, "north", "south", "west"),
    "n less 1, another rate, seed and number of rounds": lambda m: of(
        m, "north", "south", "west",
        train={"learning_rate": 0.00100001}, job={"seed": 77, "rounds": 3},
    ),
    "n less 1, another rank": lambda m: of(
        m, "north", "south", "west",
        tuning={"lora": m.settings.tuning.lora.model_copy(update={"rank": 5})},
    ),
    "n less 1, another template": lambda m: all_new(
        of(m, "north", "south", "west", data={"template": "{text}."})
    ),
    "n less 1, labels in another order": lambda m: all_new(
        of(m, "north", "south", "west").model_copy(update={"labels": m.labels[::-1]})
    ),
    "n less 1, a label more": lambda m: all_new(
        of(m, "north", "south", "west").model_copy(update={"labels": (*m.labels, "other")})
    ),
    "n less 1, sums only": lambda m: of(
        m, "north", "south", "west", job={"trust": "secure-aggregation"}
    ).model_copy(update={"method": "federated-lora-secagg"}),
    "n less 1, all but one row drawn": lambda m: drawn(of(m, "north", "south", "west")),
    "new rows at one": lambda m: with_data(m, "west"),
    "new rows at one, another template": lambda m: fewer_rows(
        all_new(of(m, *ORGS, data={"template": "{text}."})), "west"
    ),
    "a new key, the same data": lambda m: renamed(of(m, "north", "south", "west")),
    "one organisation's new key and rows": lambda m: with_data(rekeyed(m, "west"), "west"),
}  # fmt: skip


def all_new(manifest: Manifest) -> Manifest:
    """As many rows everywhere, under other digests: they were rendered anew."""
    return with_data(manifest, *manifest.settings.sites.names)


def drawn(manifest: Manifest) -> Manifest:
    """A row less at each site, because of ``data.max_train_rows``."""
    names = manifest.settings.sites.names
    fewer = fewer_rows(manifest, *names)
    rows = sum(data.train_rows for data in fewer.data.values())
    return all_new(of(fewer, *names, data={"max_train_rows": rows}))


def fewer_rows(manifest: Manifest, *orgs: str) -> Manifest:
    """A row less at some organisations."""
    fewer = {
        org: data.model_copy(update={"train_rows": data.train_rows - (org in orgs)})
        for org, data in manifest.data.items()
    }
    return manifest.model_copy(update={"data": fewer})


def renamed(manifest: Manifest) -> Manifest:
    people = [p.model_copy(update={"org": f"{p.org}-2"}) for p in manifest.participants]
    return manifest.model_copy(update={"participants": tuple(people)})


def rekeyed(manifest: Manifest, org: str) -> Manifest:
    people = [
        p.model_copy(update={"key": "ab" * 32}) if p.org == org else p
        for p in manifest.participants
    ]
    return manifest.model_copy(update={"participants": tuple(people)})


@pytest.mark.parametrize("what", list(OTHERS))
@pytest.mark.parametrize("first", ["whole", "other"])
def test_a_result_that_could_be_subtracted(
    whole: Manifest, tmp_path: Path, what: str, first: str
) -> None:
    """n against n - 1, and n - 1 against n."""
    other = OTHERS[what](whole)
    before, after = (whole, other) if first == "whole" else (other, whole)
    finish(tmp_path, before)
    with pytest.raises(DifferenceReleaseError) as refused:
        log(tmp_path, after).check()
    assert "differ by the part of west" in refused.value.message or "east" in refused.value.message
    with pytest.raises(DifferenceReleaseError):  # also where it was admitted before the other ran
        log(tmp_path, after).take_part(1)


def test_what_a_user_needs_goes_on(whole: Manifest, tmp_path: Path) -> None:
    finish(tmp_path, whole)
    log(tmp_path, whole).check()
    finish(tmp_path, whole)  # the same job once more
    for other in (
        of(whole, *ORGS, train={"learning_rate": 0.5}),  # the same people and data
        of(whole, "north", "south"),  # two organisations less
        with_data(whole, "south", "west"),
        of(whole, "north", "south", "west").model_copy(
            update={"model": whole.model.model_copy(update={"digest": "12" * 32})}
        ),
    ):
        log(tmp_path, other).check()


def test_a_job_that_broke_off_is_not_in_the_way(whole: Manifest, tmp_path: Path) -> None:
    """Its result never was, so nobody can have it."""
    log(tmp_path, whole).take_part(1)
    assert whole.settings.job.rounds > 1
    finish(tmp_path, of(whole, "north", "south", "west"))
    with pytest.raises(DifferenceReleaseError):  # nor go on, as if it had begun alone
        log(tmp_path, whole).take_part(2)
    with pytest.raises(DifferenceReleaseError):  # it may not be finished beside the other
        log(tmp_path, with_data(whole, "east")).check()


def test_one_organisation_with_three_sites_is_one(whole: Manifest) -> None:
    """Counted by organisations: three sites that go are one part less."""
    clinics = Participant(org="clinics", key="cd" * 32, sites=("south", "west", "east"))
    grouped = whole.model_copy(update={"participants": (whole.participants[0], clinics)})
    alone = of(whole, "north")
    odd = differing(training_of(grouped), training_of(alone))
    assert len(odd) == 3
    assert may_differ_by(odd) == 1


def test_sites_that_may_be_away_count_as_different(whole: Manifest, tmp_path: Path) -> None:
    spare = of(whole, *ORGS, network={"min_sites": 3})
    finish(tmp_path, spare)
    with pytest.raises(DifferenceReleaseError, match=r"the part of a site that is away"):
        log(tmp_path, of(spare, *ORGS, train={"learning_rate": 0.5})).check()
    with pytest.raises(DifferenceReleaseError, match=r"in this very job"):
        log(tmp_path, spare).take_part(1)  # from the start again, or from an older checkpoint
    with pytest.raises(DifferenceReleaseError, match=r"in this very job"):
        log(tmp_path, spare).check(anew=True)  # before a run folder is emptied for it
    log(tmp_path, spare).check()  # it may be resumed: a site can have missed the end


def test_who_is_shown_may_agree(whole: Manifest, tmp_path: Path) -> None:
    """The organisation that joins has signed; one that left has not."""
    small = of(whole, "north", "south", "west")
    agreed = {"privacy": {"insecure_difference_releases": True}}
    for folder in ("grows", "shrinks"):
        (tmp_path / folder).mkdir()
    finish(tmp_path / "grows", small)
    log(tmp_path / "grows", of(whole, *ORGS, **agreed)).check()
    finish(tmp_path / "shrinks", whole)
    with pytest.raises(DifferenceReleaseError, match="the part of east"):
        log(tmp_path / "shrinks", of(whole, "north", "south", "west", **agreed)).check()


# ---- the file -----------------------------------------------------------------------------------


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"released":true', b'"released":false'))


def forget(path: Path) -> None:
    """The last job is taken out."""
    mac, _, content = path.read_bytes().partition(b"\n")
    jobs = json.loads(content)
    jobs["jobs"] = jobs["jobs"][:-1]
    path.write_bytes(mac + b"\n" + json.dumps(jobs, separators=(",", ":")).encode())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swell(path: Path) -> None:
    path.write_bytes(b"0" * (job_log.MAX_BYTES + 1))


@pytest.mark.parametrize("spoil", [flip, forget, cut, empty, swell])
def test_a_spoilt_log_is_refused(
    whole: Manifest, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    finish(tmp_path, whole)
    spoil(tmp_path / "jobs.json")
    kept = (tmp_path / "jobs.json").read_bytes()
    for attempt in (log(tmp_path, whole).check, log(tmp_path, whole).mark_released):
        with pytest.raises(StorageError, match="the log of this site's jobs"):
            attempt()
    assert (tmp_path / "jobs.json").read_bytes() == kept


def test_a_log_of_somebody_else_is_refused(whole: Manifest, tmp_path: Path) -> None:
    """Another organisation's on the same machine, or the same one's of another machine."""
    finish(tmp_path, whole)
    for stranger in (log(tmp_path, whole, org="south"), log(tmp_path, whole, secret=b"t" * 32)):
        with pytest.raises(StorageError, match="is another's"):
            stranger.check()


def test_jobs_of_both_methods_on_one_machine(whole: Manifest, tmp_path: Path) -> None:
    """One log is kept under the enclave's key, the other under the organisation's."""
    split = of(whole, *ORGS, job={"method": "split"})
    split = split.model_copy(
        update={"method": "split", "appraisal": {"server": whole.appraisal["server"]}}
    )
    for manifest in (whole, split, whole):
        files = own_files(manifest, "north", tmp_path, KEYS["north"], MACHINE)
        jobs = own_log(manifest, "00" * 48, files)
        jobs.check()
        jobs.take_part(1)


def test_a_full_log_forgets_nothing(
    whole: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "MAX_JOBS", 1)
    finish(tmp_path, whole)
    with pytest.raises(StorageError, match="holds 1 jobs"):
        log(tmp_path, of(whole, *ORGS, train={"learning_rate": 0.5})).take_part(1)
    log(tmp_path, whole).take_part(1)


# ---- where it is decided ------------------------------------------------------------------------


def test_commands_and_parties_say_the_same(
    signed: Signed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A site that took part in the job with other rows of south's is asked for it again."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(signed.folder)
    from sealtune.launch.parties import admit_party

    before = signed.payload()
    content = json.loads(json.dumps(before))
    content["data"]["south"]["train"] = "ee" * 32
    signed.rewrite(content)
    other = Envelope.read(signed.manifest)
    signed.rewrite(before)
    north = admit_party(signed.party("north"))
    earlier = JobLog(
        north.jobs.path, b"", Manifest.model_validate_json(other.payload), "0" * 96, "00" * 32
    )
    earlier._file = north.jobs._file
    earlier.take_part(earlier._manifest.settings.job.rounds)
    keys = [w for s in ("north", "south") for w in ("--key", f"{s}.key")]
    shutil.copytree(signed.folder / "run", signed.folder / "runs" / "tiny")
    said = []
    for command in (
        ("job", "verify", f"run/{signed.manifest.name}", "--local", "north.json"),
        (
            "run", "job.toml", "--force", "--manifest", f"run/{signed.manifest.name}",
            *(keys if signed.method == "split" else []),
        ),
    ):  # fmt: skip
        local = signed.party("north", key=signed.folder / "north.key")
        Path("north.json").write_text(local.model_dump_json())
        result = CliRunner().invoke(app, list(command), env={"COLUMNS": "700"})
        # the site's table on stdout has all that is in the way, here the absent network, too
        assert result.exit_code == 10 or (command[0] == "site" and result.exit_code), command
        lines = (result.stdout + result.stderr).splitlines()
        said.append(next(x for x in lines if "differ by the part of" in x))
    of_site, of_run = (line[line.index("job ") :].split() for line in said)
    assert of_site == of_run
    assert (signed.folder / "runs" / "tiny" / signed.manifest.name).exists()  # not removed
    admit_party(signed.party("south"))  # which took part in nothing


def test_looking_leaves_no_trace(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    from sealtune.launch.parties import admit_party

    monkeypatch.setenv("XDG_STATE_HOME", str(signed.folder / "state"))
    assert not admit_party(signed.party("north")).jobs.path.exists()
    assert not (signed.folder / "state").exists()


def test_who_signs_is_told_what_the_site_would_say(
    signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`job verify` and `job sign` look into the site's own files, and change nothing."""
    from sealtune.launch.parties import admit_party

    jobs = signed.folder / "jobs"
    local = signed.party("north", history=jobs, key=signed.folder / "north.key")
    (signed.folder / "north.json").write_text(local.model_dump_json())

    def says(command: str = "verify") -> tuple[int, str]:
        words = [command, str(signed.manifest), "--local", str(signed.folder / "north.json")]
        result = CliRunner().invoke(app, ["job", *words], env={"COLUMNS": "700"})
        return result.exit_code, result.output + result.stderr

    code, said = says()
    assert (code, "none is in the way" in said) == (0, True), said
    assert not jobs.exists()
    north = admit_party(local)
    assert north.continuity is not None
    history = History(b"k" * 32, bytes.fromhex(north.job_id))
    history.extend([bytes(32)] * 3)
    north.continuity.follow(history.stated().fields)
    kept = {path: path.read_bytes() for path in jobs.iterdir()}
    code, said = says()
    assert (code, "got beyond round 2; it can go on, not begin anew" in said) == (0, True), said
    assert {path: path.read_bytes() for path in jobs.iterdir()} == kept
    # Attack: the host has altered what the site has seen
    (seen,) = jobs.glob("*-seen.json")
    seen.write_bytes(seen.read_bytes().replace(b":2", b":1"))
    for command in ("verify", "sign"):
        code, said = says(command)
        assert (code, "is not as this site wrote it" in said) == (9, True), said
    seen.unlink()
    content = signed.payload()
    content["data"]["south"]["train"] = "ee" * 32
    north.jobs.take_part(north.manifest.rounds)
    signed.rewrite(content)
    code, said = says()
    assert (code, "differ by the part of south alone" in said) == (10, True), said


def test_a_job_that_this_machine_has_seen_is_not_begun_anew(
    signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(signed.folder / "state"))
    monkeypatch.chdir(signed.folder)
    from sealtune.launch.parties import admit_party

    north = admit_party(signed.party("north"))
    assert north.continuity is not None
    history = History(b"k" * 32, bytes.fromhex(north.job_id))
    history.extend([bytes(32)] * 3)
    north.continuity.follow(history.stated().fields)
    keys = [w for s in ("north", "south") for w in ("--key", f"{s}.key")]
    words = ["run", "job.toml", "--manifest", f"run/{signed.manifest.name}"]
    words += keys if signed.method == "split" else []
    result = CliRunner().invoke(app, words, env={"COLUMNS": "700"})
    assert result.exit_code == 6, result.output + result.stderr
    assert "the server enclave begins the job, and this site has seen" in result.stderr
    assert not (signed.folder / "runs").exists()
