"""Frozen feature networks behind losses and metrics."""
