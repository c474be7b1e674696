"""The demo set for TensorFlow Datasets; what it is stands in `llie_jax.data`."""

from llie_jax.data import prepared


class Builder(prepared.LowlightDemo):
    """Registered as `lowlight_demo` once this module has been imported."""
