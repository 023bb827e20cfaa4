"""Hugging Face models: loading whole or in part, tasks, batches, training."""
