"""Experiments: `base` defines the schema, every other file is a recipe."""
