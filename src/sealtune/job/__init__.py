"""The contract of a run: what ``job.toml`` says, checked, and the id that everyone agrees on."""
