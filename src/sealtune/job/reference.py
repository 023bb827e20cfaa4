"""What each key of the job file means, as the models say it: a file to start from, and tables.

    template("split")                          # the commented file that `sealtune init` writes
    python -m sealtune.job.reference docs/job-file.md      # writes the tables in it anew

Trust domain: operator; no enclave loads it.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from sealtune.job.describe import describe, field, sections
from sealtune.job.method import method_of
from sealtune.job.presets import Preset
from sealtune.job.storage import write_atomic

_HEAD = """\
# A sealtune job. Keys behind "# " are left out by default; docs/job-file.md says more.
#
#   sealtune demo-data       # the files named in [data]
#   sealtune demo-model      # the folder named in [model]
#   sealtune validate FILE   # check this file and what it names
#   sealtune advise FILE     # which method, and where to cut
#   sealtune plan FILE       # show which part of the model runs where
#   sealtune run FILE
#
# Relative paths start at this file's folder; ~ is your home folder.
"""

_ALONE = ("tuning.ptuning",)  # tables that exclude others; a template has them as comments
# method -> the preset that a template begins with, and the tables that it stands for
_BEGINS_WITH: dict[str, Preset] = {"split": "spf-vo"}
_OF_PRESET = ("tuning.lora", "tuning.spf")


def template(method: str) -> str:
    """A job file of ``method`` in which every key stands, explained."""
    text, tables, left_out = _HEAD, sections(), method_of(method).unused
    for name, keys in tables.items():
        paths = [f"{name}.{key}" for key in keys if f"{name}.{key}" not in tables]
        shown = [path.split(".") for path in paths if path not in left_out]
        if shown and name not in left_out:
            table = f"[{name}]\n"
            table += _comment(_node(name.split("."))["description"]) if "." in name else ""
            table += "".join(_entry(path, method) for path in shown)
            off = name in _ALONE or (method in _BEGINS_WITH and name in _OF_PRESET)
            text += "\n" + (_off(table) if off else table)
    return text


def with_tables(text: str) -> str:
    """``text`` with the table below each section's heading as the models have it."""
    for name, keys in sections().items():
        rows = ["| key | may be | default | meaning |", "| --- | --- | --- | --- |"]
        rows += [_row([*name.split("."), key]) for key in keys]
        place = rf"(?ms)^## `\[{re.escape(name)}\]`$.*?(^\| key \|.*?)(?=\n\n|\n?\Z)"
        table = re.search(place, text)
        if table is None:
            raise SystemExit(f"there is no table below a heading [{name}]")
        text = text[: table.start(1)] + "\n".join(rows) + text[table.end(1) :]
    return text


def _node(path: list[str]) -> dict[str, Any]:
    node = field(path)
    assert node is not None, path  # the path came from the models themselves
    return node


def _entry(path: list[str], method: str) -> str:
    node, key = _node(path), path[-1]
    first, *others = node.get("examples", [node.get("default")])
    chosen = {"job.method": method, "tuning.preset": _BEGINS_WITH.get(method)}
    value = chosen.get(".".join(path)) or first
    left_out = node.get("default", "") in (None, [], {}) and not chosen.get(".".join(path))
    off = "# " if left_out else ""
    lines = [f"{off}{key} = {_toml(value)}  # {describe(path)}"]
    lines += [f"# {key} = {_toml(other)}" for other in others]
    return _comment(node["description"]) + "\n".join(lines) + "\n"


def _off(table: str) -> str:
    return "".join(f"# {line.removeprefix('# ')}\n" for line in table.splitlines())


def _comment(text: str) -> str:
    return textwrap.indent(textwrap.fill(" ".join(text.replace("`", "").split()), 98), "# ") + "\n"


def _row(path: list[str]) -> str:
    node = _node(path)
    default = "required"
    if "default" in node:
        default = "none" if node["default"] is None else f"`{json.dumps(node['default'])}`"
    meaning = " ".join(node["description"].split())
    return f"| `{path[-1]}` | {describe(path)} | {default} | {meaning} |"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value)


if __name__ == "__main__":
    document = Path(sys.argv[1])
    write_atomic(document, with_tables(document.read_text()).encode())
