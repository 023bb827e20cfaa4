"""Say in plain words what a key of the job file may hold, from the models' own JSON schema.

Trust domain: operator; no enclave loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sealtune.job.job_file import JobFile
from sealtune.job.sections import NAME_PATTERN


@cache
def _schema() -> dict[str, Any]:
    return JobFile.model_json_schema()


def sections() -> dict[str, tuple[str, ...]]:
    """Section name -> its keys, in the order of the models; a table in a section has an entry."""
    names: dict[str, tuple[str, ...]] = {}

    def look(name: str, node: Mapping[str, Any]) -> None:
        keys = _keys(node)
        names[name] = tuple(keys)
        for key, inner in keys.items():
            if _keys(inner):
                look(f"{name}.{key}", inner)

    for name, node in _schema()["properties"].items():
        look(name, node)
    return names


def _keys(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that a schema node names, whether or not it may be left out."""
    for option in node.get("anyOf", [node]):
        keys: dict[str, Any] = _deref(option).get("properties", {})
        if keys:
            return keys
    return {}


def describe(path: Sequence[str | int]) -> str:
    """What the key at ``path`` may hold, such as ``a whole number from 1 to 1024``.

    Returns an empty string for a path that the models do not know.
    """
    node = field(path)
    return "" if node is None else _words(node)


def field(path: Sequence[str | int]) -> dict[str, Any] | None:
    """The JSON schema of the key at ``path``: its description, default, examples and bounds."""
    if path[0] == "tuning" and len(path) > 1 and path[1] not in sections()["tuning"]:
        path = ("tuning", "lora", *path[1:])  # written in its short form
    node: dict[str, Any] | None = _schema()
    for part in path:
        node = None if node is None else _step(node, part)
    return node


def _deref(node: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        definition: dict[str, Any] = _schema()["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return definition
    return dict(node)


def _step(node: Mapping[str, Any], part: str | int) -> dict[str, Any] | None:
    for option in node.get("anyOf", [node]):
        inner = _deref(option)
        if isinstance(part, int):
            if "items" in inner:
                return _deref(inner["items"])
        elif part in inner.get("properties", {}):
            return _deref(inner["properties"][part])
        elif isinstance(inner.get("additionalProperties"), dict):
            return _deref(inner["additionalProperties"])
        elif "patternProperties" in inner:
            return next(_deref(one) for one in inner["patternProperties"].values())
    return None


def _words(node: Mapping[str, Any]) -> str:
    if "anyOf" in node:
        options = [_words(o) for o in node["anyOf"] if o.get("type") != "null"]
        return ", or ".join(options)
    if "enum" in node or "const" in node:
        values = node.get("enum", [node.get("const")])
        quoted = [f'"{value}"' for value in values]
        return quoted[0] if len(quoted) == 1 else f"one of {', '.join(quoted)}"
    kinds: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "integer": lambda n: "a whole number" + _bounds(n),
        "number": lambda n: "a number" + _bounds(n),
        "boolean": lambda _: "true or false",
        "string": _string_words,
        "array": _array_words,
    }
    if node.get("type") in kinds:
        return kinds[node["type"]](node)
    values = node.get("additionalProperties") or next(
        iter(node.get("patternProperties", {}).values()), None
    )
    if isinstance(values, dict):
        names = node.get("propertyNames", {}).get("enum")
        if names:
            return f"a table with a kind for {' and '.join(names)}"
        return f"a table of site = {'file' if values.get('format') == 'path' else _words(values)}"
    return "a section of its own, with keys below it"


def _bounds(node: Mapping[str, Any]) -> str:
    low, above = node.get("minimum"), node.get("exclusiveMinimum")
    high, below = node.get("maximum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    limits = [f"at least {low}"] if low is not None else []
    limits += [f"more than {above}"] if above is not None else []
    limits += [f"at most {high}"] if high is not None else []
    limits += [f"less than {below}"] if below is not None else []
    return f", {' and '.join(limits)}" if limits else ""


def _string_words(node: Mapping[str, Any]) -> str:
    if node.get("format") == "path":
        return "the name of a file, in quotes"
    if node.get("pattern") == NAME_PATTERN:
        return (
            "a name of lower-case letters, digits and hyphens "
            "(at most 40, starting with a letter or digit)"
        )
    words = "text in quotes, not empty" if node.get("minLength") else "text in quotes"
    return f"{words}, at most {node['maxLength']} characters" if "maxLength" in node else words


def _array_words(node: Mapping[str, Any]) -> str:
    items = {"integer": "whole numbers", "string": "texts"}.get(
        _deref(node.get("items", {})).get("type", ""), "values"
    )
    if _deref(node.get("items", {})).get("pattern") == NAME_PATTERN:
        items = "names (lower-case letters, digits, hyphens)"
    words = f"a list of {items}"
    low, high = node.get("minItems"), node.get("maxItems")
    if low and high:
        return f"{words}, {low} to {high} of them"
    return f"{words}, at least {low}" if low else words
