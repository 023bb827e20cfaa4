"""Token recovery from cut activations, at several depths of the cut.

Without protection activations cross the network as they are (vanilla split learning); the attacker
has the public model, and texts of the same kind as those that are attacked: the other sites'.
With it, whoever carries or stores a site's upload has the sealed message, whose layout is public:
the same guesses are made from the bytes at the activations' places.

Inside the server enclave activations are readable, and as good as the text. That is a limit.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sealtune.audit.attack import Attack, Report
from sealtune.audit.finding import Finding
from sealtune.audit.sealed_view import by_force, seal
from sealtune.audit.statistics import share
from sealtune.audit.subject import Subject
from sealtune.audit.token_guess import Inverter, Known, nearest
from sealtune.data.site import Example
from sealtune.job.spec import ModelSpec
from sealtune.model.activations import LARGEST, Form, bytes_per_token, pack, unpack
from sealtune.model.batches import sorted_batches
from sealtune.model.cut_chunk import Chunk
from sealtune.model.fit import fit_texts, fitting_task
from sealtune.model.load import load_config
from sealtune.model.partial import load_part
from sealtune.model.texts import Texts
from sealtune.owner.bottom import Bottom
from sealtune.plan.split import cut_at

NAME = "cut-inversion"
MEASURE = "share of a site's tokens recovered"
ATTACKED, OWN = 48, 400  # texts of the site, and of the attacker
FORMS: tuple[Form, ...] = ("fp32", "bf16", "int8")
_BATCH = 16
Guess = Callable[[Tensor], Tensor]


class Cut:
    """The first blocks of a public model, and what they make of both sides' texts.

    Args:
        model: the public model.
        depth: blocks before the cut.
        attacked: the site's texts.
        own: the attacker's.
    """

    def __init__(self, model: ModelSpec, depth: int, attacked: Texts, own: Texts) -> None:
        part = load_part(model, None, depth, "bottom")
        bottom = Bottom(part, depth)
        self.depth, self.attacked, self.own = depth, attacked, own
        self._sent, self._made = (_activations(bottom, texts) for texts in (attacked, own))
        self.embedding: Tensor = part.get_input_embeddings().weight

    def upload(self, form: Form) -> Upload:
        """What the site sends."""
        packed = tuple(pack(one, form) for one in self._sent)
        labels = tuple(-1 if label is None else label for label in self.attacked.labels)
        body = Chunk("train", self.attacked.lengths, labels, None, packed).body()
        return Upload(self.attacked, form, self._sent[0].shape[1], body)

    def known(self, form: Form) -> Known:
        """The attacker's tokens, in the form that travels."""
        width = self._made[0].shape[1]
        hidden = [unpack(pack(one, form), form, width) for one in self._made]
        ids = torch.from_numpy(self.own.ids.astype(np.int64))
        return Known(torch.cat(hidden), ids, _first(self.own))


@dataclass(frozen=True)
class Upload:
    """What a site sends of some texts.

    Attributes:
        texts: of the site.
        form: of the activations.
        width: values of a token's activations.
        body: of the chunk, as ``model.cut_chunk`` writes it.
    """

    texts: Texts
    form: Form
    width: int
    body: bytes

    @property
    def ids(self) -> Tensor:
        """What is to be recovered, int64 [N]."""
        return torch.from_numpy(self.texts.ids.astype(np.int64))


def inversion(cut: Cut, form: Form) -> list[Finding]:
    """Both ways to guess, on the plain and on the sealed upload."""
    known, upload = cut.known(form), cut.upload(form)
    inverter = Inverter(known, cut.embedding)
    seen = [read(upload, body) for body in (upload.body, by_force(seal(upload.body)))]
    first, ids = _first(cut.attacked), upload.ids
    guesses: dict[str, Guess] = {
        "nearest": lambda seen: nearest(known, seen, first),
        "inverter": lambda seen: inverter.guess(seen, first),
    }
    reach = float(torch.isin(ids, known.ids).double().mean())
    found = []
    for name, guess in guesses.items():
        plain, sealed = (share(int((guess(one) == ids).sum()), len(ids)) for one in seen)
        found.append(
            Finding(
                NAME,
                f"{name}, cut {cut.depth}, {form}",
                MEASURE,
                chance=_by_place(cut.attacked, cut.own),
                baseline=plain,
                protected=sealed,
                note=f"{reach:.0%} of the tokens occur in the attacker's own texts",
            )
        )
    return found


def inside(found: Sequence[Finding], depth: int) -> Finding:
    """What the server enclave can recover: it reads activations as a wire without seals would."""
    best = max(found, key=lambda one: one.baseline.value)
    return Finding(
        NAME,
        f"inside the server enclave, cut {depth}",
        MEASURE,
        best.chance,
        best.baseline,
        None,
        limit=True,
        note="cut activations are as good as the text: believe the enclave, or do not take part",
    )


def read(upload: Upload, body: bytes) -> Tensor:
    """Activations float32 [N, D] at their places in a chunk's body; lengths are known to all.

    What is no number there, or one that no model has, becomes one.
    """
    each = bytes_per_token(upload.form, upload.width)
    lengths = upload.texts.lengths
    at, found = len(upload.body) - each * sum(lengths), []
    for tokens in lengths:
        found.append(_numbers(body[at : at + tokens * each], upload.form, upload.width))
        at += tokens * each
    return torch.cat(found)


def _numbers(data: bytes, form: Form, width: int) -> Tensor:
    """As ``unpack``, which refuses what no site sends."""
    raw, count = bytearray(data), len(data) // bytes_per_token(form, width)
    if form == "int8":
        codes = torch.frombuffer(raw, dtype=torch.int8, count=count * width).float()
        scales = torch.frombuffer(raw, dtype=torch.bfloat16, offset=count * width).float()
        values = codes.reshape(count, width) * scales[:, None]
    else:
        kind = torch.float32 if form == "fp32" else torch.bfloat16
        values = torch.frombuffer(raw, dtype=kind).reshape(count, width).float()
    return values.nan_to_num().clamp(-LARGEST, LARGEST)


def _activations(bottom: Bottom, texts: Texts) -> list[Tensor]:
    """Of each text, float32 [T, D]."""
    found: dict[int, Tensor] = {}
    for chosen in sorted_batches(texts.lengths, _BATCH):
        batch = texts.batch(chosen)
        hidden = bottom(batch.input_ids, batch.attention_mask)
        found |= {i: hidden[k, : texts.lengths[i]].clone() for k, i in enumerate(chosen)}
    return [found[i] for i in range(len(texts))]


def _places(texts: Texts) -> Tensor:
    """Number of each token in its text, int64 [N]."""
    return torch.cat([torch.arange(length) for length in texts.lengths])


def _first(texts: Texts) -> Tensor:
    return _places(texts) == 0


def _by_place(attacked: Texts, own: Texts) -> float:
    """What guessing gets: at each place of a text the token that is most frequent there."""
    counts: dict[int, Counter[int]] = {}
    for place, token in zip(_places(own).tolist(), own.ids.tolist(), strict=True):
        counts.setdefault(place, Counter())[token] += 1
    usual = {place: count.most_common(1)[0][0] for place, count in counts.items()}
    pairs = zip(_places(attacked).tolist(), attacked.ids.tolist(), strict=True)
    hits = [usual.get(place) == token for place, token in pairs]
    return hits.count(True) / len(hits)


# --- the attack on a run ------------------------------------------------------------------------


def _applies(subject: Subject) -> str:
    return "" if subject.job.split is not None else "no activations leave a site of a federated job"


def _run(subject: Subject, report: Report) -> list[Finding]:
    attacked, own = _texts(subject)
    settings = subject.job.split_settings
    deepest = cut_at(settings.cut, subject.blocks)
    depths = {1, deepest} if subject.quick else {1, deepest // 4, deepest // 2, deepest}
    found: list[Finding] = []
    for number, depth in enumerate(sorted(depths - {0})):
        report(number / len(depths), f"cut {depth}")
        cut = Cut(subject.job.model, depth, attacked, own)
        every = depth == deepest and not subject.quick
        for form in FORMS if every else (settings.activations,):
            found += inversion(cut, form)
    there = [one for one in found if one.variant.endswith(f"{deepest}, {settings.activations}")]
    return [*found, inside(there, deepest)]


def _texts(subject: Subject) -> tuple[Texts, Texts]:
    """Some of the first site's texts, and others: of the other sites, or its own test rows."""
    small = subject.miniature(
        blocks=1,
        train=subject.scaled(OWN),
        test=subject.scaled(OWN),
        tokens=subject.job.data.max_tokens,
    )
    first, *others = small.sites.values()
    attacked = first.train[: subject.scaled(ATTACKED)]
    there = {row.text for row in attacked}
    every = [row for data in others for row in data.train] or first.test
    order = np.random.default_rng(subject.seed).permutation(len(every))
    own = [row for i in order if (row := every[i]).text not in there][: subject.scaled(OWN)]
    task, config = fitting_task(subject.job, subject.labels), load_config(subject.job.model)

    def encode(rows: Sequence[Example]) -> Texts:
        return fit_texts(task, config, rows)

    return encode(attacked), encode(own)


CUT_INVERSION = Attack(
    NAME,
    "Recovers a site's tokens from what leaves it in a split job, by the nearest activation of a "
    "known token and by an inverter trained on public texts.",
    "network, coordinator, or whoever stores the sealed samples; has the public model and texts of "
    "the same kind",
    _run,
    _applies,
)
