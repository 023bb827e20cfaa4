"""Fifty masked training steps against the same int8 weights unmasked, through unmodified models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.prefix import PlainBlocks
from sealtune.errors import OffloadError
from sealtune.job.plan import SlicePlan
from sealtune.job.sections import ProtectionSpec, PtuningSpec, TuningSpec
from sealtune.job.spec import Job
from sealtune.model.load import load_model
from sealtune.model.rest import load_rest
from sealtune.model.trainable import trainable_state
from sealtune.offload.in_process import InProcess
from sealtune.offload.session import OffloadSession
from sealtune.offload.unmasked import use_int8_weights
from sealtune.plan.masked import make_plan
from sealtune.tuning.apply import apply_tuning
from tests import sample_job
from tests.model.families import make_family
from tests.model.tiny import make_llama


def make_job(model: Path, **sections: Any) -> Job:
    tuning = TuningSpec(rank=4, targets="all-linear")
    given: dict[str, Any] = {"model": {"task": "causal-lm"}, "tuning": tuning, **sections}
    return sample_job.make_job(model, job={"seed": 1}, **given)


def lora(job: Job) -> Any:
    model = apply_tuning(load_model(job.model, None), job.tuning, job.model.task, 1)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in trainable_state(model).items():
        if ".lora_B." in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return model


def session_for(job: Job, plan: SlicePlan) -> OffloadSession:
    backbone = Path(plan.backbone.path)
    prefix = None
    if plan.prefix_blocks:
        prefix = PlainBlocks(job.model.path, None, plan.prefix_blocks, backbone)
    engine = Engine(backbone, [g.model_dump() for g in plan.groups], prefix=prefix)
    return OffloadSession(InProcess(engine, plan.groups), plan, integrity_bits=40, owner="test")


def prefixed(job: Job) -> Any:
    model = apply_tuning(load_model(job.model, None), job.tuning, job.model.task, 1)
    generator = torch.Generator().manual_seed(2)
    for tensor in trainable_state(model).values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
    return model


@pytest.fixture(params=["llama", "gpt2"])
def model_folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_losses_and_gradients_equal_the_unmasked_model(model_folder: Path) -> None:
    compare(make_job(model_folder), lora)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"projection": True, "hidden": 24}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("mistral", {"projection": True}),
        ("gpt2", {}),
    ],
)
def test_a_prefix_trains_as_it_does_unmasked(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    """No token is added, so pads are for the texts' rows alone."""
    tuning = TuningSpec(ptuning=PtuningSpec(virtual_tokens=6, **settings))
    compare(make_job(make_family(name, tmp_path / "model"), tuning=tuning), prefixed, steps=15)


@pytest.mark.parametrize("name", ["llama", "olmo"])  # olmo's norms have no weights
def test_a_prefix_trains_in_bfloat16_where_masked_layers_leave_no_parameter(
    tmp_path: Path, name: str
) -> None:
    tuning = TuningSpec(ptuning=PtuningSpec(virtual_tokens=6))
    job = make_job(make_family(name, tmp_path / "model"), tuning=tuning)
    plan = make_plan(job, None)
    base = load_rest(job.model, None, plan, dtype=torch.bfloat16)
    model = apply_tuning(base, job.tuning, job.model.task, 1)
    session_for(job, plan).install(model)
    ids = torch.randint(2, 400, (2, 8), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert all(tensor.grad.any() for tensor in model.parameters() if tensor.requires_grad)


def compare(job: Job, tuned: Callable[[Job], Any], steps: int = 50) -> None:
    """Steps of two models: one masked, one with the same int8 weights in the plain."""
    plan = make_plan(job, None)
    masked, plain = tuned(job), tuned(job)
    use_int8_weights(plain, plan)
    session = session_for(job, plan)
    session.install(masked)
    optimizers = [
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=2e-3)
        for m in (masked, plain)
    ]
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        ids = torch.randint(2, 400, (4, 16), generator=generator)
        losses = []
        for model, optimizer in zip((masked, plain), optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            losses.append(float(loss.detach()))
        difference = abs(losses[0] - losses[1]) / losses[1]
        assert difference < 1e-3, f"step {step}: losses differ by a relative {difference:.1e}"
        if step == 0:
            found, expected = (
                torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None])
                for m in (masked, plain)
            )
            error = float((found - expected).norm() / expected.norm())
            assert error < 2e-4, f"gradients differ by a relative {error:.1e}"
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_blocks_give_the_same_gradients(model_folder: Path, reentrant: bool) -> None:
    """Activation checkpointing: each block's layers are called again, with pads of their own."""
    job = make_job(model_folder)
    plan = make_plan(job, None)
    ids = torch.randint(2, 400, (2, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for recompute in (False, True):
        model = lora(job).train()
        session = session_for(job, plan)
        session.install(model)
        if recompute:
            options = {"use_reentrant": reentrant}
            model.base_model.model.activation_checkpointing_enable(options)
            model.enable_input_require_grads()
        for _ in range(2):  # what one step leaves does not reach the next
            model.zero_grad()
            torch.manual_seed(3)  # of dropout
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        calls = session._link.pads._stream._next  # type: ignore[union-attr]
        found.append((calls, [p.grad for p in model.parameters() if p.grad is not None]))
    (plain_calls, plain), (calls, recomputed) = found
    assert calls > plain_calls
    assert len(plain) == len(recomputed)
    for one, other in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_plain_blocks_below_the_first_adapter_change_nothing(model_folder: Path) -> None:
    job = make_job(
        model_folder,
        tuning=TuningSpec(rank=4, targets="all-linear", layers=(1,)),
        protection=ProtectionSpec(protect="adapter"),
    )
    plan = make_plan(job, None)
    # GPT-2 adds positions to the embedding, so no block can be taken for it: all is masked
    assert plan.prefix_blocks == (1 if "Llama" in plan.architecture else 0)
    masked, plain = lora(job), lora(job)
    use_int8_weights(plain, plan)
    session = session_for(job, plan)
    session.install(masked)
    ids = torch.randint(2, 400, (2, 12))
    with torch.no_grad():
        found, expected = masked(input_ids=ids).logits, plain(input_ids=ids).logits
    error = float((found - expected).norm() / expected.norm())
    assert error < 2e-4, f"logits differ by a relative {error:.1e}"


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:9", "tcp:accelerator.example:7000"])
def test_plain_blocks_do_not_cross_a_network(model_folder: Path, address: str) -> None:
    job = make_job(
        model_folder,
        tuning=TuningSpec(rank=4, targets="all-linear", layers=(1,)),
        protection=ProtectionSpec(protect="adapter"),
    )
    plan = make_plan(job, None).model_copy(update={"prefix_blocks": 1})
    with pytest.raises(OffloadError, match="in the plain"):
        OffloadSession.connect(address, plan, integrity_bits=40, owner="test")


def test_plain_blocks_do_not_take_their_attention_from_the_model(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "model")
    job = make_job(
        folder,
        tuning=TuningSpec(rank=4, targets="all-linear", layers=(1,)),
        protection=ProtectionSpec(protect="adapter"),
    )
    backbone = Path(make_plan(job, None).backbone.path)
    ids = torch.randint(2, 400, (2, 8), generator=torch.Generator().manual_seed(0))
    before = PlainBlocks(str(folder), None, 1, backbone)(ids)
    content = json.loads((folder / "config.json").read_text())
    chosen = {"attn_implementation": "kernels-community/flash-attn"}
    (folder / "config.json").write_text(json.dumps(content | chosen))
    assert torch.equal(PlainBlocks(str(folder), None, 1, backbone)(ids), before)
