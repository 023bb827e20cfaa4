"""What the tables train on: a model cut to its first blocks, and rows of the demo's medical sets.

model = first_blocks(Path("demo/model"), 8)
files = draw_rows(Path("demo/data/hpo"), tmp, train=600, test=300, seed=1)
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from cut_data import benchmark_cache
from sealtune.job.storage import write_atomic

SETS = ("icd10", "hpo", "medmcqa-subject", "pubmedqa", "drug-reviews")
_COPIED = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Rows:
    """Files with rows of a set, and the set's classes, in which some row may be missing."""

    train: Path
    test: Path
    labels: tuple[str, ...]


def first_blocks(source: Path, blocks: int | None) -> Path:
    """The first ``blocks`` of a model as a folder in the cache; None: the model itself."""
    if blocks is None:
        return source.resolve()
    folder = benchmark_cache() / f"{source.resolve().name}-first-{blocks}"
    weights = folder / "model.safetensors"
    if weights.is_file():
        return folder
    for name in _COPIED:
        write_atomic(folder / name, (source / name).read_bytes())
    config = json.loads((source / "config.json").read_text())
    text = json.dumps(config | {"num_hidden_layers": blocks})
    write_atomic(folder / "config.json", text.encode())
    with safe_open(source / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if _block(name) < blocks]  # noqa: SIM118
        kept = {name: file.get_tensor(name) for name in names}
    write_atomic(weights, save(kept, metadata={"format": "pt"}))
    return folder


def _block(tensor: str) -> int:
    """The block that a tensor is of; -1: of none."""
    _, found, rest = tensor.partition(".layers.")
    return int(rest.split(".")[0]) if found else -1


def draw_rows(
    source: Path, folder: Path, *, train: int, test: int, seed: int, held: bool = False
) -> Rows:
    """Draw rows of a set by a seed.

    Args:
        source: folder with ``train.jsonl`` and ``test.jsonl``.
        folder: where the drawn rows are written.
        train, test: how many, at most.
        held: test on training rows that are not trained on, and on no test row.
    """
    lines = {p: (source / f"{p}.jsonl").read_text().splitlines() for p in ("train", "test")}
    labels = tuple(sorted({json.loads(line)["label"] for line in lines["train"]}))
    random.Random(f"train {seed}").shuffle(lines["train"])
    random.Random(f"test {seed}").shuffle(lines["test"])
    drawn, rest = lines["train"][:train], lines["train"][train:]
    files = Rows(folder / "train.jsonl", folder / "test.jsonl", labels)
    tested = rest if held else lines["test"]
    if not tested:
        raise ValueError(f"{source.name} has no training rows left to test on")
    for file, rows in ((files.train, drawn), (files.test, tested[:test])):
        write_atomic(file, ("\n".join(rows) + "\n").encode())
    return files
