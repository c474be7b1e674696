"""Models, one file per paper; importing this package registers them."""

from llie_jax.models import cidnet as cidnet
from llie_jax.models import darkir as darkir
from llie_jax.models import restormer as restormer
from llie_jax.models import retinexformer as retinexformer
