"""One job of ``scale.py``: real programs of server enclave and accelerator, each in its process.

    run({"sites": 2, "rows": 32, "tokens": 32, "layers": 2, "hidden": 128, "rounds": 2, "rank": 8})

The sites' enclaves are objects of this process, which carries their sealed messages to the server
enclave as the relay would, and all of them share the one accelerator. Model, tokenizer and texts
are made here. Seconds are processor seconds from when everything is loaded, so that other work on
the machine hardly shows in them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sealtune.cli.signing import throw_away
from sealtune.federation.enclave_link import Outcome, ServerEnclave, connect
from sealtune.job.event_log import Offload
from sealtune.job.events import Event, Memory, Ready
from sealtune.job.local import Local
from sealtune.job.local_file import anchored
from sealtune.job.scratch import scratch_folder
from sealtune.job.sections import JobSpec, SitesSpec, TrainSpec, TuningSpec
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.job.training_events import Worked
from sealtune.launch import environment
from sealtune.launch.child import Child, Exit
from sealtune.launch.parties import MANIFEST, admit_party, command, domain_of, line_up
from sealtune.methods.federated.adapter import adapter_size
from sealtune.methods.federated.site_trainer import SiteTrainer
from sealtune.model.load import quiet
from sealtune.offload.session import OffloadSession
from sealtune.party.site_program import SiteProgram
from sealtune.plan.resolve import resolve

BATCH = 8  # rows of a step
_WORDS = [f"word{number}" for number in range(200)]
_LABELS = ("heart", "lung", "skin")
_MIB = 1 << 20
_END = 20.0  # seconds that a process gets to end


def run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a job costs.

    Args:
        settings: ``rows`` and ``tokens`` of each site's texts; ``layers`` and ``hidden`` of the
            model, which has Llama 3's proportions; ``sites``, ``rounds``, and ``rank`` of the
            adapter. Every row is trained on once a round.

    Returns:
        ``seconds`` of server, accelerator and sites, in the whole job and, ``training``, in its
        rounds without evaluation and release; ``up`` and ``down``, bytes through the
        network; ``masked``, bytes to the accelerator and back; ``adapter``, bytes;
        ``server_mib`` and ``accelerator_mib`` at most, ``server_idle_mib`` before the job.
    """
    with scratch_folder() as folder:
        job = _job(settings, folder)
        (folder / MANIFEST).write_bytes(throw_away(resolve(job)).encode())
        history = folder / "jobs"
        parties = [anchored(p, folder) for p in line_up(job, folder, keys={}, history=history)]
        accelerator, server, *sites = parties
        with ExitStack() as stack:
            multiplies = stack.enter_context(_started(accelerator))
            averages = stack.enter_context(_started(server))
            enclaves = {p.site or "": stack.enter_context(_site(p)) for p in sites}
            idle = psutil.Process(averages.process.pid).memory_info().rss / _MIB
            measured = _carried(server, averages, multiplies, enclaves)
        ended = {child.role: _last(child) for child in (averages, multiplies)}
        shapes = admit_party(server).plan.shared
    offload, kept = ended["accelerator"]
    return {
        **measured,
        "masked": offload.bytes_in + offload.bytes_out if offload else 0,
        "adapter": adapter_size(shapes),
        "server_mib": ended["server"][1],
        "server_idle_mib": round(idle, 1),
        "accelerator_mib": kept,
    }


def _carried(
    server: Local, averages: Child, multiplies: Child, sites: Mapping[str, _Site]
) -> dict[str, Any]:
    """The whole job's messages, and what they cost."""
    up = down = 0
    first, last, working = 0, 0, 0.0
    clocks: list[list[float]] = []

    def look() -> None:
        clocks.append([_seconds(averages), _seconds(multiplies), working])

    look()
    with ServerEnclave(connect(server.listen)) as enclave:
        while (order := enclave.next()) is not None:
            look()
            for site, message in order.to.items():
                start = time.process_time()
                answer = sites[site].program.deliver(message)
                working += time.process_time() - start
                up, down = up + len(answer), down + len(message)
                enclave.report(Outcome(site, answer, "", 1, 0.0, len(message)))
            if any(one.trains for one in sites.values()):
                first, last = first or len(clocks) - 1, len(clocks) - 1
            for one in sites.values():
                one.trains = False
            ended = [_seconds(averages), _seconds(multiplies), working]
    return {
        "seconds": _between(clocks[0], ended),
        # from when the first round's question is out to when what follows the last one is
        "training": _between(clocks[first], clocks[last + 1]),
        "up": up,
        "down": down,
    }


def _between(before: list[float], after: list[float]) -> dict[str, float]:
    spent = (round(late - early, 3) for early, late in zip(before, after, strict=True))
    return dict(zip(("server", "accelerator", "sites"), spent, strict=True))


# --- processes ----------------------------------------------------------------------------------


@contextmanager
def _started(party: Local) -> Iterator[Child]:
    """A party's program, ready; it ends with the block."""
    domain, inbox = domain_of(party, command(party)), SimpleQueue[Any]()
    log = party.folder / f"{party.name}.log"
    variables = environment.variables({**domain.variables, "OMP_NUM_THREADS": "1"})
    child = Child.start(domain.role, domain.command, variables, log, inbox)
    try:
        while not isinstance(item := inbox.get(), Ready):
            if isinstance(item, Exit):
                raise RuntimeError(f"{domain.role} did not start:\n{child.tail()}")
        yield child
        child.stop()
        child.join(_END)
    finally:
        child.kill()
        child.join(_END)


def _last(child: Child) -> tuple[Offload | None, float]:
    """What a process that has ended said of its products and its memory."""
    offload, peak = None, 0.0
    while not isinstance(item := child.inbox.get(), Exit):
        if isinstance(item, Offload):
            offload = item
        elif isinstance(item, Memory):
            peak = item.peak_mib or 0.0
    return offload, peak


def _seconds(child: Child) -> float:
    """Processor seconds so far: that process's clock, as ``clock_getcpuclockid`` numbers it."""
    return time.clock_gettime((~child.process.pid << 3) | 2)


@dataclass
class _Site:
    """A site's enclave, in this process; ``trains``: it has, since somebody last asked."""

    program: SiteProgram
    trains: bool = False


@contextmanager
def _site(party: Local) -> Iterator[_Site]:
    admitted = admit_party(party)

    def emit(event: Event) -> None:
        if isinstance(event, Worked) and event.stage == "train":
            site.trains = True

    with OffloadSession.connect(
        party.accelerator,
        admitted.plan,
        integrity_bits=admitted.job.protection.integrity_bits,
        owner=f"{admitted.job_id}/{admitted.site}",
    ) as session:
        site = _Site(SiteProgram(admitted, SiteTrainer(admitted, session, emit), emit))
        yield site


# --- the job ------------------------------------------------------------------------------------


def _job(settings: Mapping[str, Any], folder: Path) -> Job:
    names = tuple(f"site-{number:02}" for number in range(settings["sites"]))
    tokens, rows = settings["tokens"], settings["rows"]
    _make_model(folder / "model", settings["layers"], settings["hidden"])
    train, test = (_texts(folder / f"{n}.jsonl", r, tokens) for n, r in (("a", rows), ("b", BATCH)))
    return Job(
        job=JobSpec(name="scale", rounds=settings["rounds"], seed=1),
        model=ModelSpec(path=str(folder / "model")),
        data=DataSpec(
            train=dict.fromkeys(names, train), test=dict.fromkeys(names, test), max_tokens=tokens
        ),
        sites=SitesSpec(names=names),
        tuning=TuningSpec.model_validate(
            {"lora": {"rank": settings["rank"], "targets": "all-linear"}}
        ),
        train=TrainSpec(batch_size=BATCH, eval_batch_size=BATCH),
    )


def _texts(path: Path, rows: int, tokens: int) -> Path:
    """Rows that fill a prompt's tokens, all different."""
    lines = []
    for row in range(rows):
        words = [_WORDS[(row + 7 * place) % len(_WORDS)] for place in range(2 * tokens)]
        lines.append(json.dumps({"text": " ".join(words), "label": _LABELS[row % len(_LABELS)]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _make_model(folder: Path, layers: int, hidden: int) -> None:
    """A random Llama with the proportions of Llama 3 8B, and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(1)
    words = ["<end>", "<unknown>", *_WORDS, *_LABELS]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<end>", eos_token="<end>", unk_token="<unknown>"
        ).save_pretrained(folder)
