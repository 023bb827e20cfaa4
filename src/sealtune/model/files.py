"""Which files are a model, by transformers' own rule: these are digested and read, and no others.

    files = model_files(spec)
    files.digest                    # what everybody signs
    files.surplus                   # weights that lie there and are not read
    files.view()                    # a folder that holds them alone

Loaders get a private folder with links to exactly these files, so that nothing else can decide
what is loaded: no second set of weights, no adapter, no generation settings, no code. Configuration
files are copied into it without the keys that choose code, files or kernels.

Trust domain: every process that reads a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.job.printable import first_line, printable
from sealtune.job.scratch import make_scratch
from sealtune.job.spec import ModelSpec
from sealtune.job.storage import storage_error

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
TOKENIZER = (
    TOKENIZER_CONFIG, "tokenizer.json", SPECIAL_TOKENS, "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "spm.model", "tekken.json", "chat_template.jinja",
)  # fmt: skip
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
STRUCTURE = (CONFIG, *TOKENIZER)
_FETCHED = (*STRUCTURE, "model*.safetensors", INDEX)
_CHUNK = 1 << 22  # bytes read at a time
_WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf")
_LARGEST = 1 << 28  # bytes of a configuration or an index
# what a configuration may say of code, files, kernels and devices is left out of what is loaded
_DROPPED = frozenset({
    "auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation",
    "_attn_implementation_internal", "_attn_implementation_autoset", "experts_implementation",
    "_experts_implementation", "_experts_implementation_internal", "use_kernels", "kernel_config",
    "device_map", "tp_plan", "base_model_tp_plan", "base_model_pp_plan", "base_model_ep_plan",
    "base_model_fsdp_plan", "fusion_config", "_auto_class", "_name_or_path", "name_or_path",
    "tokenizer_object", "trust_remote_code",
})  # fmt: skip
_FILE_KEYS = ("_file", "_files", "_spm")  # how keys end that name a tokenizer's files
_TOKEN_KEYS = ("_token", "_tokens")  # how all keys end that belong into a map of special tokens
_REFUSED = {
    "attribute_map": "gives its own keys other names",
    "transformers_weights": "names another file of weights",
    "quantization_config": "says that its weights are quantised",
    "compression_config": "says that its weights are compressed",
    "gguf_file": "names another file of weights",
}


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        folder: where they lie.
        structure: configuration and tokenizer, sorted names.
        weights: the index, if there is one, and the safetensors files; empty if they were not
            asked for.
        surplus: other files of weights in the folder, which are not read.
        revision: commit of a hub's model; empty for a folder.
    """

    folder: Path
    structure: tuple[str, ...]
    weights: tuple[str, ...]
    surplus: tuple[str, ...]
    revision: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All that is read, sorted."""
        return tuple(sorted((*self.structure, *self.weights)))

    @property
    def tensors(self) -> list[Path]:
        """The safetensors files."""
        return [self.folder / name for name in self.weights if name.endswith(".safetensors")]

    @cached_property
    def digests(self) -> dict[str, str]:
        """Name -> SHA-256 (hex) of each file.

        Raises:
            ModelError: one cannot be read.
        """
        paths = {name: self.folder / name for name in self.names}
        return {n: _digest_once(str(path.resolve()), _stamp(path)) for n, path in paths.items()}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over names and contents."""
        return _digest_of("sealtune model digest 2", self.digests)

    @property
    def tokenizer_digest(self) -> str:
        """The same over the tokenizer's files alone."""
        own = {name: value for name, value in self.digests.items() if name in TOKENIZER}
        return _digest_of("sealtune tokenizer digest 2", own)

    def view(self) -> Path:
        """A private folder that holds these files alone; it goes when the process ends.

        Raises:
            ModelError: a configuration cannot be read, or redirects loading.
            StorageError: no space for it.
        """
        return _view(self, tuple(_stamp(self.folder / name) for name in self.names))


def model_files(spec: ModelSpec, *, weights: bool = True) -> ModelFiles:
    """Find ``spec``'s files; a hub id is fetched into the hub's cache first.

    The rule is that of ``from_pretrained``: ``model.safetensors`` if it is there, otherwise what
    ``model.safetensors.index.json`` names.

    Args:
        spec: where the model is.
        weights: also find (and of a hub, fetch) its weights.

    Raises:
        ModelError: no such folder, no configuration, no weights, a part is missing, an index that
            points elsewhere, or the hub cannot be reached.
    """
    folder = _folder(spec, _FETCHED if weights else STRUCTURE)
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{folder} has no config.json, so it is not a Hugging Face model folder",
            hint="a folder made by save_pretrained holds config.json and model.safetensors",
        )
    structure = tuple(sorted(name for name in STRUCTURE if (folder / name).is_file()))
    weight_files = _weights(folder) if weights else ()
    others = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.name.endswith(_WEIGHT_SUFFIXES) and path.is_file()
    }
    hub = not Path(spec.path).expanduser().is_dir()
    return ModelFiles(
        folder=folder,
        structure=structure,
        weights=weight_files,
        surplus=tuple(sorted(others - set(weight_files))) if weights else (),
        revision=folder.name if hub and folder.parent.name == "snapshots" else "",
    )


def model_digest(spec: ModelSpec) -> str:
    """``ModelFiles.digest`` of ``spec``'s files."""
    return model_files(spec).digest


def _weights(folder: Path) -> tuple[str, ...]:
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter_config.json, so it is an adapter's folder",
            hint="model.path must be the folder of a base model, without an adapter",
        )
    if (folder / WEIGHTS).is_file():
        return (WEIGHTS,)
    if not (folder / INDEX).is_file():
        raise ModelError(
            f"{folder} holds neither {WEIGHTS} nor {INDEX}",
            hint="weights of other names and pickled ones (.bin, .pt) are not read: save the model "
            "again with save_pretrained",
        )
    index = read_json(folder / INDEX)
    parts = index.get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise ModelError(f"{folder / INDEX} is damaged: it has no weight_map")
    names = sorted({str(part) for part in parts.values()})
    outside = [n for n in names if Path(n).name != n or n.startswith(".") or not n.isprintable()]
    if outside or not all(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{folder / INDEX} names a part outside its folder, such as "
            f"{printable((outside or names)[0])}",
            hint="a model's weights are safetensors files in its own folder",
        )
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ModelError(f"{folder} lacks {absent[0]}, one of the model's {len(names)} parts")
    return (INDEX, *names)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a configuration file.

    Raises:
        ModelError: it cannot be read, is too large, or holds no JSON object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        content = json.loads(data) if len(data) <= _LARGEST else None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it holds no JSON object")
    return content


def _folder(spec: ModelSpec, patterns: Sequence[str]) -> Path:
    folder = Path(spec.path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or spec.path.startswith((".", "~")) or spec.path.count("/") != 1:
        raise ModelError(
            f"there is no model folder {folder}",
            hint="check model.path; `sealtune demo-model` makes one without a network",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(spec.path, revision=spec.revision, allow_patterns=list(patterns))
        )
    except Exception as error:  # the hub client raises many unrelated classes
        raise ModelError(
            f"cannot fetch the model {spec.path} from the hub: {first_line(error)}",
            hint="check model.path and the network, or give a folder that holds the model",
        ) from error


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with a file; the time of its last change (ctime) cannot be set at will."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=16)
def _view(files: ModelFiles, _stamps: tuple[tuple[int, ...], ...]) -> Path:
    folder = make_scratch() / "model"
    try:
        folder.mkdir(mode=0o700)
        for name in files.names:
            source = files.folder / name
            if name in (CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS):
                content = _harmless(read_json(source), str(source))
                if name == SPECIAL_TOKENS:
                    content = {k: v for k, v in content.items() if k.endswith(_TOKEN_KEYS)}
                (folder / name).write_text(json.dumps(content), encoding="utf-8")
            else:
                (folder / name).symlink_to(source.resolve())
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder


def _harmless(content: Any, source: str) -> Any:
    """``content`` without the keys that choose code, files or kernels, however deep."""
    if isinstance(content, list):
        return [_harmless(value, source) for value in content]
    if not isinstance(content, dict):
        return content
    refused = sorted(key for key in content if key in _REFUSED and content[key] is not None)
    if refused:
        raise UnsupportedModelError(
            f"{source} {_REFUSED[refused[0]]} ({refused[0]})",
            hint="use the model's plain safetensors weights, or save it again without this key",
        )
    return {
        key: _harmless(value, source)
        for key, value in content.items()
        if key not in _DROPPED and not key.endswith(_FILE_KEYS)
    }


@lru_cache(maxsize=256)
def _digest_once(path: str, _stamped: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def _digest_of(purpose: str, digests: Mapping[str, str]) -> str:
    total = hashlib.sha256(f"{purpose}\n".encode())
    for name, digest in sorted(digests.items()):
        total.update(f"{name}\n{digest}\n".encode())
    return total.hexdigest()
