"""Sites of ranks 4, 8 and 16 in one job: what they are sent, what comes of it, what they keep."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load, load_file, save
from transformers import AutoModelForSequenceClassification

from sealtune.frames import Frame
from sealtune.job.sections import LoraSpec, NetworkSpec, SitesSpec, TuningSpec
from sealtune.job.spec import Job
from sealtune.methods.federated.server import FederatedServer
from sealtune.model.load import quiet
from sealtune.tuning.folder import load_adapter
from tests.enclave.flow import Federation, make_federation, make_job, resumed
from tests.model.tiny import batch_of, make_texts

RANKS = {"north": 4, "south": 8, "west": 16}
SENT = {"north": 4, "south": 8}
WEIGHTS = "adapter_model.safetensors"
ROUND_1 = 3  # number of its exchange
Adapter = dict[str, np.ndarray]


def ranks_job(folder: Path, base: Path, rank: int = 16, rounds: int = 2, **lora: object) -> Job:
    """West has the job's rank, which is 16 or, to hold all directions, 28."""
    ranks = SENT if rank == 16 else RANKS
    spec = LoraSpec.model_validate({"rank": rank, "alpha": 2 * rank, "ranks": ranks, **lora})
    return make_job(
        folder,
        base,
        job={"seed": 3, "rounds": rounds},
        sites=SitesSpec(names=tuple(RANKS), partition="dirichlet", alpha=5.0),
        tuning=TuningSpec(lora=spec),
        aggregation={"rule": "exact", "outliers": "report"},  # equal whatever the server's key
    )


class Recorded:
    """A run whose questions and answers are kept."""

    def __init__(self, job: Job, run_dir: Path) -> None:
        self.federation = make_federation(job, run_dir)
        self.sent: list[dict[str, Adapter]] = []  # of each question: site -> adapter
        self.trained: list[dict[str, Adapter]] = []
        for site, program in self.federation.sites.items():
            self._record(site, program)

    def _record(self, site: str, program: object) -> None:
        honest, asked = program._worker.answer, 0  # type: ignore[attr-defined]

        def answer(question: Frame) -> Frame:
            nonlocal asked
            if len(self.sent) == asked:
                self.sent.append({})
            self.sent[asked][site] = load(bytes(question.body))
            asked += 1
            reply: Frame = honest(question)
            if question.kind == "train":
                if len(self.trained) < question.meta["round"]:
                    self.trained.append({})
                self.trained[-1][site] = load(bytes(reply.body))
            return reply

        program._worker.answer = answer  # type: ignore[attr-defined]

    def run(self) -> Federation:
        self.federation.run(self.federation.aggregator())
        return self.federation


@pytest.fixture(scope="module")
def straight(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A whole run; not to be changed."""
    folder = tmp_path_factory.mktemp("ranks")
    run = Recorded(ranks_job(folder, llama), folder / "run")
    run.run()
    return run


def layers(adapter: Adapter) -> list[str]:
    return sorted(name for name in adapter if ".lora_A." in name)


def product(adapter: Adapter, layer: str) -> np.ndarray:
    b = adapter[layer.replace("lora_A", "lora_B")].astype(np.float64)
    return b @ adapter[layer].astype(np.float64)


def relative(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    error = sum(float(np.sum((f - e) ** 2)) for f, e in zip(found, expected, strict=True))
    return float(np.sqrt(error / sum(float(np.sum(e**2)) for e in expected)))


def merged_means(run: Recorded, round_: int) -> list[np.ndarray]:
    """The mean of what each site would have merged into its weights, in float64."""
    data = run.federation.resolved.manifest.data
    total = sum(one.train_rows for one in data.values())
    answers = run.trained[round_ - 1]
    return [
        sum(data[site].train_rows / total * product(answers[site], layer) for site in RANKS)
        for layer in layers(answers["west"])
    ]  # type: ignore[misc]


def factor_means(run: Recorded, round_: int) -> list[np.ndarray]:
    """The product of mean factors; what a lower rank lacks is 0."""
    data = run.federation.resolved.manifest.data
    total = sum(one.train_rows for one in data.values())
    answers, products = run.trained[round_ - 1], []
    for a in layers(answers["west"]):
        b = a.replace("lora_A", "lora_B")
        means = {n: np.zeros(answers["west"][n].shape) for n in (a, b)}
        for site, rank in RANKS.items():
            share = data[site].train_rows / total
            means[a][:rank] += share * answers[site][a]
            means[b][:, :rank] += share * answers[site][b]
        products.append(means[b] @ means[a])
    return products


def test_each_site_trains_at_its_rank_and_the_mean_is_that_of_merged_weights(
    llama: Path, tmp_path: Path
) -> None:
    run = Recorded(ranks_job(tmp_path, llama, rank=28), tmp_path / "run")
    federation = run.run()
    for question in run.sent:
        for site, adapter in question.items():
            assert {adapter[layer].shape[0] for layer in layers(adapter)} == {RANKS[site]}
    rounds = federation.of("round")[1:]
    for number, event in enumerate(rounds, 1):
        assert event["residual"] == 0
        wrong = relative(factor_means(run, number), merged_means(run, number))
        assert event["factor_error"] == pytest.approx(wrong, rel=1e-4)
        assert wrong > 0.02
    global_after = final_adapter(federation)
    found = [product(global_after, layer) for layer in layers(global_after)]
    assert relative(found, merged_means(run, 2)) < 1e-5


def final_adapter(federation: Federation) -> Adapter:
    """The global adapter in the checkpoint."""
    server = FederatedServer(resumed(federation.resolved, True), federation.emitter("server"))
    return load(server._adapter.body)


def test_the_residual_is_the_true_one(straight: Recorded) -> None:
    federation = straight.federation
    after = load_file(adapter_folder(federation, "west") / WEIGHTS)
    expected = merged_means(straight, 2)
    true = relative([product(after, layer) for layer in layers(after)], expected)
    event = federation.of("round")[2]
    assert event["residual"] == pytest.approx(true, rel=1e-3)
    assert 1e-4 < event["residual"] < event["factor_error"]


def adapter_folder(federation: Federation, site: str) -> Path:
    return federation.run_dir / "sites" / site / "adapter"


def test_every_site_begins_with_the_same_first_directions(straight: Recorded) -> None:
    for question in straight.sent:
        for layer in layers(question["west"]):
            for site, rank in RANKS.items():
                assert np.array_equal(question[site][layer], question["west"][layer][:rank])
    assert not straight.sent[0]["west"][layer.replace("lora_A", "lora_B")].any()


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_plain_peft_loads_each_site_s_own_rank(llama: Path, tmp_path: Path, scaling: str) -> None:
    federation = make_federation(
        ranks_job(tmp_path, llama, rounds=1, scaling=scaling), tmp_path / "run"
    )
    federation.run(federation.aggregator())
    task = load_adapter(adapter_folder(federation, "west")).task
    batch = batch_of(task, make_texts(5, 0))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    for site, rank in RANKS.items():
        folder = adapter_folder(federation, site)
        with quiet():
            base = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=3)
            plain = PeftModel.from_pretrained(base, folder).eval()
        settings = plain.peft_config["default"]
        assert settings.r == rank
        # B A is scaled alike at every site, so that their mean means something
        scale = settings.lora_alpha / (rank if scaling == "lora" else math.sqrt(rank))
        assert scale == pytest.approx(2.0 if scaling == "lora" else 8.0)
        layer = plain.base_model.model.model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == pytest.approx(scale)
        with torch.no_grad():
            found = plain(**inputs).logits
            assert torch.equal(found, load_adapter(folder).model(**inputs).logits)
            with plain.disable_adapter():
                assert not torch.equal(found, plain(**inputs).logits)


def test_a_resumed_run_gives_the_same_bytes(
    straight: Recorded, llama: Path, tmp_path: Path
) -> None:
    job = ranks_job(tmp_path, llama)
    broken = make_federation(job, tmp_path / "broken")
    broken.run(broken.aggregator(), exchanges=ROUND_1 + 2)  # round 2 has begun
    broken = make_federation(job, tmp_path / "broken")
    broken.run(broken.aggregator(resume=True))
    for site in RANKS:
        expected, found = (adapter_folder(f, site) / WEIGHTS for f in (straight.federation, broken))
        assert found.read_bytes() == expected.read_bytes()


def test_a_site_that_answers_at_another_rank_fails_alone(llama: Path, tmp_path: Path) -> None:
    job = ranks_job(tmp_path, llama, rounds=1).model_copy(
        update={"network": NetworkSpec(min_sites=2)}
    )
    federation = make_federation(job, tmp_path / "run")
    honest = federation.sites["north"]._worker.answer

    def answer(question: Frame) -> Frame:
        reply: Frame = honest(question)
        if question.kind != "train":
            return reply
        wide = {
            name: np.repeat(tensor, 2, axis=0) if ".lora_A." in name else tensor
            for name, tensor in load(bytes(reply.body)).items()
        }
        return dataclasses.replace(reply, body=save(wide))

    federation.sites["north"]._worker.answer = answer  # type: ignore[method-assign]
    federation.run(federation.aggregator())
    sites = federation.of("round")[1]["sites"]
    assert {site: sites[site]["outcome"] for site in RANKS} == {
        "north": "failed", "south": "ok", "west": "ok"
    }  # fmt: skip
    assert "bytes, expected about" in sites["north"]["reason"]
