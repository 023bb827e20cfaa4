"""What a person reads of a manifest before signing."""

from __future__ import annotations

from pathlib import Path

from sealtune.cli.manifest_facts import _computes, _weak
from sealtune.cli.training_view import rounds, tuned
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.sections import LoraSpec, ProtectionSpec, PtuningSpec, TuningSpec
from sealtune.launch.parties import admit_party
from sealtune.party.trust import read_policies
from tests.enclave.flow import make_job, sign_job
from tests.job import sample


def test_lower_ranks_are_named() -> None:
    lora = LoraSpec(rank=16, targets=("q_proj",), ranks={"north": 4, "south": 8})
    assert tuned(TuningSpec(lora=lora)) == "LoRA rank 16 (4 at north, 8 at south) on q_proj"
    assert tuned(TuningSpec(lora=LoraSpec(targets=("q_proj",)))) == "LoRA rank 8 on q_proj"


def test_every_way_of_tuning_is_named() -> None:
    """Whoever signs reads what is trained, and how."""
    lora = LoraSpec(targets="all-linear", scaling="rslora", dora=True, learning_rate_ratio=8.0)
    said = tuned(TuningSpec(lora=lora.model_copy(update={"start": "orthogonal"})))
    assert said == ("LoRA rank 8 on all-linear, rsLoRA's scale, DoRA, orthogonal start, LoRA+ 8")
    prefix = PtuningSpec(virtual_tokens=4, projection=True)
    said = tuned(TuningSpec(ptuning=prefix))
    assert said == "P-tuning v2, 4 virtual tokens through a perceptron"
    said = tuned(TuningSpec(ptuning=PtuningSpec(virtual_tokens=1)))
    assert said == "P-tuning v2, 1 virtual token"


def test_what_becomes_of_updates_is_named() -> None:
    """What weighs, bounds and moves the joint adapter is signed, so it is read first."""
    settings = sample.JOB.settings
    assert ("updates", "fedavg, norm bound auto") in rounds(settings)
    chosen = AggregationSpec(
        norm_bound=2.0, outliers="report", server_optimizer="fedavgm", proximal=0.1
    )
    said = dict(rounds(settings.model_copy(update={"aggregation": chosen})))
    assert said["updates"] == (
        "fedavg, norm bound 2.0, outliers report, server optimizer fedavgm, proximal 0.1"
    )


def test_where_layers_are_computed_is_named(llama: Path, tmp_path: Path) -> None:
    """Red where a GPU is said to be attested, and proves nothing."""
    seen = {}
    for where in ("masked", "enclave", "attested-gpu"):
        folder = tmp_path / where
        folder.mkdir()
        job = make_job(folder, llama, protection=ProtectionSpec.model_validate({"compute": where}))
        manifest = admit_party(sign_job(job, folder / "run")["server"]).manifest
        (line,) = _computes(manifest)
        red = any("GPU" in words for words in _weak(manifest, read_policies(manifest)))
        seen[where] = (line.words, line.tone, red)
    assert seen == {
        "masked": ("on accelerators that nobody trusts, under masks", "", False),
        "enclave": ("on the enclave's own processor", "", False),
        "attested-gpu": ("on a GPU that PROVES NOTHING: simulated evidence", "bad", True),
    }
