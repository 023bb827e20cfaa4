"""The programs that can be made into an image.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

# what people call them -> their list, which their code digest covers
PROGRAMS = {
    "aggregator": "aggregator",
    "site": "site-enclave",
    "split-server": "split-server",
}
