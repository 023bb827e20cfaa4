"""What a run leaves behind for people: ``summary.json`` and ``report.html``.

Both are pure functions of the run folder's ``metrics.jsonl`` and ``job.manifest.json`` (and of
``baselines/*.json`` and ``audit.json`` where a comparison or an audit was run), so they can be
rebuilt at any time. Start reading at ``summary.py`` (the figures), then ``page.py`` (the page).

Trust domain: server operator (reads only what the enclaves let out).
"""

from sealtune.report.log import RunLog, read_run
from sealtune.report.page import write
from sealtune.report.summary import build_summary, summarise

__all__ = ["RunLog", "build_summary", "read_run", "summarise", "write"]
