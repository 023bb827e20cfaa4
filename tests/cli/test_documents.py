"""What the pages name exists: each test, each command with its options, each file, each section."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path

import click
import pytest
import typer

from sealtune.attest import errors
from sealtune.cli.main import app
from sealtune.errors import AttestationError
from sealtune.programs.facts import lines_at_start
from sealtune.programs.reach import MAINS

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *(
        f"docs/{name}.md"
        for name in (
            "threat-model", "attestation", "limitations", "manifest", "split", "figures", "results",
            "glossary", "recorded-evidence", "doctor", "deploy", "images", "kubernetes", "slurm",
            "flower", "advise", "hardware-snp", "hardware-tdx", "hardware-sgx", "hardware-cloud",
        )
    ),
)  # fmt: skip
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
_CODE = re.compile(r"`([^`]+)`")


def page(name: str) -> str:
    return (ROOT / name).read_text()


def named_tests() -> list[tuple[str, str]]:
    return sorted({found for name in PAGES for found in _TEST.findall(page(name))})


def commands(program: str) -> list[str]:
    """Command lines in code blocks and code spans that start with ``program`` and go on."""
    found = set()
    for name in PAGES:
        text = page(name)
        blocks = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", text, flags=re.S | re.M)
        typed = "".join(block for kind, block in blocks if kind in ("", "sh", "console"))
        lines = [line.removeprefix("$ ") for line in typed.replace("\\\n", " ").splitlines()]
        spans = [
            " ".join(span.split())
            for span in _CODE.findall(re.sub(r"```.*?```", "", text, flags=re.S))
        ]
        found |= {one for one in (*lines, *spans) if one.startswith(program + " ")}
    return sorted(found)


def test_there_is_something_to_check() -> None:
    assert len(named_tests()) > 50
    assert len(commands("sealtune")) > 10
    assert len(commands("python")) >= 2


@pytest.mark.parametrize(("file", "name"), named_tests())
def test_every_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("line", commands("sealtune"))
def test_every_named_command_parses(line: str) -> None:
    words = shlex.split(re.split(r"\s(?:[|>]|&&)\s", line)[0], comments=True)[1:]
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="sealtune")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(context, words[0])
        assert inner is not None, f"no command {words[0]!r} in {line!r}"
        command, words = inner, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    # Unknown options raise; files that are named need not exist.
    values, rest, _ = command.make_parser(context).parse_args(args=words)
    assert not rest, f"left over in {line!r}: {rest}"
    for parameter in command.params:
        given = values.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(given, str):
            parameter.type.convert(given, parameter, context)


@pytest.mark.parametrize("line", [one for one in commands("python") if "benchmarks/" in one])
def test_every_named_benchmark_has_its_options(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *options = shlex.split(line)[1:]
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # some scripts set it; it is taken back
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:  # in this process, which has the imports already
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 0
    said = capsys.readouterr().out
    for option in (word for word in options if word.startswith("--")):
        assert option in said


def headings(path: Path) -> set[str]:
    """The names by which links reach a page's sections."""
    titles = re.findall(r"^#+ (.*)", path.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target, section in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page(name)):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.is_file(), target
        assert not section or section in headings(path), f"{target}#{section}"


def test_every_named_make_target_exists() -> None:
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {word for line in commands("make") for word in line.split()[1:2]}
    assert {"demo", "demo-split", "test", "check"} <= named
    assert named <= rules


@pytest.mark.parametrize("name", PAGES)
def test_named_paths_of_the_repository_exist(name: str) -> None:
    for path in re.findall(r"`((?:src|tests|docs|examples|benchmarks)/[\w./-]+)`", page(name)):
        assert (ROOT / path).exists(), path


def test_each_claim_has_limits_and_checks() -> None:
    sections = re.split(r"^## ", page("docs/threat-model.md"), flags=re.M)[1:]
    assert len(sections) == 19
    for section in sections:
        for part in ("**Claim.**", "**Limits.**", "**Check → Evidence.**"):
            assert section.count(part) == 1, section.splitlines()[0]
        checks = section.partition("**Check → Evidence.**")[2]
        for line in re.findall(r"^- (.*)", checks, flags=re.M):
            assert line.startswith(("`tests/", "`sealtune ", "`python ", "`lint-imports`")), line


def test_exit_codes_of_refusals_are_all_listed() -> None:
    rows = dict(re.findall(r"^\| (\d\d) \| `(\w+)` \|", page("docs/attestation.md"), flags=re.M))
    classes = {
        value.exit_code: name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, AttestationError) and value.exit_code > 69
    }
    assert {int(code): name for code, name in rows.items()} == classes


def test_the_readme_counts_each_program() -> None:
    """Sizes are rounded, and nobody turns a page for ten lines; a twentieth would be another."""
    stated: dict[str, int] = {}
    for cells in re.findall(
        r"^\| ((?:`[\w-]+` )+)\| [^|]+ \| ([\d, and]+) \|", page("README.md"), re.M
    ):
        sizes = (int(one.replace(",", "")) for one in cells[1].split(" and "))
        stated |= zip(_CODE.findall(cells[0]), sizes, strict=True)
    assert stated.keys() == MAINS.keys()
    for name, lines in stated.items():
        assert lines == pytest.approx(lines_at_start(name), rel=0.05, abs=100), name
