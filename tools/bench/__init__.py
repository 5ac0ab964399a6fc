"""What a training step, a memory bank and a model cost: `python -m tools.bench`."""
