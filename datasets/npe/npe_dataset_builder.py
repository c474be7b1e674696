"""NPE for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["npe"]):
    """Registered as `npe` when this module is imported."""
