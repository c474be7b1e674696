"""LOL-v2-real for TensorFlow Datasets; what the set is stands in `llie_jax.data`."""

from llie_jax.data import prepared


class Builder(prepared.LolV2Real):
    """Registered as `lol_v2_real` once this module has been imported."""
