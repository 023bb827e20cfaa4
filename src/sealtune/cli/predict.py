"""``sealtune predict``: answer texts, with an adapter at hand or through the split.

Trust domain: whoever received the adapter, or a data owner whose job keeps it in the enclave.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealtune.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from rich.console import Console

    from sealtune.job.manifest import Manifest

_NO_TEXTS: list[str] = []


def predict(
    text: Annotated[
        list[str], typer.Option("--text", help="A text to answer; may be given several times.")
    ] = _NO_TEXTS,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Texts: .txt with one a line (blank lines do not count), or a table."
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="The folder adapter/ of a run.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="DIR",
            help="A finished split job's folder: the first blocks run here, the rest in its "
            "server enclave, which keeps the tuned model.",
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            metavar="SITE",
            help="With --run: ask as this site [default: the first that --key answers for].",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="With --run: the private key of the site's organisation "
            "[default: the run's throw-away key].",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Folder or hub id of the base model, if moved.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Labels to show for each text.")] = 1,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Length of a continuation (causal-lm).")
    ] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer texts: each text's label and its probability.

    With --adapter, the whole model runs here. With --run, only its first blocks do: their
    activations go, sealed, to the attested server enclave of a split job, which answers.

    Examples:

        sealtune predict --adapter runs/NAME/adapter --text "fracture of the left femur"

        sealtune predict --run runs/NAME --key north.key --file questions.txt
    """
    from rich.console import Console

    pairs = {
        "--text, --file": (bool(text), file is not None, "what is asked"),
        "--adapter, --run": (adapter is not None, run is not None, "who answers"),
    }
    problems = [
        Problem(k, "give one of the two, not both" if one else f"give one of the two: {what}")
        for k, (one, other, what) in pairs.items()
        if one == other
    ]
    if run is None and (site is not None or key is not None):
        problems.append(Problem("--site, --key", "go with --run only"))
    if problems:
        raise ConfigError("command line", problems)
    wanted = _Wanted(tuple(text), file, top, tokens)
    if adapter is not None:
        answers = _at_hand(adapter, model, wanted)
    else:
        answers = _through_the_split(run or Path(), site, key, model, wanted)
    if as_json:
        for answer in answers:
            typer.echo(json.dumps(answer, ensure_ascii=False))
    else:
        _show_answers(answers, Console(highlight=False))


@dataclass(frozen=True)
class _Wanted:
    """What is asked."""

    text: tuple[str, ...]
    file: Path | None
    top: int
    tokens: int

    def prompts(self, template: str) -> list[str]:
        """The texts in the prompt template, which has a single column unless they are a table."""
        from sealtune.data.lines import read_lines
        from sealtune.data.readers import read_rows
        from sealtune.data.template import Template

        try:
            parsed, file = Template(template), self.file
        except ValueError as error:
            raise DataError(f"the prompt template {error}") from error
        if file is not None and file.suffix.lower() != ".txt":
            rows, place = read_rows(file, parsed.columns), f"{file}, row"
        elif len(parsed.columns) != 1:
            raise DataError(
                f"the adapter's prompt has the columns {', '.join(parsed.columns)}",
                hint="give a .jsonl or .csv file with these columns by --file",
            )
        else:
            texts = self.text if file is None else [t for _, t in read_lines(file) if t.strip()]
            rows, place = [{parsed.columns[0]: text} for text in texts], "--text"
        if not rows:
            raise DataError(f"{file} holds no texts", hint="write one on each line")
        return [parsed.render(row, f"{place} {n}") for n, row in enumerate(rows, 1)]

    def ranked(
        self, texts: list[str], labels: tuple[str, ...], shares: list[list[float]]
    ) -> list[dict[str, Any]]:
        """Answers with classes, the most probable first."""
        answers = []
        for prompt, row in zip(texts, shares, strict=True):
            ranked = sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])
            label, share = ranked[0]
            answers.append(
                {"text": prompt, "label": label, "probability": share, "top": ranked[: self.top]}
            )
        return answers


def _at_hand(adapter: Path, model: str | None, wanted: _Wanted) -> list[dict[str, Any]]:
    from rich.console import Console

    from sealtune.tuning.folder import read_fingerprint

    texts = wanted.prompts(read_fingerprint(adapter).template)
    with Console(stderr=True).status("loading the model"):
        from sealtune.tuning.folder import load_adapter
        from sealtune.tuning.inference import classify, continue_text

        loaded = load_adapter(adapter, base=model)
        labels = loaded.fingerprint.labels
        if labels:
            return wanted.ranked(texts, labels, classify(loaded, texts))
        return [
            {"text": t, "continuation": continue_text(loaded, t, tokens=wanted.tokens)}
            for t in texts
        ]


def _through_the_split(
    run_dir: Path, site: str | None, key: Path | None, model: str | None, wanted: _Wanted
) -> list[dict[str, Any]]:
    from rich.console import Console

    from sealtune.job.dsse import Envelope
    from sealtune.job.local import read_local
    from sealtune.job.manifest import open_manifest
    from sealtune.job.method import method_of
    from sealtune.launch.folder import MANIFEST
    from sealtune.launch.parties import party_file
    from sealtune.party.reopening import check_reopening

    signed = run_dir / MANIFEST
    if not signed.is_file():
        raise ConfigError(
            "--run", [Problem(str(run_dir), f"is not a run's folder: it holds no {MANIFEST}")]
        )
    manifest = open_manifest(Envelope.read(signed))  # verified before it is believed
    if not method_of(manifest.method).server_trains:
        raise ConfigError(
            "--run",
            [Problem(str(run_dir), "is not a split job's folder: use --adapter with its adapter")],
        )
    if model is not None:
        raise ConfigError("--model", [Problem(model, "goes with --adapter only")])
    check_reopening(manifest.settings.protection)
    _warn_of_unfinished(run_dir)
    name, key = _who_asks(manifest, run_dir, site, key)
    texts = wanted.prompts(manifest.settings.data.template)
    # the folder may have been moved since the run
    home = {"manifest": signed.resolve(), "folder": run_dir.resolve()}
    with Console(stderr=True).status("loading the first blocks, and the rest in the enclave"):
        from sealtune.job.private import private_files
        from sealtune.launch.inference import ask_enclave
        from sealtune.owner.client import SplitClient
        from sealtune.party.admit import admit
        from sealtune.plan.roles import OWNER_ASKING

        asking = read_local(party_file(run_dir, f"site-{name}"))
        client = SplitClient(admit(asking.model_copy(update={**home, "key": key}), OWNER_ASKING))
        server = read_local(party_file(run_dir, "server")).model_copy(
            update={**home, "listen": "server.sock", "resume": False, "serve": name}
        )

        def carry(deliver: Callable[[bytes], bytes]) -> None:
            with private_files():
                ask_enclave(server, deliver)

        if manifest.labels:
            return wanted.ranked(texts, manifest.labels, client.classify(texts, carry))
        longer = client.continue_texts(texts, carry, tokens=wanted.tokens)
        return [{"text": t, "continuation": c} for t, c in zip(texts, longer, strict=True)]


def _warn_of_unfinished(run_dir: Path) -> None:
    from sealtune.job.event_log import End
    from sealtune.report import read_run

    end = read_run(run_dir).last(End)
    outcome = end.outcome if end else None
    if outcome != "ok":
        typer.echo(
            f"note: the run in {run_dir} has not finished ({outcome or 'no end was recorded'}); "
            "its enclave answers only if every round has been trained",
            err=True,
        )


def _who_asks(
    manifest: Manifest, run_dir: Path, site: str | None, key: Path | None
) -> tuple[str, Path]:
    """The site that asks, and the file of the key that proves it."""
    from sealtune.cli.signing import KEYS
    from sealtune.job.key_files import load_private
    from sealtune.job.keys import public_hex

    names = manifest.settings.sites.names
    if site is not None and site not in names:
        raise ConfigError("--site", [Problem(site, f"the job has the sites {', '.join(names)}")])
    if key is None:
        name = site or names[0]
        key_file = run_dir / KEYS / f"{name}.key"
        if not key_file.is_file():
            words = "is needed: this run was signed with the participants' own keys"
            raise ConfigError("--key", [Problem(name, words)])
        return name, key_file
    public = public_hex(load_private(key).public_key())
    owned = [member.sites for member in manifest.participants if member.key == public]
    return site or (owned[0][0] if owned else names[0]), key


def _show_answers(answers: list[dict[str, Any]], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from sealtune.job.printable import printable, printable_lines

    if "continuation" in answers[0]:
        for answer in answers:
            said = printable_lines(answer["text"]), printable_lines(answer["continuation"])
            console.print(Text.assemble((said[0], "dim"), said[1]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("label", "probability", "text"):
        table.add_column(name, justify="right" if name == "probability" else "left")
    for answer in answers:
        for place, (label, share) in enumerate(answer["top"]):
            shown = Text(printable_lines(answer["text"]) if place == 0 else "", style="dim")
            table.add_row(Text(printable(label)), f"{share:.1%}", shown)
    console.print(table)
