"""Experiments: `base` holds the schema, each other file is one recipe."""
