"""``sealtune evaluate`` and ``sealtune predict``: use an adapter on the original weights.

Trust domain: whoever received the adapter; no enclave takes part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealtune.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from rich.console import Console

Adapter = Annotated[
    Path, typer.Option("--adapter", metavar="DIR", help="The folder adapter/ of a run.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_NO_TEXTS: list[str] = []


def evaluate(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    adapter: Adapter,
    as_json: AsJson = False,
) -> None:
    """Score an adapter on the job's test rows: original weights, plain peft, no enclave.

    Example: `sealtune evaluate job.toml --adapter runs/NAME/adapter`
    """
    from time import perf_counter

    from rich.console import Console

    from sealtune.job import check_files, load_job

    job = load_job(job_file)
    check_files(job)
    start = perf_counter()
    with Console(stderr=True).status("loading the model") as status:
        from sealtune.model.answers import score_adapter

        done = 0

        def count(tokens: int) -> None:
            nonlocal done
            done += tokens
            status.update(f"answering the test rows: {done:,} tokens")

        result = score_adapter(job, adapter, on_batch=count)
    result = {
        "adapter": str(adapter),
        "weights": "original",
        **result,
        "seconds": round(perf_counter() - start, 3),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _show_scores(result, Console(highlight=False), tokens=job.model.task == "causal-lm")


def predict(
    adapter: Adapter,
    text: Annotated[
        list[str], typer.Option("--text", help="A text to answer; may be given several times.")
    ] = _NO_TEXTS,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Texts: .txt with one a line, or a table with the template's columns."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Folder or hub id of the base model, if moved.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Labels to show for each text.")] = 1,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Length of a continuation (causal-lm).")
    ] = 32,
    as_json: AsJson = False,
) -> None:
    """Answer texts with an adapter: each text's label and its probability.

    Example: `sealtune predict --adapter runs/NAME/adapter --text "fracture of the left femur"`
    """
    from rich.console import Console

    from sealtune.model.export import read_fingerprint

    if bool(text) == (file is not None):
        raise ConfigError(
            "command line", [Problem("--text, --file", "give one of the two, not both")]
        )
    template = read_fingerprint(adapter).template
    texts = _from_file(file, template) if file is not None else _render(text, template)
    with Console(stderr=True).status("loading the model"):
        from sealtune.model.answers import classify, continue_text
        from sealtune.model.export import load_adapter

        loaded = load_adapter(adapter, base=model)
        answers: list[dict[str, Any]]
        if loaded.fingerprint.labels:
            shares = classify(loaded, texts)
            answers = [
                {"text": t, "label": s[0][0], "probability": s[0][1], "top": s[:top]}
                for t, s in zip(texts, shares, strict=True)
            ]
        else:
            answers = [
                {"text": t, "continuation": continue_text(loaded, t, tokens=tokens)} for t in texts
            ]
    if as_json:
        for answer in answers:
            typer.echo(json.dumps(answer, ensure_ascii=False))
    else:
        _show_answers(answers, Console(highlight=False))


def _render(texts: list[str], template: str) -> list[str]:
    """Put each text into the prompt template, which must have a single column."""
    from sealtune.data.template import Template

    parsed = Template(template)
    if len(parsed.columns) != 1:
        raise DataError(
            f"the adapter's prompt has the columns {', '.join(parsed.columns)}",
            hint="give a .jsonl or .csv file with these columns by --file",
        )
    column = parsed.columns[0]
    return [parsed.render({column: text}, f"--text {n}") for n, text in enumerate(texts, 1)]


def _from_file(path: Path, template: str) -> list[str]:
    from sealtune.data import read_rows
    from sealtune.data.template import Template

    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path} as UTF-8 text: {error}") from error
        return _render([line for line in lines if line.strip()], template)
    parsed = Template(template)
    rows = read_rows(path, parsed.columns)
    return [parsed.render(row, f"{path}, row {n}") for n, row in enumerate(rows, 1)]


def _show_scores(result: dict[str, Any], console: Console, *, tokens: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="on the original weights", title_justify="left")
    table.add_column("site")
    for name in ("test tokens" if tokens else "test rows", "right", "accuracy", "loss"):
        table.add_column(name, justify="right")
    for site, line in result["per_site"].items():
        table.add_row(Text(site), *_cells(line))
    table.add_section()
    table.add_row("all", *_cells(result), style="bold")
    console.print(table)
    if result["majority_class"] is not None:
        console.print(f"always the largest class: {result['majority_class']:.1%}")


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    accuracy = "–" if line["accuracy"] is None else f"{line['accuracy']:.1%}"
    return f"{line['total']:,}", f"{line['correct']:,}", accuracy, f"{line['loss']:.3f}"


def _show_answers(answers: list[dict[str, Any]], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    if "continuation" in answers[0]:
        for answer in answers:
            console.print(Text.assemble((answer["text"], "dim"), answer["continuation"]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("label", "probability", "text"):
        table.add_column(name, justify="right" if name == "probability" else "left")
    for answer in answers:
        for place, (label, share) in enumerate(answer["top"]):
            shown = Text(answer["text"] if place == 0 else "", style="dim")
            table.add_row(Text(label), f"{share:.1%}", shown)
    console.print(table)
