"""LOL-Blur for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["lolblur"]):
    """Registered as `lolblur` when this module is imported."""
