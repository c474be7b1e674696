"""LOL-v2-syn for TensorFlow Datasets; what the set is stands in `llie_jax.data`."""

from llie_jax.data import prepared


class Builder(prepared.LolV2Syn):
    """Registered as `lol_v2_syn` once this module has been imported."""
