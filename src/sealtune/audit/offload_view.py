"""The adapter, from what the accelerator saw.

An accelerator gets the input of every frozen layer, each row to a scale of its own. In models built
as Llama the inputs that follow each other give the adapter away: with the residual stream h before
a layer W that writes to it, the input a of W, and the stream u after it,

    u = p h + q (W + B A) a        for every token, p and q unknown

which is solved for B A by alternating least squares, but for a multiple of W + B A, which q takes
in. And where the adapter is known at the start of
a step, as the first one is from the manifest's seed, the inputs x and the gradients g of a layer
give its next values: dL/dB is the sum of g (A x)^T over tokens.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from sealtune.audit import statistics
from sealtune.audit.attack import Attack, Report
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.miniature import Miniature
from sealtune.audit.subject import Subject
from sealtune.audit.watched import Watched, watched
from sealtune.job.plan import plain_name
from sealtune.model.load import load_config
from sealtune.model.structure import find_blocks
from sealtune.model.texts import Texts
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.model.training import evaluate, local_round

NAME = "adapter-extraction"
ROUNDS = 12  # of the alternation
TRAINED = 8  # steps after which the adapter is extracted
_ROWS, _TOKENS, _BLOCKS = 100, 32, 4  # of each site, of a row, of the model
# residual stream, norm by root mean square, attention, and again with the perceptron
_AS_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "granite")


class Writer(NamedTuple):
    """A tuned layer that writes to the residual stream, between two normed readings of it."""

    name: str
    before: str  # groups of the plan
    own: str
    after: str
    norms: tuple[Tensor, Tensor]  # weights of the norms before ``before`` and ``after``


def _applies(subject: Subject) -> str:
    job = subject.job
    if not job.accelerated:
        return "no accelerator takes part: frozen layers are computed where the adapter is"
    if job.tuning.lora is None:
        return "what is tuned is no LoRA, so there is no product B A to regress"
    return ""


def _run(subject: Subject, report: Report) -> list[Finding]:
    report(0.0, "cutting the model")
    rows = subject.scaled(_ROWS, 40)
    small = subject.miniature(blocks=_BLOCKS, train=rows, test=8, tokens=_TOKENS)
    texts = small.texts([row for data in small.sites.values() for row in data.train])
    findings = [_from_gradients(subject, small, texts, report)]
    if finding := _from_activations(subject, small, texts, report):
        findings.append(finding)
    report(1.0, "")
    return [one for one in findings if one is not None]


def _found(
    subject: Subject, variant: str, measure: str, rates: Sequence[Rate], note: str
) -> Finding:
    bare = subject.job.protection.protect == "insecure-none"
    note = f"{note}; the run has no masks: protect = insecure-none" if bare else note
    return Finding(NAME, variant, measure, 0.0, rates[0], rates[1], limit=bare, note=note)


# ---- the next step's adapter, from inputs and gradients ------------------------------------------


def _from_gradients(
    subject: Subject, small: Miniature, texts: Texts, report: Report
) -> Finding | None:
    """What one batch shows of dL/dB, when A and B are known."""
    rates = []
    size = min(small.job.train.batch_size, len(texts))
    for masked in (False, True):
        report(0.1 + 0.2 * masked, f"a step {'with' if masked else 'without'} masks")
        with watched(small, subject.job_id, masked=masked) as one:
            loss = small.task.loss(one.model, texts.batch(range(size)))
            loss.backward()  # type: ignore[no-untyped-call]
            cosines = [_gradient_cosines(one, *layer) for layer in _tuned(one)]
        rates.append(statistics.mean(torch.cat(cosines).numpy(), seed=subject.seed))
    return _found(
        subject,
        "one step's gradients",
        "cosine of a row of dL/dB and the row that inputs and gradients give, mean",
        rates,
        "by symmetry, a guess has cosine 0 in the mean",
    )


def _tuned(one: Watched) -> Iterator[tuple[str, int, nn.Module]]:
    """Group, place in it and module of each LoRA layer that gets a gradient back."""
    places = {
        m: (g.name, i) for g in one.plan.groups if g.backward for i, m in enumerate(g.members)
    }
    for path, module in one.model.named_modules():
        if hasattr(module, "lora_B") and plain_name(path) in places:
            yield (*places[plain_name(path)], module)


def _gradient_cosines(one: Watched, group: str, member: int, layer: Any) -> Tensor:
    """Of each row of dL/dB that is not zero."""
    spec = next(g for g in one.plan.groups if g.name == group)
    x = _unit(one.watcher.codes(group).double())
    g = one.watcher.codes(group, backward=True).double()
    scale = torch.cat([_read(one, f"{m}.scale") for m in spec.members]).double()
    mine = list(torch.split(g / scale, list(spec.out_features), dim=1))[member]
    down = layer.lora_A["default"].weight.detach().double()
    truth = layer.lora_B["default"].weight.grad.double()
    return _row_cosines(_unit(mine).T @ (x @ down.T), truth)


# ---- the adapter itself, from inputs that follow each other --------------------------------------


def _from_activations(
    subject: Subject, small: Miniature, texts: Texts, report: Report
) -> Finding | None:
    """What a pass over all rows shows of B A; None: of this model or these targets, nothing."""
    if load_config(small.job.model).model_type not in _AS_LLAMA:
        return None
    report(0.4, "training an adapter")
    model = small.tuned()
    spec = small.job.train.model_copy(update={"steps_per_round": TRAINED})
    site = small.job.sites.names[0]
    local_round(model, small.task, texts, spec, seed=subject.seed, round=1, site=site)
    state = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    rates, count = [], 0
    for masked in (False, True):
        report(0.5 + 0.25 * masked, f"regressing {'with' if masked else 'without'} masks")
        with watched(small, subject.job_id, masked=masked) as one:
            load_trainable_state(one.model, state)
            writers = _writers(one)
            if not writers:
                return None
            evaluate(one.model, small.task, texts, batch_size=small.job.train.eval_batch_size)
            cosines = [_extract(one, writer) for writer in writers]
        rates.append(statistics.mean(torch.cat(cosines).numpy(), seed=subject.seed))
        count = len(writers)
    return _found(
        subject,
        "activations of a test",
        "cosine of a row of B A and the row regressed from activations, mean",
        rates,
        f"{count} layers, {int(sum(texts.lengths)):,} tokens; by symmetry, a guess has cosine 0 "
        "in the mean",
    )


def _writers(one: Watched) -> list[Writer]:
    """Tuned layers between two readings of the residual stream that the accelerator sees."""
    path, blocks = find_blocks(one.model)
    path = plain_name(path)
    groups = {member: group.name for group in one.plan.groups for member in group.members}
    tuned = {plain_name(p) for p, m in one.model.named_modules() if hasattr(m, "lora_B")}
    readings = list[tuple[str, Tensor]]()  # what reads the stream, in order, and its norm
    for i, block in enumerate(blocks):
        given: Any = block
        readings.append((f"{path}.{i}.self_attn.q_proj", given.input_layernorm.weight))
        readings.append((f"{path}.{i}.mlp.gate_proj", given.post_attention_layernorm.weight))
    between = [
        f"{path}.{i}.{n}" for i in range(len(blocks)) for n in ("self_attn.o_proj", "mlp.down_proj")
    ]
    return [
        Writer(own, groups[first], groups[own], groups[last], (a.detach(), b.detach()))
        for own, ((first, a), (last, b)) in zip(between, pairwise(readings), strict=False)
        if own in tuned and {own, first, last} <= groups.keys()
    ]


def _extract(one: Watched, writer: Writer) -> Tensor:
    """Cosines of the true and the regressed rows of B A."""
    before, after = (
        _unit(one.watcher.codes(group).double() / norm.double())
        for group, norm in zip((writer.before, writer.after), writer.norms, strict=True)
    )
    own = _unit(one.watcher.codes(writer.own).double())
    weight = _read(one, f"{writer.name}.weight").double()
    weight = weight * _read(one, f"{writer.name}.scale").double()[:, None]
    module: Any = next(m for p, m in one.model.named_modules() if plain_name(p) == writer.name)
    pair = (module.lora_B["default"].weight, module.lora_A["default"].weight)
    truth = pair[0].detach().double() @ pair[1].detach().double()
    return _row_cosines(regress(before, own, after, weight), truth)


def regress(before: Tensor, own: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """B A [N, K] from ``after ~ p before + q (W + B A) own`` in each row, p and q unknown.

    Args:
        before, after: [T, N], rows to any scale.
        own: [T, K], rows to any scale.
        weight: W [N, K].
    """
    found: Tensor = torch.zeros_like(weight)
    for _ in range(ROUNDS):
        written = own @ (weight + found).T
        p, q = _two_scales(before, written, after)
        left, rows = after - p * before - q * (own @ weight.T), q * own
        gram = rows.T @ rows
        gram.diagonal().add_(1e-9 * gram.diagonal().mean())
        found = torch.linalg.solve(gram, rows.T @ left).T
    return found


def _two_scales(first: Tensor, second: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """p and q [T, 1] of ``whole ~ p first + q second``, by least squares in each row."""
    aa, ab, bb = (_dot(*pair) for pair in ((first, first), (first, second), (second, second)))
    ac, bc = _dot(first, whole), _dot(second, whole)
    det = (aa * bb - ab * ab).clamp_min(1e-30)
    return (ac * bb - bc * ab) / det, (bc * aa - ac * ab) / det


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def _unit(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.clamp_min(1e-30)


def _row_cosines(found: Tensor, truth: Tensor) -> Tensor:
    """Of rows that are not zero."""
    there = torch.linalg.vector_norm(truth, dim=1) > 0
    return (_unit(found[there]) * _unit(truth[there])).sum(1)


def _read(one: Watched, name: str) -> Tensor:
    """A tensor of the int8 backbone, which is public."""
    with safe_open(one.plan.backbone.path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


ADAPTER_EXTRACTION = Attack(
    NAME,
    "Computes the adapter, or its next values, from the inputs and gradients of frozen layers.",
    "whoever runs the accelerator; knows the public model, the plan and the first values",
    _run,
    _applies,
)
