"""SICE Mix for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["sice_mix"]):
    """Registered as `sice_mix` when this module is imported."""
