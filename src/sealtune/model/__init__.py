"""Hugging Face models: loading, the slice plan, LoRA, tasks, local training, export."""
