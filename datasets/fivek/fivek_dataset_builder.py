"""MIT-Adobe FiveK for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["fivek"]):
    """Registered as `fivek` when this module is imported."""
