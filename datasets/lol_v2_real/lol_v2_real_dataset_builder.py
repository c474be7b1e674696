"""LOL-v2-real for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["lol_v2_real"]):
    """Registered as `lol_v2_real` when this module is imported."""
