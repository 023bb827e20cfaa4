"""Data: readers, prompt templates, partitioners, and what one site trains and tests on."""

from sealtune.data.partition import partition, subsample
from sealtune.data.readers import read_rows
from sealtune.data.site import (
    Example,
    SiteData,
    discover_labels,
    load_site,
    load_sites,
    subsample_test,
)
from sealtune.data.template import Template
from sealtune.data.tokens import TokenCounts, count_tokens

__all__ = [
    "Example",
    "SiteData",
    "Template",
    "TokenCounts",
    "count_tokens",
    "discover_labels",
    "load_site",
    "load_sites",
    "partition",
    "read_rows",
    "subsample",
    "subsample_test",
]
