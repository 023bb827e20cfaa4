"""``sealtune init``: write a job file to start from.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sealtune.errors import StorageError

# Lines that begin with "# key =" show a default; everything else is set.
_HEAD = """\
# A sealtune job. Every key is explained in docs/job-file.md.
#
#   sealtune demo-data       # the files named in [data]
#   sealtune demo-model      # the folder named in [model]
#   sealtune validate FILE   # check this file and what it names
#   sealtune advise FILE     # which method, and where to cut
#   sealtune plan FILE       # show which part of the model runs where
#   sealtune run FILE
#
# Relative paths start at this file's folder; ~ is your home folder.

[job]
name = "my-job"               # the run's folder is runs/my-job
{method}
seed = 0                      # same seed, same run
rounds = 3                    # {rounds}

[model]
path = "./demo/model"         # a Hugging Face folder, or a hub id
# revision = "main"           # of a hub id
task = "classification"       # or "label-words", or "causal-lm"

[data]
train = "demo/data/icd10/train.jsonl"   # one pooled file, dealt out by [sites] ...
test = "demo/data/icd10/test.jsonl"
# train = {{ north = "north/train.csv", south = "south/train.csv" }}   # ... or one for each site
template = "{{text}}"           # names columns in braces
label = "label"               # column with the class
# labels = ["no", "yes"]      # fixes the classes and their order
max_tokens = 32               # longer texts are cut
max_test_rows = 420           # all sites together; without it, all test rows

[sites]
names = ["north", "south", "west"]
partition = "dirichlet"       # how a pooled file is dealt out: or "label"; "file" for a table
alpha = 0.3                   # small: sites differ much; large: they are alike
"""

_LORA = """
[tuning.lora]
rank = 8
alpha = 16
dropout = 0.0
targets = ["q_proj", "k_proj", "v_proj", "o_proj"]   # or "all-linear"
"""

_TAIL = """
[train]
steps_per_round = "epoch"     # one pass over the examples; or a number of steps
batch_size = 16
learning_rate = 1e-3
weight_decay = 0.0
eval_batch_size = 32

[network]
# min_sites = 2               # sites that {quorum}; without it, all sites
deadline = 1800               # seconds that a site may take for one message
"""

TEMPLATES = {
    "federated-lora": _HEAD.format(
        method='method = "federated-lora"     # each site tunes in an enclave; or "split"',
        rounds="training and aggregation, this many times",
    )
    + _LORA
    + """# layers = [0, 1]             # only these blocks; without it, all

[protection]
protect = "adapter+data"      # what the accelerator must not see; or "adapter" (docs/job-file.md)
integrity_bits = 40           # a wrong product is missed with probability at most 2^-40 per step
attestation = "simulated"     # no real TEE: for development, marked as not confidential
"""
    + _TAIL.format(quorum="a round needs"),
    "split": _HEAD.format(
        method='method = "split"              # sites run the first blocks, a server enclave tunes',
        rounds="training and a checkpoint, this many times",
    )
    + """
[split]
cut = 0.5                     # share of the blocks that run at the sites, or their number
activations = "bf16"          # how they travel: or "int8" (half the bytes), "fp32"
compute = "fp32"              # frozen weights in the server enclave; or "bf16"
checkpointing = false         # true: less memory, more time

[tuning.spf]                  # whole attention heads ...
qkv = 0.25                    # share of the heads whose query, key and value rows are tuned
dense = 0.25                  # share whose columns of the output projection are tuned
select = "l1-largest"         # or "l1-smallest", "random", "gradient", "activation"
# layers = [28, 29]           # only these blocks; without it, all behind the cut
"""
    + _LORA.replace(
        "[tuning.lora]\n", "[tuning.lora]                 # ... and low-rank adapters\n"
    )
    + """# layers = [28, 29]

[protection]
attestation = "simulated"     # no real TEE: for development, marked as not confidential
"""
    + _TAIL.format(quorum="must have sent their samples"),
}


class Method(StrEnum):
    """How the model is tuned."""

    FEDERATED = "federated-lora"
    SPLIT = "split"


def init(
    path: Annotated[Path, typer.Argument(help="Job file to write.")] = Path("job.toml"),
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            help="federated-lora: an enclave at each site. split: no TEE at the sites, one large "
            "server enclave.",
        ),
    ] = Method.FEDERATED,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is already there.")
    ] = False,
) -> None:
    """Write a commented job file.

    Examples:

        sealtune init

        sealtune init hospitals.toml --method split
    """
    from sealtune.job.storage import write_atomic

    if path.exists() and not (force and path.is_file()):
        raise StorageError(
            f"{path} is already there",
            hint="choose another name" if path.is_dir() else "choose another name, or use --force",
        )
    write_atomic(path, TEMPLATES[method.value].replace("FILE", shlex.quote(str(path))).encode())
    typer.echo(f"wrote {path}")
    typer.echo(f"next: edit it, then `sealtune validate {shlex.quote(str(path))}`")
