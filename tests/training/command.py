"""The command `llie-jax`, which knows the toy models."""

import sys

from llie_jax.cli.main import main
from tests.training import toys as toys

if __name__ == "__main__":
    sys.exit(main())
