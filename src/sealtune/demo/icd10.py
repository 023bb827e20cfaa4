"""Demo data ``icd10``: diagnosis descriptions of ICD-10-CM and the chapter that each belongs to.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from sealtune.demo.corpus import Item, clean
from sealtune.demo.data_set import DataSet
from sealtune.demo.wheel import Member
from sealtune.errors import DataError

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


def _texts(code: ElementTree.Element) -> Iterator[str]:
    yield code.findtext("desc", "")
    for term in code.findall("inclusionTerm"):
        for note in term.findall("note"):
            yield note.text or ""


# Categories stay whole in the split, so no sibling of a test text is trained on.
ICD10 = DataSet(
    name="icd10",
    members=(
        Member(
            package="simple-icd-10-cm",
            version="1.5.0",
            path="simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml",
            size=9_747_661,
            sha256="f161f8182aff3ce3a2a78e202f8259c08eaee2c670a9e45b0072445c52302935",
        ),
    ),
    parse=parse_icd10,
    most=900,
)
