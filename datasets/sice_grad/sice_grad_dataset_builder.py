"""SICE Grad for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["sice_grad"]):
    """Registered as `sice_grad` when this module is imported."""
