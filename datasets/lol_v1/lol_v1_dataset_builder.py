"""LOL-v1 for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["lol_v1"]):
    """Registered as `lol_v1` when this module is imported."""
