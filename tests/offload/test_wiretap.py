"""What reaches the accelerator: uniform bytes without a trace of the input, by default."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from sealtune.offload.enclave_pads import EnclavePads
from tests.offload.layers import INNER, Toy, make_setup

TOKENS = 400


class Wiretap:
    """Passes everything on to the engine and keeps what it saw."""

    def __init__(self, engine: object) -> None:
        self.engine = engine
        self.seen: list[torch.Tensor] = []

    def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
        self.seen.append(codes.clone())
        return self.engine.product(group, codes, backward=backward)  # type: ignore[attr-defined]

    def close(self) -> None: ...


def record(folder: Path, protect: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """One training step over tokens among which one canary row comes again and again."""
    setup = make_setup(folder, protect)
    torch.manual_seed(0)
    canary = torch.randn(INNER)
    x = torch.randn(1, TOKENS, INNER)
    x[0, ::7] = canary
    tap = Wiretap(setup.engine)
    model = Toy().requires_grad_(False)
    session = setup.session(tap)
    session.install(model)
    model(x.requires_grad_(True)).square().sum().backward()
    return tap.seen, canary


def uniformity(codes: torch.Tensor) -> float:
    """p-value of the hypothesis that each of the four byte positions is uniform (smallest)."""
    raw = codes.contiguous().view(torch.uint8).view(-1, 4).to(torch.int64)
    return min(
        float(chisquare(torch.bincount(raw[:, i], minlength=256).numpy()).pvalue) for i in range(4)
    )


def finds_canary(seen: list[torch.Tensor], canary: torch.Tensor) -> bool:
    """Whether any observed row points the canary's way, or any row is seen twice."""
    rows = seen[0].double()
    cosine = torch.nn.functional.cosine_similarity(rows, canary.double()[None], dim=1)
    repeated = len({tuple(r) for r in seen[0].tolist()}) < len(seen[0])
    return bool((cosine > 0.99).any()) or repeated


def test_masked_traffic_is_uniform_and_hides_the_canary(tmp_path: Path) -> None:
    seen, canary = record(tmp_path, "adapter+data")
    assert len(seen) == 4  # two groups, forward and backward
    for codes in seen:
        assert uniformity(codes) > 1e-6
    assert not finds_canary(seen, canary)


def test_the_same_test_finds_everything_without_masks(tmp_path: Path) -> None:
    seen, canary = record(tmp_path, "insecure-none")
    assert all(uniformity(codes) < 1e-12 for codes in seen)
    assert finds_canary(seen, canary)


@pytest.mark.parametrize("protect", ["adapter+data", "adapter"])
def test_equal_inputs_never_give_equal_traffic(tmp_path: Path, protect: str) -> None:
    setup = make_setup(tmp_path, protect)
    tap = Wiretap(setup.engine)
    session = setup.session(tap)
    for _ in range(2):
        session.multiply("q", torch.ones(3, INNER))
    assert not (tap.seen[0] == tap.seen[1]).any(dim=1).any()


def test_pads_made_ahead_hide_as_much(tmp_path: Path) -> None:
    """One batch again and again, with rests between: no row is ever seen twice."""
    setup = make_setup(tmp_path)
    tap = Wiretap(setup.engine)
    model = Toy().requires_grad_(False)
    with setup.session(tap, pad_budget=1) as session:
        session.install(model)
        pads = session._link.pads
        assert isinstance(pads, EnclavePads)
        x = torch.ones(1, 40, INNER).requires_grad_(True)
        ahead = 0
        for _ in range(10):
            model(x).square().sum().backward()
            session.rest(wait=True)
            ahead += sum(map(len, pads._ready.values()))
    assert ahead == 40
    for group in range(4):
        codes = torch.cat(tap.seen[group::4])
        assert uniformity(codes) > 1e-6
        assert len({tuple(row) for row in codes.tolist()}) == 400
