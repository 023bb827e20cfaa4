"""Read ``job.toml``: every fault of the file in one error, each with its key and the remedy.

    job = load_job(Path("job.toml"))   # typed settings, paths made absolute
    check_files(job)                   # do the files that it names exist?

Trust domain: operator and data owners; no enclave loads it.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from sealtune.errors import ConfigError, Problem
from sealtune.job.aggregation_rules import aggregation_problems
from sealtune.job.compute_rules import compute_disagreements
from sealtune.job.describe import describe, sections
from sealtune.job.federated_sections import AggregationSpec, PrivacySpec
from sealtune.job.job_file import JobFile, file_problems
from sealtune.job.method import Attested
from sealtune.job.pad_operators import pad_disagreements
from sealtune.job.participation_rules import participation_disagreements
from sealtune.job.privacy_rules import privacy_disagreements
from sealtune.job.rank_rules import rank_disagreements
from sealtune.job.robust_rules import robust_disagreements
from sealtune.job.sections import (
    JobSpec,
    NetworkSpec,
    ProtectionSpec,
    Section,
    SitesSpec,
    SplitSpec,
    TrainSpec,
    TuningSpec,
)
from sealtune.job.settings import disagreements, method_disagreements, unread
from sealtune.job.sources import SUFFIXES, is_hub_data
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.job.storage import read_bounded, reason
from sealtune.job.sum_rules import sum_disagreements
from sealtune.job.tuning_rules import tuning_disagreements

MAX_JOB_BYTES = 1 << 20

_Path = tuple[str | int, ...]
_S = TypeVar("_S", bound=Section)


def load_job(path: Path) -> JobFile:
    """Read and check a job file.

    Relative files in ``[data]`` and a relative ``[model] path`` that is a folder are taken from
    the job file's own folder; ``~`` is the home folder.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has faults; all of them are listed.
    """
    return job_of(read_toml(path), path)


def job_of(raw: dict[str, Any], path: Path, problems: Sequence[Problem] = ()) -> JobFile:
    """The job in the tables of the file ``path``; see ``load_job``.

    Args:
        problems: what else is known to be wrong with it.
    """
    found, job = _validate(raw)
    if job is None or problems:
        every = list(dict.fromkeys((*problems, *found)))
        raise ConfigError(str(path), every, hint="docs/job-file.md explains every key")
    return _absolute(job, Path(os.path.abspath(path)).parent)


def check_files(job: Job) -> None:
    """Check that the data files and the model folder of ``job`` are there.

    Hub ids are left to the loaders, which may need a network.

    Raises:
        ConfigError: lists every file that is missing, empty, unreadable or of an unknown kind.
    """
    problems: list[Problem] = []
    for section, files in (("data.train", job.data.train), ("data.test", job.data.test)):
        named = files.items() if isinstance(files, dict) else [("", files)]
        for site, path in named:
            message = file_fault(path)
            if message:
                problems.append(Problem(f"{section}.{site}" if site else section, message))
    if Path(job.model.path).is_absolute():
        problems += model_faults(Path(job.model.path))
    if problems:
        raise ConfigError(
            f"job '{job.job.name}'",
            problems,
            hint="relative paths start at the job file's folder; `sealtune demo-data` and "
            "`sealtune demo-model` fetch what the examples use",
        )


def read_toml(path: Path, missing: str = "`sealtune init` writes a job file") -> dict[str, Any]:
    """The tables of a file; ``missing`` says what to do where there is none.

    Raises:
        ConfigError: it cannot be read, is too long, or is not TOML.
    """

    def failure(words: str, place: str = "file", hint: str = "") -> ConfigError:
        return ConfigError(str(path), [Problem(place, words)], hint=hint)

    try:
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "there is no such file"
            raise failure(what, hint=missing)
    except OSError as error:
        raise failure(f"cannot be read: {reason(error)}") from error
    data = read_bounded(path, MAX_JOB_BYTES, failure)
    try:
        text = data.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise failure("is not UTF-8 text; save the file as UTF-8", f"line {line}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), [_syntax_problem(text, str(error))]) from error
    except RecursionError as error:
        raise failure("is nested too deeply") from error


def _syntax_problem(text: str, message: str) -> Problem:
    place = re.search(r"\(at line (\d+), column (\d+)\)", message)
    lines = text.splitlines() or [""]
    number = min(int(place[1]) if place else len(lines), len(lines))
    what = re.sub(r"\s*\(at .*\)$", "", message)
    what = what[:1].lower() + what[1:]
    column = f", column {place[2]}" if place else ""
    shown = lines[number - 1].strip()
    if len(shown) > 80:
        shown = shown[:77] + "..."
    advice = ""
    if what == "invalid value" and re.search(r"=\s*[A-Za-z./~]", shown):
        advice = '; text needs quotes, as in name = "demo"'
    elif what == "cannot overwrite a value" or what.startswith("cannot declare"):
        what = "the key or section stands there a second time"
    return Problem(f"line {number}{column}", f"not valid TOML: {what} in: {shown}{advice}")


def _validate(raw: dict[str, Any]) -> tuple[list[Problem], JobFile | None]:
    try:
        return [], JobFile.model_validate(raw)
    except ValidationError as error:
        problems = _translate(error, raw)

    def valid(kind: type[_S], name: str) -> _S | None:
        try:
            return kind.model_validate(raw.get(name, {}))
        except ValidationError:
            return None

    # Rules between sections only run on a valid whole; repeat them on the sections that are valid.
    model, data, sites = (
        valid(ModelSpec, "model"),
        valid(DataSpec, "data"),
        valid(SitesSpec, "sites"),
    )
    problems += file_problems(data, sites)
    network = valid(NetworkSpec, "network")
    problems += disagreements(model, data, sites, network)
    method, tuning = valid(JobSpec, "job"), valid(TuningSpec, "tuning")
    train = valid(TrainSpec, "train")
    split, protection = valid(SplitSpec, "split"), valid(ProtectionSpec, "protection")
    if split is not None or "split" not in raw:  # a section with faults is not a missing one
        problems += method_disagreements(method, tuning, protection, split)
    aggregation, privacy = valid(AggregationSpec, "aggregation"), valid(PrivacySpec, "privacy")
    problems += unread(method, protection)
    problems += compute_disagreements(method, protection)
    problems += pad_disagreements(protection)
    problems += tuning_disagreements(method, model, tuning, train)
    problems += aggregation_problems(method, aggregation)
    problems += participation_disagreements(method, sites, network, aggregation)
    problems += robust_disagreements(sites, aggregation)
    problems += rank_disagreements(method, sites, tuning, aggregation)
    problems += privacy_disagreements(method, model, tuning, train, aggregation, privacy)
    problems += sum_disagreements(method, sites, aggregation, privacy, network)
    return list(dict.fromkeys(problems)), None


def _translate(error: ValidationError, raw: Mapping[str, Any]) -> list[Problem]:
    messages: dict[_Path, list[str]] = {}
    rules: list[Problem] = []
    for fault in error.errors(include_url=False):
        if fault["type"] == "rule":
            rules.append(Problem(".".join(map(str, fault["loc"])), fault["msg"]))
            continue
        loc = fault["loc"]
        if loc[:2] == ("tuning", "lora") and "lora" not in raw.get("tuning", {}):
            loc = ("tuning", *loc[2:])  # written in its short form
        path = _real_path(loc, raw, fault["type"])
        if fault["type"] == "value_error":
            message = str(fault.get("ctx", {}).get("error", fault["msg"]))
        elif fault["type"] == "extra_forbidden":
            message = _unknown_key(path)
        elif fault["type"] == "missing":
            message = _missing(path)
        elif loc[-1] == "[key]":
            message = _no_role(str(path[-1]))
        else:
            value: Any = raw
            for part in path:
                value = value[part]
            message = f"is {_shown(value)}; it should be {describe(path)}"
        if message not in messages.setdefault(path, []):
            messages[path].append(message)
    # A list or table with a faulty member is reported by the member alone.
    leaves = [p for p in messages if not any(q != p and q[: len(p)] == p for q in messages)]
    return [Problem(_dotted(p), m) for p in leaves for m in messages[p]] + rules


def _real_path(loc: Iterable[str | int], raw: Any, kind: str) -> _Path:
    """The keys in ``loc`` that stand in the file; pydantic mixes names of union members in."""
    path: list[str | int] = []
    parts = list(loc)
    node = raw
    for index, part in enumerate(parts):
        in_list = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if in_list or (isinstance(node, dict) and part in node):
            node = node[part]
        elif not (kind == "missing" and index == len(parts) - 1):
            continue
        path.append(part)
    return tuple(path)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = f'"{text}"' if isinstance(value, str) else text
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(path: _Path) -> str:
    words = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(words).removeprefix(".") or "file"


def _missing(path: _Path) -> str:
    if len(path) == 1:
        return f"the section [{path[0]}] is missing"
    return f"is missing; it should be {describe(path)}"


def _no_role(name: str) -> str:
    roles = get_args(Attested)
    near = difflib.get_close_matches(name, roles, n=1)
    advice = f"; did you mean '{near[0]}'?" if near else ""
    return f"'{name}' is no role: the roles are {' and '.join(roles)}{advice}"


def _unknown_key(path: _Path) -> str:
    tables = sections()
    name = str(path[-1])
    home = ".".join(map(str, path[:-1]))
    if not home:
        near = difflib.get_close_matches(name, tables, n=1)
        homes = [s for s, keys in tables.items() if name in keys]
        if near:
            return f"unknown section; did you mean [{near[0]}]?"
        if homes:
            return f"unknown section; the key '{name}' belongs into [{homes[0]}]"
        return f"unknown section; there are {', '.join(f'[{s}]' for s in tables)}"
    homes = [s for s, keys in tables.items() if name in keys]
    if homes:
        return f"unknown key here; it belongs into [{homes[0]}]"
    here = tables.get(home, ())
    if home == "tuning":
        here += tables["tuning.lora"]
    near = difflib.get_close_matches(name, here, n=1)
    if near:
        return f"unknown key; did you mean '{near[0]}'?"
    return f"unknown key; [{home}] has {', '.join(here)}"


def _absolute(job: JobFile, base: Path) -> JobFile:
    def at(files: Path | dict[str, Path]) -> Path | dict[str, Path]:
        if isinstance(files, dict):
            return {site: absolute(path, base) for site, path in files.items()}
        return absolute(files, base)

    places = {"train": at(job.data.train), "test": at(job.data.test)}
    model = job.model.model_copy(update={"path": absolute_model(job.model.path, base)})
    return job.model_copy(update={"data": job.data.model_copy(update=places), "model": model})


def absolute(path: Path, base: Path) -> Path:
    """A file's path from the folder ``base``; ``~`` is the home folder, and a hub's name stays."""
    if is_hub_data(path):
        return path
    return Path(os.path.abspath(base / os.path.expanduser(path)))


def absolute_model(path: str, base: Path) -> str:
    """The same of a model, which is a folder if it looks like one, or is there."""
    path = os.path.expanduser(path)
    is_folder = path.startswith((".", "/")) or (base / path).is_dir()
    return os.path.abspath(base / path) if is_folder else path


def file_fault(path: Path) -> str:
    """What is wrong with a data file, before it is opened; empty: nothing, or it is a hub's."""
    return "" if is_hub_data(path) else _file_fault(path)


def _file_fault(path: Path) -> str:
    try:
        if path.is_dir():
            return f"{path} is a folder, not a file"
        if not path.exists():
            return f"there is no file {path}"
        if path.suffix.lower() not in SUFFIXES:
            return f"{path.name} should end in one of {', '.join(SUFFIXES)}"
        if path.stat().st_size == 0:
            return f"{path} is empty"
    except OSError as error:
        return f"{path} cannot be read: {reason(error)}"
    return "" if os.access(path, os.R_OK) else f"{path} cannot be read: permission denied"


def model_faults(path: Path) -> list[Problem]:
    """What is wrong with a model's folder, before its files are read."""
    if not path.is_dir():
        return [Problem("model.path", f"there is no folder {path}")]
    if not (path / "config.json").is_file():
        message = f"{path} holds no config.json, so it is not a Hugging Face model folder"
        return [Problem("model.path", message)]
    return []
