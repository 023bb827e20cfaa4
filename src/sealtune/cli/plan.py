"""``sealtune plan``: print which module runs where, and why.

Trust domain: the operator's terminal; public structure only.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from sealtune.cli.validate import show_state
from sealtune.job.compute_rules import GPU
from sealtune.job.plan import ModulePlan, SlicePlan
from sealtune.job.spec import Job

_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")
_RUNS = {
    "owner": ("cyan", "at the site"),
    "enclave": ("green", "in enclave"),
    "masked": ("yellow", "masked"),
    "plain": ("red", "PLAIN"),
}


def plan(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    every: Annotated[bool, typer.Option("--all", help="One line for each module.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole plan as JSON.")] = False,
) -> None:
    """Print which module runs where, and why: in which enclave, at the site, masked or plain.

    Examples:

        sealtune plan job.toml

        sealtune plan job.toml --all | less

        sealtune plan job.toml --json > plan.json
    """
    from sealtune.data.site import discover_labels
    from sealtune.job.load import check_files, load_job
    from sealtune.plan.planner import make_plan

    job = load_job(job_file)
    check_files(job)
    labels = discover_labels(job) if job.model.task == "classification" else ()
    result = make_plan(job, len(labels) or None)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    show(result, Console(), every=every)
    if job.protection.pads == "second-accelerator":
        from sealtune.job.pad_operators import NO_COLLUSION

        typer.echo(f"a pad accelerator multiplies the masks: {NO_COLLUSION}")
    if job.accelerated:
        show_memory(job, len(labels) or None)
    show_state(job)


def show_memory(job: Job, classes: int | None) -> None:
    """Print what the memory of a masked job's site enclave is made of."""
    from sealtune.advise.costs import MIB, Batch
    from sealtune.advise.enclave_memory import enclave_parts
    from sealtune.advise.shape import read_shape

    shape = read_shape(job, classes)
    adapter_only = job.protection.protect == "adapter" and shape.prefix_fits
    rows, length = job.train.batch_size, job.data.max_tokens
    first = shape.first_tuned if adapter_only else 0
    parts = enclave_parts(shape, Batch(rows * length, length), job, first)
    typer.echo(
        f"a site's enclave needs about {sum(parts.values()) / MIB:,.0f} MiB at the peak of a step "
        f"of {rows} texts of {length} tokens"
    )
    for what, size in parts.items():
        if size:
            typer.echo(f"{size / MIB:10,.1f}  {what}")


# protection of a plan that cuts the model nowhere -> where it runs, and what follows
_WHOLE = {
    "secure-aggregation": (
        "at each data owner",
        "no TEE: the server sums masked updates, and single updates are unchecked",
    ),
    "enclave": ("in each site's enclave", "there is no accelerator, and no mask"),
    GPU: (
        "on the attested GPU of each site's enclave",
        "there is no accelerator, and no mask: the GPU sees all, in confidential mode",
    ),
}


def show(plan: SlicePlan, console: Console, *, every: bool) -> None:
    """Print ``plan``: one row for each reason, or with ``every`` one for each module."""
    from rich.table import Table

    table = Table(
        title=f"{plan.architecture}, {_level(plan)}",
        title_justify="left",
        show_lines=True,
    )
    for column in ("runs", "modules", "why"):
        table.add_column(column, overflow="fold")
    rows = [(m, [m.name]) for m in plan.modules] if every else _by_reason(plan.modules)
    for module, names in rows:
        style, runs = _RUNS[module.placement]
        table.add_row(f"[{style}]{runs}[/]", Text("\n".join(names)), module.reason)
    console.print(table)
    trainable = f"{sum(map(prod, plan.trainable.values())):,} trainable parameters"
    if plan.personal:
        staying = sum(prod(plan.trainable[name]) for name in plan.personal)
        trainable += f", of which {staying:,} stay at each site"
    products = sum(1 + g.backward for g in plan.groups)
    lines: tuple[str, ...]
    if plan.cut is None:
        lines = (
            f"{len(plan.groups)} groups of frozen layers, {products} products a step; "
            f"{plan.prefix_blocks} of {plan.blocks} blocks plain; {trainable}",
            "attention products, softmax, loss and optimizer always run in the enclave",
        )
        if plan.protect in _WHOLE:
            where, rest = _WHOLE[plan.protect]
            lines = (f"the whole model runs {where}; {trainable}", rest)
        if plan.steady_blocks:
            said = f"blocks 0 to {plan.steady_blocks - 1} run once for each text, kept sealed"
            lines = (*lines, said)
    else:
        lines = (
            f"blocks 0 to {plan.cut - 1} of {plan.blocks} run at the sites, once for each text; "
            f"{trainable}",
            "cut activations go, sealed, to the attested server enclave and nowhere else",
        )
    console.print(*lines, f"plan digest {plan.digest}", sep="\n", soft_wrap=True)


def _level(plan: SlicePlan) -> str:
    placed = plan.protect in ("enclave", GPU)
    return f"{'compute' if placed else 'protect'} = {plan.protect}"


def _by_reason(modules: tuple[ModulePlan, ...]) -> list[tuple[ModulePlan, list[str]]]:
    """One entry for each placement and reason; names that differ in the block only are folded."""
    first: dict[tuple[str, str], ModulePlan] = {}
    blocks: dict[tuple[str, str], dict[str, list[int]]] = {}
    for module in modules:
        key = (module.placement, module.reason)
        first.setdefault(key, module)
        number = _NUMBER.search(module.name)
        name = _NUMBER.sub(".{}", module.name, count=1)
        numbers = blocks.setdefault(key, {}).setdefault(name, [])
        if number:
            numbers.append(int(number.group(1)))
    return [
        (module, [name.replace("{}", _span(indices)) for name, indices in blocks[key].items()])
        for key, module in first.items()
    ]


def _span(numbers: list[int]) -> str:
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    whole = len(set(numbers)) == high - low + 1
    return f"[{low}-{high}]" if whole else f"[{','.join(map(str, sorted(set(numbers))))}]"
