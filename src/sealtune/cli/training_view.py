"""What a job trains and how rounds go, in a few words, for whoever signs it.

Trust domain: a participant's own machine; manifests come from outside.
"""

from __future__ import annotations

from sealtune.job.sections import LoraSpec, SpfSpec, TuningSpec
from sealtune.job.settings import Settings

_SAID_ELSEWHERE = {"rule", "norm_bound", "participation", "personal", "personal_steps"}


def rounds(settings: Settings) -> list[tuple[str, str]]:
    """What becomes of updates, who trains in a round if not all do, what each site does alone."""
    rows, every = _updates(settings), len(settings.sites.names)
    if settings.asked < every:
        rows.append(("each round", f"{settings.asked} of {every} sites, drawn from the seed"))
    if steps := settings.aggregation.personal_steps:
        words = f"{count(steps, 'step')} more of each site alone, for an adapter that stays there"
        rows.append(("in the end", words))
    return rows


def _updates(settings: Settings) -> list[tuple[str, str]]:
    """How the server makes one of them."""
    aggregation = settings.aggregation
    if settings.job.rules.server_trains:
        return []
    said = [aggregation.rule]
    if settings.privacy.unit != "site":  # which has a bound of its own
        said.append(f"norm bound {aggregation.norm_bound}")
    keys = (key for key in type(aggregation).model_fields if key not in _SAID_ELSEWHERE)
    for key in keys:
        if aggregation.changes(key):
            said.append(f"{key.replace('_', ' ')} {getattr(aggregation, key)}")
    return [("updates", ", ".join(said))]


def rates(settings: Settings) -> list[tuple[str, str]]:
    """Learning rates and their schedule, in one line."""
    tuning, train = settings.tuning, settings.train
    own = {
        "SPF": tuning.spf and tuning.spf.learning_rate,
        "LoRA": tuning.lora and tuning.lora.learning_rate,
        "head": train.head_learning_rate,
    }
    said = [f"{train.learning_rate:g}", *(f"{n} {rate:g}" for n, rate in own.items() if rate)]
    warm = f" after {100 * train.warmup:g} % warm-up" if train.warmup else ""
    return [("rates", f"{', '.join(said)}; {train.schedule}{warm}")]


def tuned(tuning: TuningSpec) -> str:
    """What is tuned, in one line."""
    parts = []
    if tuning.spf is not None:
        parts.append(f"SPF {_shares(tuning.spf)}, {_selector(tuning.spf)}")
    if tuning.lora is not None:
        lora = tuning.lora
        targets = lora.targets if isinstance(lora.targets, str) else ", ".join(lora.targets)
        lower = ", ".join(f"{rank} at {site}" for site, rank in lora.ranks.items())
        variant = "".join(f", {words}" for words in _variants(lora))
        parts.append(f"LoRA rank {lora.rank}{f' ({lower})' if lower else ''} on {targets}{variant}")
    if tuning.ptuning is not None:
        through = " through a perceptron" if tuning.ptuning.projection else ""
        parts.append(f"P-tuning v2, {count(tuning.virtual_tokens, 'virtual token')}{through}")
    return " and ".join(parts)


def _shares(spf: SpfSpec) -> str:
    """``0.25 of QKV and 0.25 of dense``, or each projection by itself; without those of 0."""
    shares = {"query": spf.query, "key": spf.key, "value": spf.value, "dense": spf.dense}
    if spf.query == spf.key == spf.value:
        shares = {"QKV": spf.query, "dense": spf.dense}
    said = [f"{share:.3g} of {name}" for name, share in shares.items() if share]
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def _selector(spf: SpfSpec) -> str:
    """What ranks heads, and whether its choice gets out."""
    warm = f" after {count(spf.warm_steps, 'warm step')}" if spf.select == "fisher" else ""
    shown = ", chosen heads released" if spf.looks_at_data and spf.release_heads else ""
    return f"{spf.select}{warm}{shown}"


def _variants(lora: LoraSpec) -> list[str]:
    """What of LoRA is otherwise than in its paper."""
    said = {
        "rsLoRA's scale": lora.scaling == "rslora",
        "DoRA": lora.dora,
        f"{lora.start} start": lora.start != "lora",
        f"LoRA+ {lora.learning_rate_ratio:g}": lora.learning_rate_ratio != 1,
    }
    return [words for words, is_so in said.items() if is_so]


def count(number: int, noun: str) -> str:
    """``3 rounds``, ``1 round``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
