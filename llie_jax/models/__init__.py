"""Models, one file per paper; importing this package registers them and their parts."""

from llie_jax.models import cidnet as cidnet
from llie_jax.models import darkir as darkir
from llie_jax.models import lfpv as lfpv
from llie_jax.models import pairlie as pairlie
from llie_jax.models import restormer as restormer
from llie_jax.models import retinexformer as retinexformer
from llie_jax.models import snr_net as snr_net
from llie_jax.models import uretinex as uretinex
from llie_jax.nn import adr as adr
