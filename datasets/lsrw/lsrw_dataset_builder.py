"""LSRW for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["lsrw"]):
    """Registered as `lsrw` when this module is imported."""
