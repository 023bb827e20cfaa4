"""Jobs without an accelerator: the frozen layers are computed in the enclave, or on its GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from sealtune.errors import ConfigError
from sealtune.job.local import Local
from sealtune.job.method import Compute as Where
from sealtune.job.sections import ProtectionSpec, TrainSpec
from sealtune.launch.parties import admit_party, line_up
from sealtune.model.load import load_model, quiet
from sealtune.model.trainable import trainable_parameters, trainable_state
from tests.enclave.flow import SITES, Federation, make_job, sign_job
from tests.enclave.test_federation import Workbench, plain_federated, whole_run

HERE: tuple[Where, ...] = ("enclave", "attested-gpu")


def protection(where: str) -> ProtectionSpec:
    return ProtectionSpec.model_validate({"compute": where})


def test_the_result_is_that_of_plain_fedavg(llama: Path, tmp_path: Path) -> None:
    """Weights are the published ones: it differs by the rounding of the mean, not by int8."""
    job = make_job(tmp_path, llama, protection=protection("enclave"))
    federation = whole_run(job, tmp_path / "run")
    expected = plain_federated(Workbench(job), job)
    for site in SITES:
        got = trainable_state(federation.models[site])
        assert got.keys() == expected.keys()
        assert all(torch.allclose(got[n], expected[n], rtol=0, atol=1e-6) for n in got)
    seconds = federation.of("worked", "client:north")[0]["seconds"]
    assert (seconds["accelerator"], seconds["pads"]) == (0, 0)
    assert federation.of("exported", "client:north")[0]["agreement"] == 1.0


@pytest.mark.parametrize("where", HERE)
def test_there_is_no_accelerator_party(llama: Path, tmp_path: Path, where: str) -> None:
    job = make_job(tmp_path, llama, protection=protection(where))
    parties = sign_job(job, tmp_path / "run")
    assert sorted(parties) == ["north", "server", "south"]
    assert not any(party.accelerator for party in parties.values())
    north = parties["north"]
    stray = Local(
        role="accelerator",
        listen="unix:a.sock",
        model=north.model,
        manifest=north.manifest,
        folder=north.folder,
    )
    with pytest.raises(ConfigError, match=f'no job with compute = "{where}" has'):
        admit_party(stray)
    with pytest.raises(ConfigError, match="accelerator: is given, and the job has none"):
        admit_party(north.model_copy(update={"accelerator": "unix:a.sock"}))


@pytest.mark.parametrize("precision", ["bf16", "autocast"])
@pytest.mark.parametrize("where", ["masked", "enclave"])
def test_precisions_run_through(llama: Path, tmp_path: Path, where: str, precision: str) -> None:
    losses = []
    for number, chosen in enumerate(("fp32", precision)):
        train = TrainSpec.model_validate(
            {"steps_per_round": 3, "batch_size": 4, "learning_rate": 5e-3, "precision": chosen}
        )
        job = make_job(tmp_path, llama, protection=protection(where), train=train)
        run = whole_run(job, tmp_path / str(number))
        losses.append([event["loss"] for event in run.of("step", "client:north")])
        state = trainable_state(run.models["north"])
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert losses[1] == pytest.approx(losses[0], abs=0.1)
    assert losses[1] != losses[0]


def test_the_processor_stands_in_for_a_gpu_by_name_alone(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, protection=protection("attested-gpu"))
    parties = sign_job(job, tmp_path / "run")
    assert admit_party(parties["north"]).device == "cuda"
    assert admit_party(parties["server"]).device == "cpu"  # it trains nothing
    named = parties["north"].model_copy(update={"device": "cpu"})
    assert admit_party(named).device == "cpu"
    lined_up = line_up(job, tmp_path / "run", keys={}, device="cpu")
    assert {one.role: one.device for one in lined_up} == {"server": None, "site": "cpu"}


@pytest.mark.parametrize("where", ["masked", "enclave"])
def test_an_operator_cannot_name_a_gpu_that_nobody_signed(
    llama: Path, tmp_path: Path, where: str
) -> None:
    """The host's own file says "cuda": what the enclave hides would go to a GPU that it has."""
    parties = sign_job(make_job(tmp_path, llama, protection=protection(where)), tmp_path / "run")
    for name in ("north", "server"):
        with pytest.raises(ConfigError, match='device: is "cuda"'):
            admit_party(parties[name].model_copy(update={"device": "cuda"}))


def test_the_enclaves_model_is_peft_s_own(llama: Path, tmp_path: Path) -> None:
    """transformers and peft alone, with the released adapter: the same gradients in float64."""
    job = make_job(tmp_path, llama, protection=protection("enclave"))
    federation = whole_run(job, tmp_path / "run")
    ours = federation.models["north"].double()
    labels = len(federation.resolved.labels)
    folder = tmp_path / "run/sites/north/adapter"
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=labels)
        theirs = PeftModel.from_pretrained(base, folder, is_trainable=True).double()
    base.config.pad_token_id = ours.config.pad_token_id
    ids = torch.randint(3, 60, (4, 16), generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 0, 1])
    gradients = []
    for model in (ours, theirs):
        model.eval()
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.nn.functional.cross_entropy(logits, targets).backward()
        gradients.append({n: p.grad for n, p in trainable_parameters(model).items()})
    mine, plain = gradients
    assert mine.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.allclose(mine[name], gradient, rtol=1e-9, atol=1e-13), name


def test_masked_layers_are_as_near_as_their_codes(llama: Path, tmp_path: Path) -> None:
    """A row of int8 codes is off by half a step a weight at most: so is each product, by that."""
    job = make_job(tmp_path, llama)
    federation = Federation(sign_job(job, tmp_path / "run"), tmp_path / "run")
    admitted = admit_party(federation.parties["north"])
    session = federation._session(admitted, "north")
    model = load_model(job.model, len(admitted.labels))
    codes = load_file(admitted.plan.backbone.path)
    x = torch.randn(8, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    group = admitted.plan.groups[0]
    masked = session.multiply(group.name, x).double()
    size = x.double().abs().sum(1, keepdim=True)
    start = 0
    for member in group.members:
        scale = codes[f"{member}.scale"].double()
        exact = x.double() @ model.get_submodule(member).weight.double().t()
        found = masked[:, start : start + len(scale)]
        start += len(scale)
        # and a little for the rounding of x
        assert ((found - exact).abs() <= 0.501 * scale * size).all()
        assert (found - exact).abs().max() > 1e-6, "the published weights are no int8"
