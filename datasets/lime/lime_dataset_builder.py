"""LIME for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["lime"]):
    """Registered as `lime` when this module is imported."""
