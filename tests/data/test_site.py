"""What a site trains and tests on, from pooled files and from files of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sealtune.data.site import Example, discover_labels, load_site, load_sites
from sealtune.errors import DataError
from sealtune.job.spec import Job
from tests.sample_job import make_job
from tests.sample_job import write_rows as write

SITES = ["north", "south", "west"]


def rows(count: int, labels: str = "abc") -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(count)]


def job(folder: Path, *, data: dict[str, Any] | None = None, **sections: Any) -> Job:
    """A job over train.jsonl and test.jsonl in ``folder``."""
    given = {"job": {"seed": 1}, "data": data or {}, "sites": {"names": SITES, "alpha": 1.0}}
    return make_job("m", folder / "train.jsonl", folder / "test.jsonl", **given | sections)


@pytest.fixture
def pooled(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", rows(90))
    write(tmp_path / "test.jsonl", rows(30))
    return tmp_path


def test_sites_share_a_pooled_file(pooled: Path) -> None:
    settings = job(pooled)
    labels = discover_labels(settings)
    assert labels == ("a", "b", "c")
    sites = load_sites(settings, labels)
    for part, count in (("train", 90), ("test", 30)):
        texts = Counter(e.text for data in sites.values() for e in getattr(data, part))
        assert texts == Counter({f"text {i}": 1 for i in range(count)})
    for name in SITES:  # what an enclave loads alone is what everyone else believes it has
        assert load_site(settings, name, labels) == load_site(settings, name) == sites[name]
    first = sites["north"].train[0]
    assert first == Example(f"text {first.row - 1}", (first.row - 1) % 3, first.row)


def test_labels_in_the_jobs_order(pooled: Path) -> None:
    settings = job(pooled, data={"labels": ["c", "b", "a", "z"]})
    assert discover_labels(settings) == ("c", "b", "a", "z")
    example = load_site(settings, "north").train[0]
    assert example.label == 2 - (example.row - 1) % 3
    # who owns which row does not depend on the order of the classes
    owned = [e.row for e in load_site(settings, "west").train]
    assert owned == [e.row for e in load_site(job(pooled), "west").train]


def test_whole_number_labels_and_several_columns(tmp_path: Path) -> None:
    content = [{"age": 40 + i, "text": "t", "label": i % 2} for i in range(12)]
    write(tmp_path / "train.jsonl", content)
    write(tmp_path / "test.jsonl", content)
    settings = job(tmp_path, data={"template": "{age}: {text}"})
    assert discover_labels(settings) == ("0", "1")
    example = load_site(settings, "south").train[0]
    assert example == Example(f"{39 + example.row}: t", (example.row - 1) % 2, example.row)


def test_max_test_rows_counts_all_sites_together(pooled: Path) -> None:
    sites = load_sites(job(pooled, data={"max_test_rows": 12}))
    tested = [e for data in sites.values() for e in data.test]
    assert len(tested) == 12
    assert Counter(e.label for e in tested) == {0: 4, 1: 4, 2: 4}
    assert all(e.text == f"text {e.row - 1}" for e in tested)
    assert sum(len(data.train) for data in sites.values()) == 90


def test_max_train_rows_counts_all_sites_together(pooled: Path) -> None:
    every = load_sites(job(pooled))
    sites = load_sites(job(pooled, data={"max_train_rows": 30}))
    trained = [e for data in sites.values() for e in data.train]
    assert Counter(e.label for e in trained) == {0: 10, 1: 10, 2: 10}
    assert len({e.row for e in trained}) == 30
    assert all(e.text == f"text {e.row - 1}" for e in trained)
    # which test rows there are hangs on no limit of the training rows
    assert Counter(e.row for d in sites.values() for e in d.test) == Counter(
        e.row for d in every.values() for e in d.test
    )
    assert sites == load_sites(job(pooled, data={"max_train_rows": 30}))


def own_files(folder: Path, contents: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """[data] and [sites] with a file for each site."""
    files = {name: write(folder / f"{name}.jsonl", content) for name, content in contents.items()}
    return {
        "data": {"train": files, "test": files},
        "sites": {"names": list(contents), "partition": "file"},
    }


def test_own_files(tmp_path: Path) -> None:
    settings = job(tmp_path, **own_files(tmp_path, {"north": rows(5, "ab"), "south": rows(3, "c")}))
    labels = discover_labels(settings)
    assert labels == ("a", "b", "c")
    sites = load_sites(settings, labels)
    assert [len(sites[name].train) for name in ("north", "south")] == [5, 3]
    assert [e.label for e in sites["south"].test] == [2, 2, 2]
    (tmp_path / "south.jsonl").unlink()  # a site opens no file but its own
    assert load_site(settings, "north", labels) == sites["north"]


def test_own_files_split_max_test_rows_evenly(tmp_path: Path) -> None:
    sections = own_files(tmp_path, {"north": rows(50, "ab"), "south": rows(50, "ab")})
    sections["data"]["max_test_rows"] = 21
    sites = load_sites(job(tmp_path, **sections))
    assert [len(sites[name].test) for name in ("north", "south")] == [11, 10]


def test_own_files_split_max_train_rows_evenly(tmp_path: Path) -> None:
    sections = own_files(tmp_path, {"north": rows(50, "ab"), "south": rows(50, "ab")})
    sections["data"]["max_train_rows"] = 21
    sites = load_sites(job(tmp_path, **sections))
    assert [len(sites[name].train) for name in ("north", "south")] == [11, 10]
    assert [len(sites[name].test) for name in ("north", "south")] == [50, 50]


def test_causal_lm_needs_no_labels(tmp_path: Path) -> None:
    sections = own_files(tmp_path, {"north": [{"text": "x"}], "south": [{"text": "y"}]})
    settings = job(tmp_path, model={"path": "m", "task": "causal-lm"}, **sections)
    assert discover_labels(settings) == ()
    assert load_site(settings, "south", ()).train == [Example("y", None, 1)]


def test_causal_lm_dealt_out_by_label(pooled: Path) -> None:
    settings = job(pooled, model={"path": "m", "task": "causal-lm"})
    sites = load_sites(settings)
    assert sum(len(data.train) for data in sites.values()) == 90
    assert {e.label for e in sites["north"].train} == {None}


def test_one_label_only(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", rows(9, "a"))
    with pytest.raises(DataError, match="same label in column 'label'"):
        discover_labels(job(tmp_path))


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (None, r"missing \(null\)"), ("", "blank"), ("  ", "blank"), (True, "true or false"),
        (1.5, "a number with a fraction"), (float("nan"), r"missing \(nan\)"), (["a"], "a list"),
        ("\ud800", "broken Unicode"),
    ],
)  # fmt: skip
def test_bad_labels_are_counted_and_named(tmp_path: Path, label: Any, kind: str) -> None:
    write(tmp_path / "train.jsonl", [*rows(3), *({"text": "x", "label": label} for _ in range(8))])
    words = rf"rows 4, 5, 6, 7, 8 and 3 more: label 'label' is {kind}"
    with pytest.raises(DataError, match=words):
        discover_labels(job(tmp_path))


@pytest.mark.parametrize(
    "other", ["heart ", " heart", "Heart", "he\u00adart", "heart\u00a0", "HEART"]
)
def test_one_class_in_two_spellings(tmp_path: Path, other: str) -> None:
    content = [{"text": "x", "label": label} for label in ("heart", "lung", other)]
    write(tmp_path / "train.jsonl", content)
    if other == "he\u00adart":  # a soft hyphen is a character of its own
        assert len(discover_labels(job(tmp_path))) == 3
        return
    with pytest.raises(DataError, match=r"the labels .* differ only in white space"):
        discover_labels(job(tmp_path))
    settings = job(tmp_path)
    data = settings.data.model_copy(update={"labels": ("heart", "lung", other)})
    assert other in discover_labels(settings.model_copy(update={"data": data}))


def test_unknown_labels(pooled: Path) -> None:
    write(pooled / "test.jsonl", rows(30, "abz"))
    with pytest.raises(DataError, match=r"test\.jsonl, rows? .*the label is not one of 'a', 'b'"):
        load_sites(job(pooled))


def test_blank_texts_name_their_rows(tmp_path: Path) -> None:
    content = rows(12)
    content[3]["text"] = content[7]["text"] = "  "
    sections = own_files(tmp_path, {"north": content, "south": rows(3)})
    with pytest.raises(DataError) as caught:
        load_site(job(tmp_path, **sections), "north")
    message = caught.value.message
    assert message.endswith("north.jsonl, row 4: 'text' is blank (and row 8)")
    assert "delete it" in caught.value.hint


def test_wrong_column_and_unknown_site(pooled: Path) -> None:
    with pytest.raises(DataError, match="no column 'title'; available: 'text', 'label'"):
        load_site(job(pooled, data={"template": "{title}"}), "north")
    with pytest.raises(DataError, match="there is no site 'east'; the job has north, south, west"):
        load_site(job(pooled), "east")


def test_too_few_rows(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", rows(90))
    write(tmp_path / "test.jsonl", rows(2))
    with pytest.raises(DataError, match="2 test rows cannot be dealt out to 3 sites"):
        load_site(job(tmp_path), "north")


def test_empty_site(tmp_path: Path) -> None:
    sections = own_files(tmp_path, {"north": rows(3), "south": []})
    with pytest.raises(DataError, match=r"south\.jsonl holds no rows"):
        discover_labels(job(tmp_path, **sections))
