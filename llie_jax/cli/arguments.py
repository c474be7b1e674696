"""Option types that subcommands share; imports nothing slow."""

import argparse

from llie_jax import files

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


def json_file(text: str) -> str:
    """Parses the name of a JSON file to write; argparse reports the error."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is empty")
    try:
        files.check_json(text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def positive(text: str) -> int:
    """Parses a whole number of at least 1; argparse reports the error."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number
