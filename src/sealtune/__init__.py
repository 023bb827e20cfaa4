"""sealtune: secure distributed fine-tuning of large language models."""

__version__ = "0.1.0"

program: str | None = None  # which of ``sealtune.programs`` this process is; ``start.py`` sets it
