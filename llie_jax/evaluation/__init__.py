"""Scoring a model or saved images, and the report."""
