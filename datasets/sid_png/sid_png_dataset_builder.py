"""SID as PNG files for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["sid_png"]):
    """Registered as `sid_png` when this module is imported."""
