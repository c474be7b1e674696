"""Option types that subcommands share; imports nothing slow."""

import argparse


def positive(text: str) -> int:
    """Parses a whole number of at least 1; argparse reports the error."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number
