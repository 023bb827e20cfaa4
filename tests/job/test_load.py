"""Loading job files: every fault at once, each with its key and the remedy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sealtune.errors import ConfigError, Problem
from sealtune.job.describe import sections
from sealtune.job.load import check_files, load_job
from sealtune.job.spec import Job

GOOD: dict[str, Any] = {
    "job": {"name": "demo"},
    "model": {"path": "owner/model"},
    "data": {"train": "train.csv", "test": "test.csv"},
    "sites": {"names": ["north", "south"], "partition": "dirichlet"},
}


def write(folder: Path, **changes: Any) -> Path:
    """A job file like GOOD with whole sections replaced or keys of them changed."""
    content = {name: dict(section) for name, section in GOOD.items()}
    for name, section in changes.items():
        content.setdefault(name, {}).update(section)
    path = folder / "job.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def faults(path: Path) -> dict[str, str]:
    """Key -> message of what loading complains about."""
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    assert caught.value.exit_code == 2
    return {problem.key: problem.message for problem in caught.value.problems}


def test_good_file_loads_with_defaults(tmp_path: Path) -> None:
    job = load_job(write(tmp_path))
    assert job.job.rounds == 3
    assert job.tuning.lora is not None
    assert job.tuning.spf is None
    assert job.tuning.lora.targets == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert job.quorum == 2


def test_a_role_that_there_is_not_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    table = {"server": "tdx", "sites": "tdx", "gpu": "tdx"}
    found = faults(write(tmp_path, protection={"attestation": table}))
    said = "is no role: the roles are server and site"
    assert found["protection.attestation.sites"] == f"'sites' {said}; did you mean 'site'?"
    assert found["protection.attestation.gpu"] == f"'gpu' {said}"


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    found = faults(
        write(
            tmp_path,
            job={"name": "Two Words", "rounds": True, "sed": 1},
            data={"template": "{a.b}", "rank": 3, "labels": ["x"]},
            tuning={"targets": "q_proj", "layers": [0, -1]},
            train={"learning_rate": "1e-3"},
            trian={"batch_size": 1},
            network={"min_sites": 3},
        )
    )
    assert found["job.name"].startswith('is "Two Words"; it should be a name of lower-case')
    assert found["job.rounds"] == "is true; it should be a whole number from 1 to 10000"
    assert found["job.sed"] == "unknown key; did you mean 'seed'?"
    assert "{a.b}" in found["data.template"]
    assert found["data.rank"] == "unknown key here; it belongs into [tuning.lora]"
    assert "at least 2" in found["data.labels"]
    assert found["tuning.targets"].endswith('a list of texts, at least 1, or "all-linear"')
    assert found["tuning.layers[1]"] == "is -1; it should be a whole number, at least 0"
    assert "a number, more than 0 and at most 1" in found["train.learning_rate"]
    assert found["trian"] == "unknown section; did you mean [train]?"
    assert found["network.min_sites"] == "is 3, but sites.names has only 2"
    assert len(found) == 11


def test_missing_sections_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[job]\n[model]\n")
    assert faults(path) == {
        "job.name": "is missing; it should be a name of lower-case letters, digits and hyphens "
        "(at most 40, starting with a letter or digit)",
        "model.path": "is missing; it should be text in quotes, not empty",
        "data": "the section [data] is missing",
        "sites": "the section [sites] is missing",
    }


def test_key_outside_its_section(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("rounds = 3\nwhatever = 1\n")
    found = faults(path)
    assert found["rounds"] == "unknown section; the key 'rounds' belongs into [job]"
    assert "[job], [model], [data]" in found["whatever"]


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_numbers_must_be_finite(tmp_path: Path, value: str) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + f"\n[tuning]\nalpha = {value}\n")
    assert faults(path) == {"tuning.alpha": f"is {value}; it should be a number, more than 0"}


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("[job]\nname = demo\n", "line 2, column 8", "text needs quotes"),
        ('[job]\nname = "a"\nname = "b"\n', "line 3, column 11", "a second time"),
        ("[job]\n[job]\n", "line 2, column 5", "a second time"),
        ("[job\n", "line 1, column 5", "expected ']'"),
        ("a = [", "line 1", "not valid TOML"),
    ],
)
def test_syntax_errors_name_the_line(tmp_path: Path, text: str, key: str, words: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(text)
    found = faults(path)
    assert list(found) == [key]
    assert words in found[key]


def test_a_faulty_line_is_shown_in_80_characters(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[job]\nname = " + "?" * 73 + "\n")
    assert faults(path)["line 2, column 8"].endswith("in: name = " + "?" * 73)
    path.write_text("[job]\nname = " + "?" * 74 + "\n")
    assert faults(path)["line 2, column 8"].endswith("in: name = " + "?" * 70 + "...")


def test_advice_on_quotes_is_given_where_quotes_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    for line, advised in (
        ("name = demo", True),
        ("path = ./model", True),
        ("rank = ?", False),
        ('name = "demo', False),
        ("name = [demo", False),
        ("name = true\nname = true", False),
    ):
        path.write_text(f"[job]\n{line}\n")
        (message,) = faults(path).values()
        assert ("needs quotes" in message) == advised, message


def test_a_file_that_turns_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    job = write(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    assert faults(job) == {"file": "cannot be read: permission denied"}


def test_unreadable_files(tmp_path: Path) -> None:
    assert faults(tmp_path / "none.toml") == {"file": "there is no such file"}
    assert faults(tmp_path) == {"file": "is a folder, not a file"}
    latin = tmp_path / "latin.toml"
    latin.write_bytes('[job]\nname = "é"\n'.encode("latin-1"))
    assert "line 2" in faults(latin)
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (2 << 20))
    assert "at most" in faults(huge)["file"]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_config_error(tmp_path_factory: pytest.TempPathFactory, b: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(b)
    with pytest.raises(ConfigError):
        load_job(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
KEYS = [(name, key) for name, keys in sections().items() if "." not in name for key in keys]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_any_values_give_a_job_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[tuple[str, str], Any]
) -> None:
    changes: dict[str, dict[str, Any]] = {}
    for (section, key), value in values.items():
        if value is not None:
            changes.setdefault(section, {})[key] = value
    folder = tmp_path_factory.getbasetemp()
    try:
        path = write(folder, **changes)
    except (TypeError, UnicodeEncodeError):  # what TOML cannot hold
        return
    problems: tuple[Problem, ...] = ()
    try:
        load_job(path)
    except ConfigError as error:
        problems = error.problems
    assert all(p.key and p.message and "pydantic" not in p.message for p in problems)


def test_per_site_tables(tmp_path: Path) -> None:
    sites = {"partition": "file"}
    files = {"north": "n.csv", "south": "s.csv"}
    job = load_job(write(tmp_path, data={"train": files, "test": files}, sites=sites))
    assert job.data.train == {"north": tmp_path / "n.csv", "south": tmp_path / "s.csv"}

    found = faults(
        write(tmp_path, data={"train": {"north": "n", "suth": "s"}, "test": "t"}, sites=sites)
    )
    assert found["data.train.south"] == "is missing: every site needs a file"
    assert found["data.train.suth"] == "is not one of sites.names; did you mean 'south'?"
    assert "one pooled file" in found["data.test"]
    found = faults(write(tmp_path, data={"train": files, "test": files}))
    assert "sites.partition must be 'file'" in found["data.train"]
    found = faults(write(tmp_path, data={"train": {"north": 3, "south": "s"}}))
    assert found["data.train.north"] == "is 3; it should be the name of a file, in quotes"


def test_repeated_names(tmp_path: Path) -> None:
    found = faults(write(tmp_path, sites={"names": ["a", "b", "a"]}, data={"labels": ["x", "x"]}))
    assert found["sites.names"] == "names 'a' more than once"
    assert found["data.labels"] == "names 'x' more than once"


def test_label_words_template_must_not_end_in_space(tmp_path: Path) -> None:
    path = write(tmp_path, model={"task": "label-words"}, data={"template": "{text} is "})
    assert "white space" in faults(path)["data.template"]


def test_rules_hold_for_models_built_in_python_too() -> None:
    with pytest.raises(ValidationError) as caught:
        Job.model_validate({**GOOD, "network": {"min_sites": 9}})
    assert caught.value.errors()[0]["loc"] == ("network", "min_sites")


def test_paths_start_at_the_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "jobs"
    (folder / "beside").mkdir(parents=True)
    data = {"train": "../up.csv", "test": "~/t.csv"}
    job = load_job(write(folder, data=data, model={"path": "beside"}))
    assert job.data.train == tmp_path / "up.csv"
    assert job.data.test == tmp_path / "home" / "t.csv"
    assert job.model.path == str(folder / "beside")
    data = {"train": "hf:owner/name:train", "test": "/abs/t.csv"}
    job = load_job(write(folder, data=data, model={"path": "./model"}))
    assert str(job.data.train) == "hf:owner/name:train"
    assert job.data.test == Path("/abs/t.csv")
    assert job.model.path == str(folder / "model")
    assert load_job(write(folder)).model.path == "owner/model"
    monkeypatch.chdir(folder)
    assert load_job(Path("job.toml")).data.train == folder / "train.csv"


def test_check_files_lists_all(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("")
    job = load_job(write(tmp_path, data={"test": "test.xlsx"}, model={"path": "./model"}))
    (tmp_path / "test.xlsx").write_text("x")
    with pytest.raises(ConfigError) as caught:
        check_files(job)
    found = {p.key: p.message for p in caught.value.problems}
    assert found["data.train"].endswith("is empty")
    assert found["data.test"].startswith("test.xlsx should end in one of .jsonl, .csv")
    assert found["model.path"] == f"there is no folder {tmp_path / 'model'}"
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        check_files(job)


def test_check_files_passes(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("text,label\na,b\n")
    check_files(load_job(write(tmp_path)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_check_files_without_permission(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("text,label\na,b\n")
    (tmp_path / "test.csv").chmod(0)
    with pytest.raises(ConfigError, match="permission denied"):
        check_files(load_job(write(tmp_path)))


@pytest.mark.parametrize(
    "split",
    [{"cut": 0}, {"cut": "half"}, {"cut": 2, "activations": 3}, {"cut": 2, "unknown": 1}, {}],
)
def test_one_fault_in_split_is_one_problem(tmp_path: Path, split: dict[str, Any]) -> None:
    found = faults(write(tmp_path, job={"method": "split"}, split=split))
    assert len(found) == 1
    missing = [key for key, message in found.items() if "is missing" in message]
    assert missing == ([] if split else ["split.cut"])


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"aggregation": {"rule": "fedavg", "proximal": 0.1}},
            "aggregation.proximal: is for sites",
        ),
        ({"aggregation": {"norm_bound": 2.0}}, "aggregation.norm_bound: is for sites"),
        ({"aggregation": {"personal": ["head"]}}, "aggregation.personal: is for sites"),
        ({"job": {"method": "split", "trust": "secure-aggregation"}}, "for job.method"),
        ({"protection": {"protect": "adapter"}}, "protection.protect: is adapter, which"),
        ({"protection": {"integrity_bits": 64}}, "no accelerator takes part; leave it out"),
        ({"tuning": {"lora": {"ranks": {"north": 4}}}}, "tuning.lora.ranks: is for sites that"),
        ({"privacy": {"unit": "site", "epsilon": 8.0}}, "privacy.unit: is"),
    ],
)
def test_what_a_split_job_does_not_read_is_refused(
    tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    """All at once, beside a fault of another kind; what stands at its default is no fault."""
    given = {"job": {"method": "split"}, "split": {"cut": 0.5}, **sections}
    found = faults(write(tmp_path, **given, train={"batch_size": 0}))
    assert any(words in f"{key}: {message}" for key, message in found.items())
    assert "train.batch_size" in found
    load_job(write(tmp_path, job={"method": "split"}, split={"cut": 0.5}))
