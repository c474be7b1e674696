"""llie_jax: low-light image enhancement in JAX.

Train, evaluate as the papers do, load official checkpoints, brighten photos.
"""

from llie_jax import models as models
from llie_jax.registry import build as build
from llie_jax.registry import default_spec as default_spec
from llie_jax.registry import list_models as list_models
from llie_jax.types import Outputs as Outputs

__version__ = "0.1.0"
