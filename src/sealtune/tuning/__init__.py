"""What is trained of a frozen model: LoRA, SPF, the head; adapter files, export, merge."""
