"""SDSD indoor for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["sdsd_indoor"]):
    """Registered as `sdsd_indoor` when this module is imported."""
