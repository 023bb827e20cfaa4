"""Split jobs end to end in one process: what comes out, and what breaks off and goes on."""

from __future__ import annotations

import copy
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sealtune.data.site import load_sites
from sealtune.errors import SiteLostError, StorageError
from sealtune.job.sections import LoraSpec, NetworkSpec, PtuningSpec, SpfSpec, SplitSpec, TuningSpec
from sealtune.job.spec import Job, ModelSpec
from sealtune.methods.split.top_trainer import EVERYBODY
from sealtune.model import cut_chunk
from sealtune.model.activations import bytes_per_token
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.partial import load_part
from sealtune.model.samples import Contents, Sample
from sealtune.model.tasks import Task, make_task
from sealtune.model.texts import Texts, join
from sealtune.model.trainable import trainable_state
from sealtune.model.training import evaluate, local_round, make_optimizer
from sealtune.party.driver import Driver
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.folder import load_adapter
from sealtune.tuning.spf import read_spf_config
from tests.enclave.flow import SITES
from tests.enclave.split_flow import TRAIN, SplitFederation, make_split, make_split_job
from tests.float64 import as_near_as, in_float64

SMALL = 16_000  # bytes of a chunk, so that a tiny site has several
SPARE = NetworkSpec(min_sites=1)
WARMER = TRAIN.model_copy(update={"learning_rate": 0.05})
FISHER = TuningSpec(
    lora=LoraSpec(rank=4, dropout=0.1),
    spf=SpfSpec(query=0, key=0, value=1, dense=0.25, select="fisher", warm_steps=2),
)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_chunk, "CHUNK", SMALL)


TUNED = {
    "lora": TuningSpec(lora=LoraSpec(rank=4)),
    "spf": TuningSpec(spf=SpfSpec(qkv=0.5, dense=0.5)),
    "both": TuningSpec(lora=LoraSpec(rank=4), spf=SpfSpec(qkv=0.5, dense=0.5)),
    "dora": TuningSpec(lora=LoraSpec(rank=4, dora=True, start="orthogonal", scaling="rslora")),
    "lora-plus": TuningSpec(lora=LoraSpec(rank=4, learning_rate_ratio=4.0)),
    "prefix": TuningSpec(ptuning=PtuningSpec(virtual_tokens=5)),
    "projection": TuningSpec(ptuning=PtuningSpec(virtual_tokens=5, projection=True, hidden=12)),
}


def whole_run(job: Job, run_dir: Path, **terms: Any) -> SplitFederation:
    federation = make_split(job, run_dir, **terms)
    federation.run(federation.server())
    return federation


def adapter(federation: SplitFederation, site: str = "north") -> Path:
    return federation.run_dir / "sites" / site / "adapter"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW that does not enlarge what float32 rounds: where gradients are below its epsilon."""
    monkeypatch.setattr(torch.optim, "AdamW", partial(torch.optim.AdamW, eps=1e-3))


@pytest.mark.parametrize("task", ["classification", "label-words", "causal-lm"])
@pytest.mark.parametrize("tuned", TUNED)
@pytest.mark.usefixtures("calm")
def test_split_equals_unsplit(llama: Path, tmp_path: Path, task: str, tuned: str) -> None:
    """The same steps on the whole model, with the same parameters and batches: the same losses."""
    tuning = TUNED[tuned]
    model = ModelSpec.model_validate({"path": str(llama), "task": task})
    job = make_split_job(tmp_path, llama, model=model, tuning=tuning)
    federation = whole_run(job, tmp_path / "run")

    labels = federation.resolved.labels
    inner = make_task(task, load_tokenizer(model), max_tokens=24, template="{text}", labels=labels)
    sites = load_sites(job, labels)
    everything = join([inner.encode(sites[site].train) for site in SITES])
    whole = apply_tuning(
        load_model(model, len(labels) or None), tuning, task, job.job.seed, first_block=1
    )
    exact = copy.deepcopy(whole).double()
    losses = learn(whole, inner, everything, job)
    with in_float64():
        learn(exact, inner, everything, job)
    steps = [event["loss"] for event in federation.of("step")]
    assert steps == pytest.approx(losses, rel=1e-6, abs=1e-5)  # events have five decimals
    batch = everything.batch(range(8))
    with torch.no_grad(), in_float64():
        expected = inner.logits(exact.eval(), batch)
    for site in SITES:
        loaded = load_adapter(adapter(federation, site))
        with torch.no_grad():
            mine, theirs = inner.logits(whole.eval(), batch), inner.logits(loaded.model, batch)
        assert as_near_as(theirs, mine, expected)
    for site in SITES:
        found = evaluate(whole, inner, inner.encode(sites[site].test), batch_size=16)
        entry = federation.of("final")[0]["sites"][site]
        assert (entry["correct"], entry["total"]) == (found.correct, found.total)
        assert entry["loss"] == pytest.approx(found.loss, rel=1e-5)


def learn(model: Any, task: Task, texts: Texts, job: Job) -> list[float]:
    """Two rounds of three steps on everybody's examples."""
    optimizer = make_optimizer(model, job.train)
    losses: list[float] = []
    for number in (1, 2):
        losses += local_round(
            model,
            task,
            texts,
            job.train,
            seed=job.job.seed,
            round=number,
            site=EVERYBODY,
            optimizer=optimizer,
        ).losses
    assert len(losses) == 6
    return losses


@pytest.mark.parametrize("form", ["bf16", "int8", "fp32"])
@pytest.mark.usefixtures("small_chunks")
def test_each_sample_goes_up_once(llama: Path, tmp_path: Path, form: str) -> None:
    split = SplitSpec.model_validate({"cut": 1, "activations": form})
    job = make_split_job(tmp_path, llama, split=split)
    federation = whole_run(job, tmp_path / "run")
    before, *training, final = [*federation.of("round"), *federation.of("final")]
    for site in SITES:
        uploaded = federation.of("uploaded", f"client:{site}")
        assert [event["chunk"] for event in uploaded] == list(range(1, len(uploaded) + 1))
        assert len(uploaded) == uploaded[0]["of"] > 1
        tokens = sum(event["tokens"] for event in uploaded)
        samples = len(load_sites(job, federation.resolved.labels)[site].train)
        assert before["sites"][site]["examples"] == samples
        # the rest is lengths and labels (8 bytes a sample), heads, seals, and the handshake
        content = tokens * bytes_per_token(form, 64)
        overhead = before["sites"][site]["bytes_up"] - content
        assert 0 < overhead < 6000 + 700 * len(uploaded) + 8 * 60
        # training sends nothing, in no direction: no gradient comes down
        for event in training:
            entry = event["sites"][site]
            assert (entry["bytes_up"], entry["bytes_down"]) == (0, 0)
        assert final["sites"][site]["bytes_up"] < 6000


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("tuned", "schedule"), [("both", "constant"), ("both", "cosine"), ("fisher", "cosine")]
)
def test_resume_gives_the_same_bytes(
    llama: Path, tmp_path: Path, tuned: str, schedule: str
) -> None:
    """The server and both sites are killed again and again: the adapter is the same."""
    train = TRAIN.model_copy(update={"schedule": schedule})
    tuning = FISHER if tuned == "fisher" else TUNED[tuned]
    job = make_split_job(tmp_path, llama, train=train, tuning=tuning)
    expected = files(adapter(whole_run(job, tmp_path / "straight")))
    federation = make_split(job, tmp_path / "broken")
    for life in range(40):
        # 3 steps of a life are two for the handshake and one chunk, or loading and two rounds
        if _steps(federation, federation.server(resume=True), 3 + life % 3):
            break
        for site in SITES:
            federation.start_site(site)
    else:
        pytest.fail("the job did not end")
    assert life >= 5
    places = [(event["site"], event["chunk"]) for event in federation.of("upload")]
    assert len(places) == len(set(places)), "a chunk was sent twice"
    found = files(adapter(federation))
    # the job id differs: another validity, another signature
    assert {n: b for n, b in found.items() if n != "sealtune.json"} == {
        n: b for n, b in expected.items() if n != "sealtune.json"
    }


def _steps(federation: SplitFederation, server: Driver, count: int) -> bool:
    """Take ``count`` steps of the server; whether the job is done."""
    for _ in range(count):
        outgoing = server.next()
        if outgoing is None:
            return True
        for site, message in outgoing.items():
            server.reply(site, federation.sites[site].deliver(message))
    return False


@pytest.mark.usefixtures("small_chunks")
def test_a_site_that_vanishes_half_way(llama: Path, tmp_path: Path) -> None:
    """The others' data and the job are untouched; with enough sites it goes on without it."""
    job = make_split_job(tmp_path, llama, network=SPARE)
    federation = make_split(job, tmp_path / "run")

    def network(site: str, way: str, number: int, body: bytes) -> bytes | None:
        return None if site == "south" and number >= 4 else body

    federation.run(federation.server(), network=network)
    entry = federation.of("final")[0]["sites"]["south"]
    assert entry["outcome"] == "late"
    assert "deadline" in entry["reason"]
    assert federation.of("final")[0]["sites"]["north"]["outcome"] == "ok"
    alone = load_sites(job, federation.resolved.labels)["north"]
    assert federation.of("round")[-1]["sites"]["north"]["examples"] == len(alone.train)
    assert adapter(federation, "north").exists()
    assert not adapter(federation, "south").exists()


@pytest.mark.usefixtures("small_chunks")
def test_too_few_sites_end_the_job_and_resume_goes_on(llama: Path, tmp_path: Path) -> None:
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")

    def network(site: str, way: str, number: int, body: bytes) -> bytes | None:
        return None if site == "south" and number >= 4 else body

    with pytest.raises(SiteLostError, match="south: no answer before the deadline"):
        federation.run(federation.server(), network=network)
    kept = len(federation.of("upload"))
    federation.start_site("south")
    federation.run(federation.server(resume=True))
    places = [(event["site"], event["chunk"]) for event in federation.of("upload")]
    assert len(places) == len(set(places)) > kept
    assert federation.of("final")[0]["sites"]["south"]["outcome"] == "ok"


@pytest.mark.usefixtures("small_chunks")
def test_one_lost_message_is_asked_for_again(llama: Path, tmp_path: Path) -> None:
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")

    def network(site: str, way: str, number: int, body: bytes) -> bytes | None:
        return None if (site, way, number) == ("south", "up", 3) else body

    federation.run(federation.server(), network=network)
    assert federation.of("final")[0]["sites"]["south"]["outcome"] == "ok"


def test_both_sites_get_the_same_adapter(llama: Path, tmp_path: Path) -> None:
    federation = whole_run(make_split_job(tmp_path, llama), tmp_path / "run")
    assert files(adapter(federation, "north")) == files(adapter(federation, "south"))
    assert federation.of("exported")[0]["agreement"] == 1.0
    assert federation.of("exported")[0]["difference"] < 1e-3
    assert federation.of("heads")[0]["heads"].keys() == {"model.layers.1.self_attn"}


@pytest.mark.parametrize("tuned", ["dora", "prefix"])
def test_bf16_weights_under_what_is_tuned(llama: Path, tmp_path: Path, tuned: str) -> None:
    losses = []
    for number, precision in enumerate(("fp32", "bf16")):
        train = TRAIN.model_copy(update={"precision": precision})
        job = make_split_job(tmp_path, llama, train=train, tuning=TUNED[tuned])
        run = whole_run(job, tmp_path / str(number))
        losses.append([event["loss"] for event in run.of("step")])
    assert losses[1] == pytest.approx(losses[0], abs=0.1)
    assert losses[1] != losses[0]


def test_checkpointing_changes_nothing(llama: Path, tmp_path: Path) -> None:
    plain = whole_run(make_split_job(tmp_path, llama), tmp_path / "plain")
    train = TRAIN.model_copy(update={"checkpointing": True})
    other = whole_run(make_split_job(tmp_path, llama, train=train), tmp_path / "other")
    mine, theirs = ([e["loss"] for e in f.of("step")] for f in (plain, other))
    assert theirs == mine


@pytest.mark.parametrize("precision", ["bf16", "autocast"])
def test_precisions_of_the_server(llama: Path, tmp_path: Path, precision: str) -> None:
    plain = whole_run(make_split_job(tmp_path, llama), tmp_path / "plain")
    train = TRAIN.model_copy(update={"precision": precision})
    other = whole_run(make_split_job(tmp_path, llama, train=train), tmp_path / "other")
    mine, theirs = ([e["loss"] for e in f.of("step")] for f in (plain, other))
    assert theirs == pytest.approx(mine, abs=0.1)
    assert theirs != mine


def test_without_a_checkpoint_folder_resume_starts(llama: Path, tmp_path: Path) -> None:
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")
    federation.run(federation.server(resume=True))
    assert federation.of("final")


def test_a_full_disk_keeps_what_is_there(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")

    def full(path: Path, data: bytes) -> None:
        raise StorageError(f"cannot write {path}: no space left on device")

    monkeypatch.setattr("sealtune.methods.split.sample_store.write_atomic", full)
    with pytest.raises(StorageError, match="no space left"):
        federation.run(federation.server())
    monkeypatch.undo()
    federation.start_site("north")
    federation.start_site("south")
    federation.run(federation.server(resume=True))
    assert federation.of("final")[0]["sites"]["south"]["outcome"] == "ok"


def test_selectors_look_at_every_sites_samples(llama: Path, tmp_path: Path) -> None:
    tuning = TuningSpec(spf=SpfSpec(qkv=0.5, dense=0.5, select="activation", release_heads=True))
    federation = make_split(make_split_job(tmp_path, llama, tuning=tuning), tmp_path / "run")
    server = federation.server()
    read: list[str] = []
    honest = federation.enclave._store.read

    def record(sample: Sample) -> Contents:
        read.append(sample.site)
        return honest(sample)

    federation.enclave._trainer._store.read = record  # type: ignore[method-assign]
    while not federation.of("heads"):
        for site, message in (server.next() or {}).items():
            server.reply(site, federation.sites[site].deliver(message))
    assert set(read) == set(SITES)
    assert len(read) == 4 * 8


@pytest.mark.parametrize("select", ["gradient", "activation", "fisher"])
def test_heads_chosen_by_data_stay_inside(llama: Path, tmp_path: Path, select: str) -> None:
    """What is said on the operator's side tells no head unless the manifest asks for it."""
    told = {}
    for release in (False, True):
        spf = {"qkv": 0.5, "dense": 0.5, "select": select, "release_heads": release}
        spf |= {"warm_steps": 2} if select == "fisher" else {}
        tuning = TuningSpec.model_validate({"lora": {"rank": 4}, "spf": spf})
        folder = tmp_path / str(release)
        folder.mkdir()
        federation = whole_run(make_split_job(folder, llama, tuning=tuning), folder / "run")
        chosen = read_spf_config(adapter(federation)).heads
        assert chosen == federation.enclave._trainer.heads
        told[release] = json.dumps(federation.events)
        assert [event["heads"] for event in federation.of("heads")] == [
            json.loads(json.dumps(chosen))
        ] * release
    assert "self_attn" in told[True]
    assert "self_attn" not in told[False]


def test_fisher_begins_anew_after_its_warm_start(llama: Path, tmp_path: Path) -> None:
    """Other heads than without a warm start, and first values as if nothing had been trained."""
    chosen = []
    for steps in (0, 6):
        spf = SpfSpec(qkv=0.25, dense=0.25, select="fisher", warm_steps=steps)
        tuning = TuningSpec(lora=LoraSpec(rank=4, dropout=0.1), spf=spf)
        job = make_split_job(tmp_path, llama, tuning=tuning, train=WARMER)
        federation = make_split(job, tmp_path / f"run{steps}")
        server = federation.server()
        while not federation.of("round"):
            _steps(federation, server, 1)
        trainer = federation.enclave._trainer
        top = load_part(job.model, len(federation.resolved.labels), 1, "top")
        choices = {"spf": trainer.heads}
        seed = job.job.seed
        fresh = apply_tuning(top, tuning, "classification", seed, first_block=1, choices=choices)
        mine, theirs = trainable_state(trainer._model), trainable_state(fresh)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
        assert not any(module.training for module in trainer._model.modules())
        chosen.append(trainer.heads)
    assert chosen[0] != chosen[1]


def test_padding_of_tokenizer_and_model_agree(llama: Path, tmp_path: Path) -> None:
    """The head reads a text's class before its padding, whatever the model's files say of it."""
    base = tmp_path / "model"
    shutil.copytree(llama, base)
    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(content | {"pad_token_id": 1}))
    job = make_split_job(tmp_path, base)
    federation = whole_run(job, tmp_path / "run")
    loaded = load_adapter(adapter(federation))
    sites = load_sites(job, federation.resolved.labels)
    for site in SITES:
        texts = loaded.task.encode(sites[site].test)
        found = evaluate(loaded.model, loaded.task, texts, batch_size=32)
        entry = federation.of("final")[0]["sites"][site]
        assert entry["loss"] == pytest.approx(found.loss, rel=1e-4)
