"""Every bound of the job file, the manifest and the files around them, at its edge."""

from __future__ import annotations

import base64
import json
import math
import os
import stat
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import tomli_w
from pydantic import TypeAdapter, ValidationError

from sealtune.errors import (
    ConfigError,
    KeyFileError,
    MalformedManifestError,
    NotCanonicalError,
    StorageError,
)
from sealtune.job import (
    dsse,
    job_file,
    key_files,
    load,
    local,
    manifest,
    sections,
    settings,
    spec,
    storage,
    template,
)
from sealtune.job.describe import describe
from sealtune.job.dsse import Envelope
from sealtune.job.manifest import parse_manifest
from sealtune.job.plan import Size
from tests.job.sample import make_manifest

# ---- job.toml: section, key, the least and the greatest value, and what is just outside ----------

ABOVE_0 = math.ulp(0.0)
BELOW_1 = 1 - 2**-53
BOUNDS: list[tuple[type[sections.Section], str, list[Any], list[Any]]] = [
    (sections.JobSpec, "seed", [0, 4294967295], [-1, 4294967296]),
    (sections.JobSpec, "rounds", [1, 10000], [0, 10001]),
    (spec.DataSpec, "max_tokens", [2, 8192], [1, 8193]),
    (spec.DataSpec, "max_train_rows", [1, 2**40], [0]),
    (spec.DataSpec, "max_test_rows", [1, 2**40], [0]),
    (spec.DataSpec, "label", ["x"], [""]),
    (spec.DataSpec, "labels", [["a", "b"]], [["a"], ["a", "a"], ["a", " "]]),
    (sections.SitesSpec, "alpha", [ABOVE_0, 1000.0], [0.0, 1000.1]),
    (sections.SitesSpec, "names", [["a"], [f"s{n}" for n in range(64)]], [[]]),
    (
        sections.SitesSpec,
        "names",
        [["a" * 40]],
        [[f"s{n}" for n in range(65)], ["a" * 41], ["a", "a"]],
    ),
    (sections.LoraSpec, "rank", [1, 1024], [0, 1025]),
    (sections.LoraSpec, "alpha", [ABOVE_0, 1e9], [0.0]),
    (sections.LoraSpec, "dropout", [0.0, BELOW_1], [-ABOVE_0, 1.0]),
    (sections.LoraSpec, "layers", [[0]], [[], [-1]]),
    (sections.LoraSpec, "targets", [["q_proj"], "all-linear"], [[], [""], [" "]]),
    (sections.SpfSpec, "qkv", [0.0, 1.0], [-ABOVE_0, 1.1]),
    (sections.SpfSpec, "dense", [0.0, 1.0], [-ABOVE_0, 1.1]),
    (sections.SpfSpec, "layers", [[0]], [[], [-1]]),
    (sections.ProtectionSpec, "integrity_bits", [1, 128], [0, 129]),
    (sections.ProtectionSpec, "pad_budget", [0, 2**20], [-1, 2**20 + 1]),
    (sections.TrainSpec, "steps_per_round", [1, "epoch"], [0, "epochs"]),
    (sections.TrainSpec, "batch_size", [1], [0]),
    (sections.TrainSpec, "learning_rate", [ABOVE_0, 1.0], [0.0, 1.1]),
    (sections.TrainSpec, "weight_decay", [0.0, 1000.0], [-ABOVE_0, 1000.1]),
    (sections.TrainSpec, "eval_batch_size", [1], [0]),
    (sections.SplitSpec, "cut", [1, ABOVE_0, BELOW_1], [0, 0.0, 1.0, 1.5, True]),
    (sections.NetworkSpec, "min_sites", [1], [0]),
    (sections.NetworkSpec, "deadline", [ABOVE_0], [0.0]),
    *(
        (job_file.EquipmentSpec, name, [ABOVE_0], [0.0])
        for name, field in job_file.EquipmentSpec.model_fields.items()
        if not name.endswith("_cost") and "float" in str(field.annotation)
    ),
    *(
        (job_file.EquipmentSpec, name, [0.0], [-ABOVE_0])
        for name in job_file.EquipmentSpec.model_fields
        if name.endswith("_cost")
    ),
]
NEEDED: dict[type[sections.Section], dict[str, Any]] = {
    sections.JobSpec: {"name": "demo"},
    spec.DataSpec: {"train": "a", "test": "b"},
    sections.SitesSpec: {"names": ["a"]},
    sections.SplitSpec: {"cut": 1},
}


@pytest.mark.parametrize(
    ("section", "key", "good", "bad"), BOUNDS, ids=[f"{one[0].__name__}.{one[1]}" for one in BOUNDS]
)
def test_a_setting_at_its_bounds(
    section: type[sections.Section], key: str, good: list[Any], bad: list[Any]
) -> None:
    needed = NEEDED.get(section, {})
    for value in good:
        assert section.model_validate(needed | {key: value})
    for value in bad:
        with pytest.raises(ValidationError):
            section.model_validate(needed | {key: value})


STRICT = [
    (section, key)
    for section in sections.Section.__subclasses__()
    if section.__module__ in (sections.__name__, settings.__name__, job_file.__name__)
    for key, field in section.model_fields.items()
    if any(kind in str(field.annotation) for kind in ("int", "float", "bool"))
    and not any(kind in str(field.annotation) for kind in ("Spec", "Literal", "tuple"))
]


@pytest.mark.parametrize(
    ("section", "key"), STRICT, ids=[f"{section.__name__}.{key}" for section, key in STRICT]
)
def test_numbers_and_switches_are_not_guessed(section: type[sections.Section], key: str) -> None:
    """`rounds = "3"` and `rounds = true` are errors, and so is `checkpointing = 1`."""
    flag = "bool" in str(section.model_fields[key].annotation)
    for value in ("1", 1 if flag else True, [1], math.nan, math.inf):
        with pytest.raises(ValidationError):
            section.model_validate(NEEDED.get(section, {}) | {key: value})


def test_sections_stay_as_they_were_read() -> None:
    job = sections.JobSpec(name="demo")
    with pytest.raises(ValidationError, match="frozen"):
        job.rounds = 4  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        sections.JobSpec.model_validate({"name": "demo", "round": 4})


def test_heads_of_which_none_is_tuned() -> None:
    assert sections.SpfSpec(qkv=0.5, dense=0)
    assert sections.SpfSpec(qkv=0, dense=0.5)
    with pytest.raises(ValidationError, match="nothing would be tuned"):
        sections.SpfSpec(qkv=0, dense=0)


def test_learning_rate_and_decay_together() -> None:
    assert sections.TrainSpec(learning_rate=0.5, weight_decay=2.0)
    with pytest.raises(ValidationError, match="no step may pass 0"):
        sections.TrainSpec(learning_rate=0.5, weight_decay=2.1)


@pytest.mark.parametrize(("examples", "steps"), [(0, 1), (15, 1), (16, 1), (31, 1), (32, 2)])
def test_steps_of_an_epoch(examples: int, steps: int) -> None:
    assert sections.TrainSpec(batch_size=16).steps(examples) == steps
    assert sections.TrainSpec(steps_per_round=7).steps(examples) == 7


@pytest.mark.parametrize(
    ("written", "lora", "spf"),
    [
        ({}, True, False),
        ({"rank": 4}, True, False),
        ({"method": "lora"}, True, False),
        ({"lora": {}}, True, False),
        ({"spf": {}}, False, True),
        ({"spf": {}, "lora": {}}, True, True),
        ({"spf": {}, "rank": 4}, True, True),
        ({"spf": {}, "method": "lora"}, True, True),
    ],
)
def test_what_is_tuned(written: dict[str, Any], lora: bool, spf: bool) -> None:
    tuning = sections.TuningSpec.model_validate(written)
    assert (tuning.lora is not None, tuning.spf is not None) == (lora, spf)
    assert tuning.lora is None or tuning.lora.rank == written.get("rank", 8)


def test_lora_is_not_written_twice() -> None:
    with pytest.raises(ValidationError, match="beside a table lora"):
        sections.TuningSpec.model_validate({"rank": 4, "lora": {"rank": 5}})


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("job", "rounds"), "a whole number from 1 to 10000"),
        (("job", "seed"), "a whole number, at least 0 and less than 4294967296"),
        (("job", "method"), 'one of "federated-lora", "split"'),
        (
            ("protection", "attestation"),
            'one of "simulated", "sgx", "tdx", "sev-snp", or a table with a kind for server and '
            "site",
        ),
        (("job", "name"), "a name of lower-case letters, digits and hyphens (at most 40, starting"),
        (("model", "path"), "text in quotes, not empty"),
        (("model", "revision"), "text in quotes"),
        (("train", "learning_rate"), "a number, more than 0 and at most 1"),
        (("train", "batch_size"), "a whole number, at least 1"),
        (("train", "steps_per_round"), 'a whole number, at least 1, or "epoch"'),
        (("sites", "names"), "a list of names (lower-case letters, digits, hyphens), 1 to 64 of"),
        (("data", "labels"), "a list of texts, at least 2"),
        (("data", "train"), "the name of a file, in quotes, or a table of site = file"),
        (("data", "train", "north"), "the name of a file, in quotes"),
        (("tuning", "rank"), "a whole number from 1 to 1024"),
        (("tuning", "lora", "rank"), "a whole number from 1 to 1024"),
        (("tuning", "layers"), "a list of whole numbers, at least 1"),
        (("tuning", "layers", 0), "a whole number, at least 0"),
        (("tuning", "spf", "qkv"), "a number from 0 to 1"),
        (("tuning", "spf"), "a section of its own, with keys below it"),
        (("tuning",), "a section of its own, with keys below it"),
    ],
)
def test_what_a_key_may_hold(path: tuple[str | int, ...], words: str) -> None:
    assert describe(path).startswith(words)


@pytest.mark.parametrize("path", [("none",), ("job", "none"), ("job", 0), ("tuning", "none")])
def test_a_key_that_the_models_do_not_know(path: tuple[str | int, ...]) -> None:
    assert describe(path) == ""


# ---- the manifest --------------------------------------------------------------------------------


def changed(**changes: Any) -> bytes:
    found = json.loads(manifest.manifest_bytes(make_manifest()))
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = found
        for part in parents:
            node = node[int(part) if part.isdigit() else part]
        node[last] = value
    return rfc8785.dumps(found)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("model__name", ["", "x" * 200], ["x" * 201]),
        ("labels", [[], ["x" * 10_000], ["a"] * 100_000], [[""], ["x" * 10_001]]),
        ("labels", [], [["a"] * 100_001]),
        ("epoch", [1, 10_000], [0, 10_001]),
        ("data__north__train_rows", [1, 2**29 - 1], [-1, 0, 2**29]),
        ("data__north__test_rows", [0, 2**29 - 1], [-1, 2**29]),
        ("settings__data__label", ["x" * 1000], ["x" * 1001]),
        ("min_cohort", [2], [0, 1, 3, 65]),
        ("format", [5], [0, 1, 2, 3, 4, 6, "5"]),
        ("participants__0__org", ["a" * 40], ["a" * 41, "A"]),
        ("settings__sites__names", [], [["north"], ["north", "south", "east"]]),
    ],
)
def test_a_manifest_at_its_bounds(key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert parse_manifest(changed(**{key: value}))
    for value in bad:
        with pytest.raises(MalformedManifestError) as caught:
            parse_manifest(changed(**{key: value}))
        assert not isinstance(caught.value, NotCanonicalError)


def test_a_participant_at_its_bounds() -> None:
    found = {"org": "a", "key": json.loads(changed())["participants"][0]["key"]}
    for count in (1, 64):
        names = [f"s{number}" for number in range(count)]
        assert manifest.Participant.model_validate_json(json.dumps(found | {"sites": names}))
    for count in (0, 65):
        names = [f"s{number}" for number in range(count)]
        with pytest.raises(ValidationError, match="sites"):
            manifest.Participant.model_validate_json(json.dumps(found | {"sites": names}))


def test_the_longest_time() -> None:
    begin = "2030-01-01T12:00:00Z"
    assert parse_manifest(changed(not_before=begin, expires="2031-01-02T12:00:00Z"))
    assert parse_manifest(changed(not_before=begin, expires="2030-01-01T12:00:01Z"))
    for end in ("2031-01-02T12:00:01Z", begin, "2030-01-01T11:59:59Z"):
        with pytest.raises(MalformedManifestError, match="expires"):
            parse_manifest(changed(not_before=begin, expires=end))


def test_a_manifest_of_eight_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = changed()
    monkeypatch.setattr(dsse, "MAX_PAYLOAD", len(payload))
    assert parse_manifest(payload)
    monkeypatch.setattr(dsse, "MAX_PAYLOAD", len(payload) - 1)
    with pytest.raises(MalformedManifestError, match="too long"):
        parse_manifest(payload)


@pytest.mark.parametrize(("good", "bad"), [(0, -1), (2**31 - 1, 2**31)])
def test_sizes_in_a_plan(good: int, bad: int) -> None:
    assert TypeAdapter(Size).validate_python(good) == good
    with pytest.raises(ValidationError):
        TypeAdapter(Size).validate_python(bad)


# ---- files ---------------------------------------------------------------------------------------


def test_the_limits_are_these() -> None:
    assert dsse.MAX_PAYLOAD == 8 * 1024 * 1024
    assert dsse.MAX_ENVELOPE == 12 * 1024 * 1024
    assert dsse.MAX_SIGNATURES == 64
    assert local.MAX_BYTES == 1024 * 1024
    assert load.MAX_JOB_BYTES == 1024 * 1024
    assert key_files.MAX_FILE == 16 * 1024
    assert template.MAX_TEMPLATE == 20_000
    assert manifest.MAX_ROWS == 536_870_912
    assert manifest.LONGEST.days == 366


def envelope(**fields: Any) -> bytes:
    return json.dumps(Envelope("text/plain", b"payload").to_object() | fields).encode()


def test_an_envelope_at_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    one = dsse.Signature("ab" * 32, bytes(64))
    full = Envelope("x" * 200, b"payload", (one,) * 64)
    assert Envelope.decode(full.encode()) == full
    monkeypatch.setattr(dsse, "MAX_ENVELOPE", len(full.encode()))
    assert Envelope.decode(full.encode()) == full
    with pytest.raises(MalformedManifestError, match="bytes long, at most"):
        Envelope.decode(b" " + full.encode())
    for size in (63, 65):
        with pytest.raises(MalformedManifestError):
            Envelope.decode(replace(full, signatures=(replace(one, sig=bytes(size)),)).encode())
    for keyid in ("ab" * 31, "ab" * 33, "ab" * 31 + "a", "ag" * 32):
        with pytest.raises(MalformedManifestError, match="64 hex digits"):
            Envelope.decode(replace(full, signatures=(replace(one, keyid=keyid),)).encode())


def test_a_payload_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsse, "MAX_PAYLOAD", 9)
    text = base64.b64encode(bytes(9)).decode()
    assert Envelope.decode(envelope(payload=text)).payload == bytes(9)
    with pytest.raises(MalformedManifestError, match="at most 9 bytes"):
        Envelope.decode(envelope(payload=base64.b64encode(bytes(15)).decode()))


def test_envelopes_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Envelope("text/plain", b"").payload = b"x"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        dsse.Signature("", b"").sig = b"x"  # type: ignore[misc]


def test_a_key_file_at_its_bound(tmp_path: Path) -> None:
    private, public = key_files.new_key("north", tmp_path)
    for path, read in ((private, key_files.load_private), (public, key_files.load_public)):
        data = path.read_bytes()
        path.write_bytes(data.ljust(16384, b"\n"))
        read(path)
        path.write_bytes(data.ljust(16385, b"\n"))
        with pytest.raises(KeyFileError, match="too long"):
            read(path)


def test_a_public_key_file_is_readable_and_a_private_one_never_was(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private, public = key_files.new_key("north", tmp_path)
    finally:
        os.umask(before)
    assert (private.stat().st_mode & 0o777, public.stat().st_mode & 0o777) == (0o600, 0o644)


def test_a_key_file_that_cannot_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        key_files.new_key("north", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_are_whole_before_they_are_made_lasting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after fsync must not find what is still in a buffer missing."""
    seen: list[int | str] = []

    def sync(handle: int) -> None:
        found = os.fstat(handle)
        seen.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)

    monkeypatch.setattr(os, "fsync", sync)
    storage.write_atomic(tmp_path / "file", b"contents")
    private, public = key_files.new_key("north", tmp_path)
    assert seen == [8, "folder", private.stat().st_size, public.stat().st_size]


@pytest.mark.parametrize("faulty", ["job", "model", "data", "sites", "network", "tuning", "split"])
def test_a_faulty_section_hides_no_fault_between_others(tmp_path: Path, faulty: str) -> None:
    """Also the sections that a rule joins may be missing or faulty; each fault is told once."""
    path = tmp_path / "job.toml"
    content: dict[str, Any] = {
        "job": {"name": "demo", "method": "split"},
        "model": {"path": "m", "task": "label-words"},
        "data": {"train": "a.csv", "test": "b.csv", "template": "{text} "},
        "sites": {"names": ["north"]},
        "network": {"min_sites": 2},
        "tuning": {},
    }
    expected = {"network.min_sites", "data.train", "data.test", "data.template", "split.cut"}
    hidden = {
        "job": {"split.cut"},
        "model": {"data.template"},
        "data": {"data.train", "data.test", "data.template"},
        "sites": {"network.min_sites", "data.train", "data.test"},
        "network": {"network.min_sites"},
        "tuning": {"split.cut"},
        "split": {"split.cut"},
    }
    content.setdefault(faulty, {})["wrong"] = 1
    path.write_text(tomli_w.dumps(content))
    with pytest.raises(ConfigError) as caught:
        load.load_job(path)
    keys_ = [problem.key for problem in caught.value.problems]
    extra = {"split.wrong", "split.cut"} if faulty == "split" else {f"{faulty}.wrong"}
    assert sorted(keys_) == sorted(expected - hidden[faulty] | extra)


def test_a_job_file_at_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    text = (
        '[job]\nname = "demo"\n[model]\npath = "owner/model"\n'
        '[data]\ntrain = "a.csv"\ntest = "b.csv"\n'
        '[sites]\nnames = ["north"]\npartition = "dirichlet"\n#'
    )
    path.write_text(text.ljust(1 << 20, "x"))
    assert load.load_job(path).job.name == "demo"
    path.write_text(text.ljust((1 << 20) + 1, "x"))
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        load.load_job(path)


def test_a_local_file_at_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "local.json"
    path.write_bytes(b" " * 65)
    monkeypatch.setattr(local, "MAX_BYTES", 65)
    with pytest.raises(ConfigError, match="Invalid JSON"):
        local.read_local(path)
    monkeypatch.setattr(local, "MAX_BYTES", 64)
    with pytest.raises(ConfigError, match="at most 64 bytes"):
        local.read_local(path)


def test_a_template_at_its_bound() -> None:
    assert template.parse_template("x" * 19_994 + "{text}")
    with pytest.raises(ValueError, match="20001 characters long"):
        template.parse_template("x" * 19_995 + "{text}")
