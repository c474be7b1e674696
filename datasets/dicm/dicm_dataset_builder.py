"""DICM for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["dicm"]):
    """Registered as `dicm` when this module is imported."""
