"""``sealtune merge``: one ordinary model out of a base model and an adapter.

Trust domain: whoever received the adapter; no enclave takes part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sealtune.cli.evaluate import Adapter


def merge(
    adapter: Adapter,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Folder or hub id of the base model, if moved.")
    ] = None,
) -> None:
    """Merge an adapter (LoRA, SPF, or both) into its base model: a plain Hugging Face folder.

    The written model is read back and its answers are compared with those of base and adapter. It
    holds the tuned parameters, and gets the permissions that your other files get.

    Example: `sealtune merge --adapter runs/NAME/adapter -o merged`
    """
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        from sealtune.tuning.merge import merge_adapter

        done = merge_adapter(adapter, out, base=model, say=status.update)
    typer.echo(
        f"wrote {out}: same answers in {done.check.agreement:.0%} of the probes, largest "
        f"difference of two logits {done.check.difference:.1e} of their spread"
    )
    typer.echo("load it with:")
    typer.echo(f"  from transformers import {done.loader}")
    typer.echo(f"  model = {done.loader}.from_pretrained({str(out)!r})")
