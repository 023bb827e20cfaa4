"""Data: readers, prompt templates, partitioners, and what one site trains and tests on."""
