"""A tiny random decoder and tokenizer, made in a second, and texts that it can learn."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sealtune.model.tasks import Task
from sealtune.model.texts import Batch, Example

LABELS = ("heart", "lung", "skin")
_WORDS = {
    "heart": "angina infarct valve atrial murmur",
    "lung": "asthma cough pleural bronchial wheeze",
    "skin": "rash eczema blister itching scar",
}
_COMMON = "acute chronic mild severe of the with unspecified type left right Answer: x"


@dataclass(frozen=True)
class Text:
    """An example, as ``sealtune.model.texts.Example`` wants it."""

    text: str
    label: int | None = None
    row: int = 0


def batch_of(task: Task, texts: Sequence[Example]) -> Batch:
    """All of them in one batch."""
    return task.encode(texts).batch(range(len(texts)))


def ids_of(task: Task, text: str) -> list[int]:
    """Token ids of one text."""
    ids: list[int] = task.encode([Text(text)]).ids.tolist()
    return ids


def make_texts(count: int, seed: int) -> list[Text]:
    """Short diagnoses whose words give the class away."""
    source = random.Random(seed)
    found = []
    for _ in range(count):
        label = source.randrange(len(LABELS))
        words = source.sample(_WORDS[LABELS[label]].split(), 2)
        words += source.sample(_COMMON.split()[:11], source.randint(1, 8))
        source.shuffle(words)
        found.append(Text(" ".join(words), label))
    return found


def make_tokenizer(
    folder: Path, *, pad: str | None = "<end>", appends_end: bool = False, types: bool = False
) -> None:
    """A byte-level BPE tokenizer over the words above; pad and end share an id, as in SmolLM2.

    Args:
        appends_end: it puts its end token behind every text.
        types: it gives token type ids, too.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lines = [*_WORDS.values(), _COMMON, *LABELS, *(f"x {label}" for label in LABELS)]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>", "<start>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*lines, *(f" {line}" for line in lines)] * 3, trainer)
    if appends_end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <end>", special_tokens=[("<end>", 0)]
        )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>", pad_token=pad,
        **({"model_input_names": inputs} if types else {}),
    )  # fmt: skip
    wrapped.save_pretrained(folder)


def make_llama(
    folder: Path,
    *,
    seed: int = 0,
    blocks: int = 2,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A Llama with hidden size 64 and its tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=0,
        bos_token_id=1,
        initializer_range=0.2,
    )
    return _save(LlamaForCausalLM(config).to(dtype), folder)


def make_gpt2(folder: Path) -> Path:
    """A GPT-2, whose linear layers are of another class."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=64,
        bos_token_id=1, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return _save(GPT2LMHeadModel(config), folder)


def _save(model: torch.nn.Module, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
        make_tokenizer(folder)
    return folder
