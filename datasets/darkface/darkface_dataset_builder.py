"""DARK FACE for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["darkface"]):
    """Registered as `darkface` when this module is imported."""
