"""Experiments:  holds the schema, each other file is one experiment."""
