"""A party's ``local.toml`` as a start, with comments: ready for its own command.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from sealtune.job.job_file import JobFile
from sealtune.job.network import host_and_port
from sealtune.job.shared import NOWHERE

_HEAD = (
    "# {what} of the job '{name}': what this party knows alone. Nobody else needs this file;\n"
    "# what all share is in the signed manifest. Relative paths start at this file's folder.\n"
)


def site_text(job: JobFile, site: str, out: Path, *, key: Path, node_key: Path) -> str:
    """Of a site, whose data and model are those of ``job``."""
    lines = {
        "folder": (site, "for results, sealed state and logs"),
        "listen": (f"{site}.sock", "where the site's program and its carrier meet"),
        "accelerator": ("unix:accelerator.sock", "where its accelerator listens; or tcp:host:port"),
        "pad_accelerator": ("tcp:pads.example.org:9101", "where its pad accelerator listens"),
        "key": (_at(key, out), "the organisation's private key"),
        "node_key": (_at(node_key, out), "by which the coordinator knows this site"),
    }
    if job.protection.pads == "enclave":
        del lines["pad_accelerator"]
    if not job.accelerated:
        del lines["accelerator"]
    data = {
        part: (_at(files[site], out), "")
        for part in ("train", "test")
        if isinstance(files := getattr(job.data, part), dict)
    }
    head = _table({"role": ("site", ""), "site": (site, ""), **lines})
    model = f"\n[model]\n{_model(job, out)}"
    return _whole(job, f"Site '{site}'", f"{head}{model}\n[data]\n{_table(data)}")


def server_text(job: JobFile, out: Path, *, tls_key: Path) -> str:
    """Of the server; it holds a model if it trains."""
    head = _table(
        {
            "role": ("server", ""),
            "folder": ("server", "for sealed state, logs and, where there is one, the report"),
            "listen": ("server.sock", "where the server's program and its carrier meet"),
            "tls_key": (_at(tls_key, out), "by which the coordinator knows the server"),
        }
    )
    model = f"\n[model]\n{_model(job, out)}" if job.job.rules.server_trains else ""
    return _whole(job, "The server", head + model)


def coordinator_text(
    job: JobFile, out: Path, *, sites_at: str, server_at: str, tls_key: Path
) -> str:
    """Of the coordinator, which listens where it says that it is reached."""
    head = _table(
        {
            "role": ("coordinator", ""),
            "folder": ("coordinator", "for logs"),
            "listen": (_listen(sites_at), f"for the sites, which send to {sites_at}"),
            "listen_server": (_listen(server_at), f"for the server, which sends to {server_at}"),
            "tls_key": (_at(tls_key, out), "of the certificate in the manifest"),
        }
    )
    return _whole(job, "The coordinator", head)


def pads_text(job: JobFile, out: Path, *, pad_key: Path) -> str:
    """Of a pad accelerator; it holds the model's weights."""
    head = _table(
        {
            "role": ("pad-accelerator", ""),
            "folder": ("pads", "for logs"),
            "listen": ("tcp:0.0.0.0:9101", "for its sites' enclaves"),
            "pad_key": (_at(pad_key, out), "they seal their seeds to it"),
        }
    )
    return _whole(job, "A pad accelerator", f"{head}\n[model]\n{_model(job, out)}")


def _whole(job: JobFile, what: str, body: str) -> str:
    manifest = _table({"manifest": ("job.manifest.json", "when everybody has signed it")})
    return _HEAD.format(what=what, name=job.job.name) + "\n" + manifest + body


def _model(job: JobFile, out: Path) -> str:
    path = job.model.path
    if path == NOWHERE:
        return '# path = "the base model on this machine"\n'
    lines = {"path": (_at(Path(path), out) if path.startswith("/") else path, "")}
    if job.model.revision is not None:
        lines["revision"] = (job.model.revision, "")
    return _table(lines)


def _table(lines: Mapping[str, tuple[str, str]]) -> str:
    shown = ""
    for key, (value, comment) in lines.items():
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        shown += f"{line:<38}  # {comment}\n" if comment else f"{line}\n"
    return shown


def _at(path: Path, out: Path) -> str:
    """``path`` as a file beside ``out`` names it: relative, if it lies in the same folder."""
    here = out.absolute().parent
    return str(path.absolute().relative_to(here) if path.absolute().is_relative_to(here) else path)


def _listen(address: str) -> str:
    """The socket behind an address; of a name, every address of this machine."""
    host, port = host_and_port(address)
    if re.fullmatch(r"[0-9.]+", host) or ":" in host:
        return f"tcp:{address}"
    return f"tcp:0.0.0.0:{port}"
