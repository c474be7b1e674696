"""Data sets of image pairs, and the pipelines that feed a training step."""
