"""Option types that subcommands share; imports nothing slow."""

import argparse

PROTOCOLS = (
    "default",
    "retinexformer",
    "cidnet",
    "darkir",
    "snr",
    "snr_syn",
    "snr_video",
)
"""The names in `llie_jax.metrics.protocol`, which is slow to import, for help texts."""


def positive(text: str) -> int:
    """Parses a whole number of at least 1; argparse reports the error."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number
