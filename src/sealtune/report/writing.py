"""Write ``summary.json`` and ``report.html`` into a run folder.

Trust domain: server operator.
"""

from __future__ import annotations

import json
from pathlib import Path

from sealtune.job.storage import write_atomic
from sealtune.report.log import read_run
from sealtune.report.page import render
from sealtune.report.summary import summarise

SUMMARY = "summary.json"
REPORT = "report.html"


def write(run_dir: Path) -> Path:
    """Rebuild both files from the run's log; return the report's path.

    Raises:
        StorageError: not a run folder, or a file cannot be read or written.
    """
    log = read_run(run_dir)
    summary = summarise(log)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(log, summary)
    write_atomic(run_dir / SUMMARY, text.encode())
    write_atomic(run_dir / REPORT, page.encode("utf-8", errors="replace"))
    return run_dir / REPORT
