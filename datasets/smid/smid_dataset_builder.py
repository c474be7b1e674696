"""SMID for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["smid"]):
    """Registered as `smid` when this module is imported."""
