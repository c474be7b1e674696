"""SID for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["sid"]):
    """Registered as `sid` when this module is imported."""
