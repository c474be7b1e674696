"""Official PyTorch checkpoints to models and variables."""
