"""Trains a model; the same as `llie-jax train`."""

import sys

from llie_jax.cli.main import program

if __name__ == "__main__":
    sys.exit(program("train"))
