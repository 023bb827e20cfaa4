"""Makes the mutants of `mutants.py`: each a Python file with one change.

The operators are cosmic-ray's, where it has them; that a raise, the call of a check or a `not` in
`not in` goes away are our own, in its interface. Left alone: annotations, which nothing executes,
and the wording of messages (arguments of a raise, f-strings).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators import binary_operator_replacement as binary
from cosmic_ray.operators import boolean_replacer as boolean
from cosmic_ray.operators import comparison_operator_replacement as comparison
from cosmic_ray.operators import unary_operator_replacement as unary
from cosmic_ray.operators.number_replacer import NumberReplacer
from cosmic_ray.operators.operator import Operator
from parso.python.tree import Keyword
from parso.tree import NodeOrLeaf

_Position = tuple[tuple[int, int], tuple[int, int]]
# Those that name the opposite already: `not a == b` is the mutant `a != b` once more.
_OPPOSITES = frozenset({"==", "!=", "is", "is not", "in", "not in"})


@dataclass(frozen=True)
class Mutant:
    """One change to one file.

    Attributes:
        file: path in the repository.
        number: line, from 1.
        operator: name of the kind of change.
        line: the line as it stands, or the whole statement that is taken out; one space for any.
        becomes: that line after the change.
        text: the whole changed file.
        occurrence: which of the operator's places in the file, from 0.
    """

    file: str
    number: int
    operator: str
    line: str
    becomes: str
    text: str
    occurrence: int

    @property
    def key(self) -> str:
        """What names it in a file of results."""
        return f"{self.file} | {self.operator} {self.occurrence} | {self.line} | {self.becomes}"


class _Removal(Operator):  # type: ignore[misc]
    """Puts `pass` in the place of statements of one kind."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[_Position]:
        if getattr(node.parent, "type", "") == "simple_stmt" and self.goes(node):
            yield (node.start_pos, node.end_pos)

    def mutate(self, node: NodeOrLeaf, index: int) -> Keyword:
        return Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    def goes(self, node: NodeOrLeaf) -> bool:
        raise NotImplementedError

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class RemoveRaise(_Removal):
    """Nothing is raised."""

    def goes(self, node: NodeOrLeaf) -> bool:
        return node.type == "raise_stmt" or getattr(node, "value", "") == "raise"


class RemoveCall(_Removal):
    """A call whose value no one uses, such as that of a check, does not happen."""

    def goes(self, node: NodeOrLeaf) -> bool:
        return node.type in {"atom_expr", "power"} and node.children[-1].type == "trailer"


class TurnMembership(Operator):  # type: ignore[misc]
    """`in` becomes `not in`, and the other way."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[_Position]:
        if node.type == "comparison":
            for sign in node.children[1::2]:
                if _words(sign.get_code()) in {"in", "not in"}:
                    yield (sign.start_pos, sign.end_pos)

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        places = [
            place
            for place in range(1, len(node.children), 2)
            if _words(node.children[place].get_code()) in {"in", "not in"}
        ]
        turned = {"in": " not in", "not in": " in"}
        sign = turned[_words(node.children[places[index]].get_code())]
        node.children[places[index]] = parso.parse(sign)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class Negate(boolean.AddNot):  # type: ignore[misc]
    """A condition turns into its opposite, where no other operator does that."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[_Position]:
        for position in super().mutation_positions(node):
            condition = node.children[2 if node.type == "test" else 1]
            if condition.type == "not_test":
                continue
            if condition.type == "comparison" and _words(condition.children[1].get_code()) in (
                _OPPOSITES
            ):
                continue
            yield position


def _chosen(module: object, stem: str, turns: dict[str, str]) -> dict[str, Operator]:
    names = [f"{stem}_{old}_{new}" for old, new in turns.items()]
    return {name: getattr(module, name)() for name in names}


# Edges and opposites of comparisons; sums, products and bits the other way round.
_EDGES = {"Lt": "LtE", "LtE": "Lt", "Gt": "GtE", "GtE": "Gt"}
_TURNS = _EDGES | {"Eq": "NotEq", "NotEq": "Eq", "Is": "IsNot", "IsNot": "Is"}
_SUMS = {"Add": "Sub", "Sub": "Add", "Mul": "FloorDiv", "FloorDiv": "Mul", "Div": "Mul"}
_BITS = {"Mod": "FloorDiv", "Pow": "Mul", "LShift": "RShift", "RShift": "LShift", "BitAnd": "BitOr"}
OPERATORS: dict[str, Operator] = {
    "RemoveRaise": RemoveRaise(),
    "RemoveCall": RemoveCall(),
    "Negate": Negate(),
    "TurnMembership": TurnMembership(),
    "NumberReplacer": NumberReplacer(),
    "ReplaceTrueWithFalse": boolean.ReplaceTrueWithFalse(),
    "ReplaceFalseWithTrue": boolean.ReplaceFalseWithTrue(),
    "ReplaceAndWithOr": boolean.ReplaceAndWithOr(),
    "ReplaceOrWithAnd": boolean.ReplaceOrWithAnd(),
    "ReplaceUnaryOperator_Delete_Not": unary.ReplaceUnaryOperator_Delete_Not(),
    **_chosen(comparison, "ReplaceComparisonOperator", _TURNS),
    **_chosen(binary, "ReplaceBinaryOperator", _SUMS | _BITS),
}


def make(root: Path, file: str) -> list[Mutant]:
    """All mutants of a file, in the order of its lines.

    Those that are no Python, or the same program, are left out.
    """
    text = (root / file).read_text()
    same = {ast.dump(ast.parse(text))}
    found = []
    for name, operator in OPERATORS.items():
        # cosmic-ray counts an operator's places in the order of the tree, nodes before children.
        places = [node for node in ast_nodes(get_ast(text)) for _ in _positions(operator, node)]
        for occurrence, node in enumerate(places):
            if _left_alone(node, removal=isinstance(operator, _Removal)):
                continue
            changed = MutationVisitor.mutate_code(text, operator, occurrence)
            mutant = _mutant(file, text, changed, name, occurrence, node)
            if (tree := _tree(changed)) is not None and tree not in same:
                same.add(tree)
                found.append(mutant)
    return sorted(found, key=lambda one: (one.number, one.operator, one.occurrence))


def _positions(operator: Operator, node: NodeOrLeaf) -> list[_Position]:
    return list(operator.mutation_positions(node))


def _mutant(
    file: str, text: str, changed: str, name: str, occurrence: int, node: NodeOrLeaf
) -> Mutant:
    if isinstance(OPERATORS[name], _Removal):
        number, line, becomes = node.start_pos[0], _words(node.get_code()), "pass"
    else:
        pairs = zip(text.splitlines(), changed.splitlines(), strict=False)
        number, line, becomes = next(
            (number, _words(old), _words(new))
            for number, (old, new) in enumerate(pairs, 1)
            if old != new
        )
    return Mutant(file, number, name, line, becomes, changed, occurrence)


def _left_alone(node: NodeOrLeaf, *, removal: bool) -> bool:
    above = node.parent if removal else node
    while above is not None:
        parent = above.parent
        if above.type in {"raise_stmt", "fstring", "annassign", "tfpdef"}:
            # `x: int = 3` and `size: int = 3`: only what stands behind the sign is executed.
            return above.type != "annassign" or not _assigned(node, above)
        if getattr(parent, "type", "") == "funcdef" and parent.annotation is above:
            return True
        above = parent
    return False


def _assigned(node: NodeOrLeaf, annotated: NodeOrLeaf) -> bool:
    signs = [child for child in annotated.children if getattr(child, "value", "") == "="]
    return bool(signs) and node.start_pos > signs[0].start_pos


def _tree(text: str) -> str | None:
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return None


def _words(text: str) -> str:
    return " ".join(text.split())
