"""SICE for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["sice"]):
    """Registered as `sice` when this module is imported."""
