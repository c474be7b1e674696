"""LOL-v2-syn for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["lol_v2_syn"]):
    """Registered as `lol_v2_syn` when this module is imported."""
