"""LOL-v1 for TensorFlow Datasets; what the set is stands in `llie_jax.data`."""

from llie_jax.data import prepared


class Builder(prepared.LolV1):
    """Registered as `lol_v1` once this module has been imported."""
