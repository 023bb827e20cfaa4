"""The backbone file goes by once, in pieces, past its digests; little of it stays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sealtune.errors import ModelError
from sealtune.job.plan import Backbone, LinearGroup
from sealtune.offload import frozen
from sealtune.offload.codes import Budget
from sealtune.offload.frozen import FrozenGroup, load_frozen
from sealtune.offload.prime_check import sums
from tests.offload.layers import Setup, make_setup


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return make_setup(tmp_path)


def load(setup: Setup, *, keep: bool = True) -> dict[str, FrozenGroup]:
    plan = setup.plan
    return dict(load_frozen(plan.backbone, plan.groups, integrity_bits=40, keep_weights=keep))


@pytest.mark.parametrize("piece", [1, 24, 100, 2**20])
def test_pieces_of_any_size_give_the_whole(
    setup: Setup, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_PIECE", piece)
    tensors = load_file(setup.plan.backbone.path)
    for group in load(setup).values():
        weight = torch.cat([tensors[f"{m}.weight"] for m in group.spec.members])
        scale = torch.cat([tensors[f"{m}.scale"] for m in group.spec.members])
        assert group.weight is not None
        assert torch.equal(group.weight, weight)
        assert torch.equal(group.scale, scale)
        wide = weight.double()
        for way, matrix in ((False, wide.t()), (True, wide)):
            norm = float(matrix.norm(dim=0).max())
            assert group.budgets[way].code_norm == Budget(norm, len(matrix)).code_norm
            assert group.shape(backward=way) == matrix.shape
            check = group.checks[way]
            x = torch.randint(-999, 1000, (3, len(matrix)), dtype=torch.int32)
            y = (x.double() @ matrix).to(torch.int32)
            assert torch.equal(sums(x, check.right), sums(y, check.left))


def test_budgets_follow_from_rows_forward_and_columns_backward() -> None:
    weight = torch.tensor([[100, 0, 0], [100, 3, 4]], dtype=torch.int8)
    spec = LinearGroup(name="q", members=("q",), in_features=3, out_features=(2,), backward=True)
    group = FrozenGroup.read(spec, torch.ones(2), iter([weight]), integrity_bits=40, keep=False)
    assert group.budgets[False].code_norm == Budget(math.sqrt(10_025), 3).code_norm
    assert group.budgets[True].code_norm == Budget(math.sqrt(20_000), 2).code_norm


def test_weights_stay_only_if_they_are_to_be_kept(setup: Setup) -> None:
    assert all(group.weight is None for group in load(setup, keep=False).values())


def test_a_large_tensor_is_never_in_memory_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No piece is larger than it may be, and the next is read when the last has been used."""
    monkeypatch.setattr(frozen, "_PIECE", 48)
    setup, seen = make_setup(tmp_path), []
    stream = frozen._stream

    def watched(*given: object) -> Iterator[torch.Tensor]:
        for piece in stream(*given):  # type: ignore[arg-type]
            seen.append(piece.numel())
            yield piece

    monkeypatch.setattr(frozen, "_stream", watched)
    load(setup, keep=False)
    assert max(seen) == 48
    assert sum(seen) == sum(t.numel() for t in load_file(setup.plan.backbone.path).values())


def test_changed_weights_are_refused(setup: Setup) -> None:
    path = Path(setup.plan.backbone.path)
    raw = bytearray(path.read_bytes())
    for at in (len(raw) - 1, len(raw) - 999):
        changed = raw.copy()
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ModelError, match="is not the tensor"):
            load(setup)


def test_the_same_bytes_in_another_shape_are_refused(setup: Setup) -> None:
    """Their digest is right, so shape and kind are what gives them away."""
    path = setup.plan.backbone.path
    tensors = load_file(path)
    weight = tensors["q.weight"]
    for lie in (weight.view(weight.shape[::-1]), weight.view(torch.uint8)):
        save_file(tensors | {"q.weight": lie}, path)
        with pytest.raises(ModelError, match=r"q\.weight in .* is not the tensor"):
            load(setup)


def test_a_file_that_changes_while_it_is_read_is_refused(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was looked at is what was hashed: pieces are private copies."""
    monkeypatch.setattr(frozen, "_PIECE", 48)
    digest = frozen.tensor_bytes

    def change(piece: torch.Tensor) -> memoryview:
        raw = digest(piece)
        with Path(setup.plan.backbone.path).open("r+b") as file:
            file.seek(-8, 2)
            file.write(b"\1" * 8)
        return raw

    monkeypatch.setattr(frozen, "tensor_bytes", change)
    with pytest.raises(ModelError, match="is not the tensor"):
        load(setup)


def test_what_changes_after_it_was_hashed_is_not_looked_at(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns the file cannot put other weights under a digest that has been checked."""
    path = Path(setup.plan.backbone.path)
    expected = load_file(path)["o.weight"].clone()
    stream = frozen._stream

    def scribbled(backbone: Backbone, name: str, *rest: object) -> Iterator[torch.Tensor]:
        for piece in stream(backbone, name, *rest):  # type: ignore[arg-type]
            if name == "o.weight":  # the last
                with path.open("r+b") as file:
                    file.seek(-2048, 2)
                    file.write(b"\1" * 2048)
            yield piece

    monkeypatch.setattr(frozen, "_stream", scribbled)
    found = load(setup)["o"].weight
    assert found is not None
    assert torch.equal(found, expected)
    assert not torch.equal(load_file(path)["o.weight"], expected)


def test_a_missing_backbone_is_named(setup: Setup) -> None:
    Path(setup.plan.backbone.path).unlink()
    with pytest.raises(ModelError, match=r"cannot read q\.scale from the int8 backbone"):
        load(setup)


def test_a_missing_tensor_is_named(setup: Setup) -> None:
    path = setup.plan.backbone.path
    tensors = load_file(path)
    del tensors["o.weight"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"cannot read o\.weight from the int8 backbone"):
        load(setup)
