"""``sealtune init``: write a job file to start from.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sealtune.errors import StorageError

# Lines that begin with "# key =" show a default; everything else is set.
TEMPLATE = """\
# A sealtune job. Every key is explained in docs/job-file.md.
#
#   sealtune demo-data       # the files named in [data]
#   sealtune demo-model      # the folder named in [model]
#   sealtune validate FILE   # check this file and what it names
#   sealtune plan FILE       # show which part of the model runs where
#   sealtune run FILE
#
# Relative paths start at this file's folder; ~ is your home folder.

[job]
name = "my-job"               # the run's folder is runs/my-job
seed = 0                      # same seed, same run
rounds = 3                    # training and aggregation, this many times

[model]
path = "./demo/model"         # a Hugging Face folder, or a hub id
# revision = "main"           # of a hub id
task = "classification"       # or "label-words", or "causal-lm"

[data]
train = "demo/data/icd10/train.jsonl"   # one pooled file, dealt out by [sites] ...
test = "demo/data/icd10/test.jsonl"
# train = { north = "north/train.csv", south = "south/train.csv" }   # ... or one for each site
template = "{text}"           # names columns in braces
label = "label"               # column with the class
# labels = ["no", "yes"]      # fixes the classes and their order
max_tokens = 32               # longer texts are cut
max_test_rows = 420           # all sites together; without it, all test rows

[sites]
names = ["north", "south", "west"]
partition = "dirichlet"       # how a pooled file is dealt out: or "label"; "file" for a table
alpha = 0.3                   # small: sites differ much; large: they are alike

[tuning]
method = "lora"
rank = 8
alpha = 16
dropout = 0.0
targets = ["q_proj", "k_proj", "v_proj", "o_proj"]   # or "all-linear"
# layers = [0, 1]             # only these blocks; without it, all

[protection]
protect = "adapter+data"      # what the accelerator must not see; or "adapter" (docs/job-file.md)
integrity_bits = 40           # a wrong product is missed with probability at most 2^-40 per step
attestation = "simulated"     # no real TEE: for development, marked as not confidential

[train]
steps_per_round = 10
batch_size = 16
learning_rate = 1e-3
weight_decay = 0.0
eval_batch_size = 32

[network]
# min_sites = 2               # updates that a round needs; without it, all sites
deadline = 1800               # seconds that a site may take for one message
"""


def init(
    path: Annotated[Path, typer.Argument(help="Job file to write.")] = Path("job.toml"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is already there.")
    ] = False,
) -> None:
    """Write a commented job file.

    Example: `sealtune init` or `sealtune init hospitals.toml`
    """
    from sealtune.job.storage import write_atomic

    if path.exists() and not (force and path.is_file()):
        raise StorageError(
            f"{path} is already there",
            hint="choose another name" if path.is_dir() else "choose another name, or use --force",
        )
    write_atomic(path, TEMPLATE.replace("FILE", shlex.quote(str(path))).encode())
    typer.echo(f"wrote {path}")
    typer.echo(f"next: edit it, then `sealtune validate {shlex.quote(str(path))}`")
