"""The demo set for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["lowlight_demo"]):
    """Registered as `lowlight_demo` when this module is imported."""
