"""VV for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["vv"]):
    """Registered as `vv` when this module is imported."""
