"""Scores a model on a data set; the same as `llie-jax eval`."""

import sys

from llie_jax.cli.main import program

if __name__ == "__main__":
    sys.exit(program("eval"))
