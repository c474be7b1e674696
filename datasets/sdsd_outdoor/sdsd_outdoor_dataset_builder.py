"""SDSD outdoor for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["sdsd_outdoor"]):
    """Registered as `sdsd_outdoor` when this module is imported."""
