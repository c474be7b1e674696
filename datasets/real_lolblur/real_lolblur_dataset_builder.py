"""Real-LOL-Blur for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["real_lolblur"]):
    """Registered as `real_lolblur` when this module is imported."""
