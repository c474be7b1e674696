"""MEF for TensorFlow Datasets; `llie_jax.data` defines the set."""

from llie_jax.data import prepared


class Builder(prepared.BUILDERS["mef"]):
    """Registered as `mef` when this module is imported."""
