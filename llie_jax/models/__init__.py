"""Models, one file per paper; importing this package registers them and their parts."""

from llie_jax.models import cidnet as cidnet
from llie_jax.models import cpga as cpga
from llie_jax.models import darkir as darkir
from llie_jax.models import dawn as dawn
from llie_jax.models import flol as flol
from llie_jax.models import iat as iat
from llie_jax.models import lednet as lednet
from llie_jax.models import lfpv as lfpv
from llie_jax.models import lyt_net as lyt_net
from llie_jax.models import mirnet as mirnet
from llie_jax.models import mobileie as mobileie
from llie_jax.models import pairlie as pairlie
from llie_jax.models import restormer as restormer
from llie_jax.models import retinexformer as retinexformer
from llie_jax.models import ruas as ruas
from llie_jax.models import sci as sci
from llie_jax.models import snr_net as snr_net
from llie_jax.models import uretinex as uretinex
from llie_jax.models import zero_dce as zero_dce
from llie_jax.nn import adr as adr
