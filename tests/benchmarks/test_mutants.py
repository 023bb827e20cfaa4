"""The mutation trial would tell, and leaves the tree that it tries alone."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="needs the `bench` extra")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import mutants  # noqa: E402
import mutants_made  # noqa: E402
import mutants_run  # noqa: E402

TOY = """\
from collections.abc import Sequence

WIDE: int | None = 1 << 3


def check(values: Sequence[int], most: int = 4) -> int:
    if len(values) > most:
        raise ValueError(f"{len(values) - 1} of {most}")
    if 9 in values:
        values.clear()
    while True:
        if values:
            return sum(values)
        return 0


def dead() -> None:
    if 1 < 2:
        raise ValueError("nobody comes here")
"""
TEST = """\
import os
import sys
import subprocess

import pytest

import sealtune.toy as toy


def test_edges():
    assert toy.check([1, 1, 1, 1]) == 4
    with pytest.raises(ValueError):
        toy.check([1] * 5)


def test_an_isolated_child_has_the_same():
    code = "import sealtune.toy as toy; print(toy.check([]), toy.WIDE, toy.check([9, 2]))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "0 8 0\\n", done.stderr
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of one file and its test."""
    for folder in ("src/sealtune", "tests"):
        (tmp_path / "toy" / folder).mkdir(parents=True)
    (tmp_path / "toy" / "src/sealtune/__init__.py").write_text("")
    (tmp_path / "toy" / "src/sealtune/toy.py").write_text(TOY)
    (tmp_path / "toy" / "tests" / "test_toy.py").write_text(TEST)
    (tmp_path / "toy" / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    return tmp_path / "toy"


def digest(folder: Path) -> str:
    parts = [(str(path), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def test_the_trial_would_tell_and_leaves_the_tree_alone(tree: Path) -> None:
    before = digest(tree)
    room = mutants.Room("src/sealtune/toy.py", ("tests",))
    made = mutants.mutants_of(tree, room, only="", sample=0, seed=0)
    chosen = [one for one in made if one.operator != "NumberReplacer"]
    with mutants_run.forks(tree) as run:
        tried = list(mutants.try_all(run, room, chosen, timeout=20))
        copy = run.root
    assert {(one.line, one.operator): answer["code"] for one, answer in tried} == {
        ("WIDE: int | None = 1 << 3", "ReplaceBinaryOperator_LShift_RShift"): 1,
        ("if len(values) > most:", "Negate"): 1,
        ("if len(values) > most:", "ReplaceComparisonOperator_Gt_GtE"): 1,
        ('raise ValueError(f"{len(values) - 1} of {most}")', "RemoveRaise"): 1,
        ("if 9 in values:", "TurnMembership"): 1,
        ("values.clear()", "RemoveCall"): 1,
        ("while True:", "Negate"): 1,
        ("while True:", "ReplaceTrueWithFalse"): 1,
        ("if values:", "Negate"): 1,
        ("if 1 < 2:", "Negate"): 0,
        ("if 1 < 2:", "ReplaceComparisonOperator_Lt_LtE"): 0,
        ('raise ValueError("nobody comes here")', "RemoveRaise"): 0,
    }
    first = {one.line: answer["test"] for one, answer in tried}
    assert first["values.clear()"].endswith("test_an_isolated_child_has_the_same")
    assert digest(tree) == before
    assert not copy.exists()


def test_a_mutant_that_does_not_end_is_noticed(tree: Path) -> None:
    room = mutants.Room("src/sealtune/toy.py", ("tests",))
    text = TOY.replace("return 0", "continue")
    endless = mutants_made.Mutant("src/sealtune/toy.py", 1, "none", "", "", text, 0)
    with mutants_run.forks(tree) as run:
        ((_, answer),) = mutants.try_all(run, room, [endless], timeout=1)
        assert answer["code"] == mutants_run.TIMED_OUT
        assert (run.root / endless.file).read_text() == TOY


def test_tests_that_fail_without_a_change_are_no_trial(tree: Path) -> None:
    room = mutants.Room("src/sealtune/toy.py", ("tests",))
    (tree / "tests/test_toy.py").write_text("def test_no():\n    assert False\n")
    with (
        mutants_run.forks(tree) as run,
        pytest.raises(SystemExit, match="fail without any change"),
    ):
        list(mutants.try_all(run, room, [], timeout=1))


def test_only_survivors_with_a_reason_do_not_count(tree: Path) -> None:
    room = mutants.Room("src/sealtune/toy.py", ("tests",))
    made = mutants.mutants_of(tree, room, only="", sample=0, seed=0)
    edge, dead = (
        next(one for one in made if one.line == line) for line in ("if values:", "if 1 < 2:")
    )
    reasons = [mutants.Explained(dead.file, dead.line, dead.operator, None, "dead code")]
    outcomes = {one.key: {"code": 1} for one in made[:2]} | {
        edge.key: {"code": 0},
        dead.key: {"code": 0},
    }
    found = mutants.figures(made, outcomes, reasons)
    assert (found["all"], found["noticed"], found["explained"]) == (4, 2, 1)
    assert found["share"] == round(2 / 3, 4)
    assert len(found["survivors"]) == 1
    assert "if values:" in found["survivors"][0]


def test_each_reason_is_about_a_line_that_stands() -> None:
    root = BENCHMARKS.parent
    for one in mutants.explained(mutants.EXPLAINED):
        assert one.reason
        text = " ".join((root / one.file).read_text().split())
        assert one.line in text, one
        assert one.operator in mutants_made.OPERATORS, one
