"""The demo set for TensorFlow Datasets; `llie_jax.data` defines it."""

from llie_jax.data import prepared


class Builder(prepared.LowlightDemo):
    """Registered as `lowlight_demo` when this module is imported."""
