"""A site's process tokenises each of its texts once, however often it is trained and tested on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sealtune.data.site import load_sites
from sealtune.model import tokens
from tests.enclave.flow import SITES, Federation, make_federation, make_job, sign_job
from tests.enclave.split_flow import make_split, make_split_job, sign_split


def federated(folder: Path, base: Path) -> Any:
    job = make_job(folder, base)
    sign_job(job, folder)
    return job, lambda: make_federation(job, folder), Federation.aggregator


def split(folder: Path, base: Path) -> Any:
    job = make_split_job(folder, base)
    sign_split(job, folder)
    return job, lambda: make_split(job, folder), lambda federation: federation.server()


@pytest.mark.parametrize("method", [federated, split])
def test_each_text_is_tokenised_once(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    job, start, server = method(tmp_path, llama)
    seen: Counter[str] = Counter()
    honest = tokens.text_ids

    def counted(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
        seen.update(texts)
        return honest(tokenizer, texts)

    monkeypatch.setattr("sealtune.model.tasks.text_ids", counted)
    federation = start()
    federation.run(server(federation))
    assert federation.of("final")
    data = load_sites(job, federation.resolved.labels)
    assert seen == Counter(
        example.text for site in SITES for example in (*data[site].train, *data[site].test)
    )
