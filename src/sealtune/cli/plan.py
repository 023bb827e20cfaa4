"""``sealtune plan``: print which module runs where, and why.

Trust domain: the operator's terminal; public structure only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sealtune.job.plan import ModulePlan, SlicePlan

_STYLE = {"enclave": "green", "masked": "yellow", "plain": "red"}


def plan(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    every: Annotated[bool, typer.Option("--all", help="One line for each module.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole plan as JSON.")] = False,
) -> None:
    """Print which module runs in the enclave, masked on the accelerator, or plain, and why.

    Examples:

        sealtune plan job.toml

        sealtune plan job.toml --all | less

        sealtune plan job.toml --json > plan.json
    """
    from rich.console import Console

    from sealtune.data import discover_labels
    from sealtune.job.load import check_files, load_job
    from sealtune.model.plan import make_plan

    job = load_job(job_file)
    check_files(job)
    labels = discover_labels(job) if job.model.task == "classification" else ()
    result = make_plan(job, len(labels) or None)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    show(result, Console(), every=every)


def show(plan: SlicePlan, console: object, *, every: bool) -> None:
    """Print ``plan`` as a table: alike modules of consecutive blocks on one line, or every one."""
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    table = Table(title=f"{plan.architecture}, protect = {plan.protect}", title_justify="left")
    for column in ("module", "kind", "runs", "why"):
        table.add_column(column, overflow="fold")
    rows = [(m.name, m) for m in plan.modules] if every else _fold(plan.modules)
    for name, module in rows:
        style = _STYLE[module.placement]
        runs = {"enclave": "in enclave", "masked": "masked", "plain": "PLAIN"}[module.placement]
        table.add_row(name, module.kind, f"[{style}]{runs}[/]", module.reason)
    console.print(table)
    products = sum(1 + g.backward for g in plan.groups)
    console.print(
        f"{len(plan.groups)} groups of frozen layers, {products} masked products a step; "
        f"{plan.prefix_blocks} of {plan.blocks} blocks plain; "
        f"{sum(_size(s) for s in plan.trainable.values()):,} trainable parameters"
    )
    console.print("attention products, softmax, loss and optimizer always run in the enclave")
    console.print(f"plan digest {plan.digest}", soft_wrap=True)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _fold(modules: tuple[ModulePlan, ...]) -> list[tuple[str, ModulePlan]]:
    """One row for modules that differ only in their block's number."""
    blocks: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    first: dict[tuple[str, str, str], ModulePlan] = {}
    for module in modules:
        number = re.search(r"\.(\d+)(?=\.|$)", module.name)
        name = re.sub(r"\.\d+(?=\.|$)", ".{}", module.name, count=1)
        key = (name, module.placement, module.reason)
        first.setdefault(key, module)
        if number:
            blocks[key].append(int(number.group(1)))
    return [(key[0].replace("{}", _span(blocks[key])), module) for key, module in first.items()]


def _span(numbers: list[int]) -> str:
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    whole = len(set(numbers)) == high - low + 1
    return f"[{low}-{high}]" if whole else f"[{','.join(map(str, sorted(set(numbers))))}]"
