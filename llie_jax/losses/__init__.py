"""Training losses, and their weighted sum."""

from llie_jax.losses.base import LossCard as LossCard
from llie_jax.losses.base import NetworkLoss as NetworkLoss
from llie_jax.losses.frequency import amplitude_spectrum as amplitude_spectrum
from llie_jax.losses.frequency import edge as edge
from llie_jax.losses.perceptual import VGGPerceptual as VGGPerceptual
from llie_jax.losses.pixel import charbonnier as charbonnier
from llie_jax.losses.pixel import l1 as l1
from llie_jax.losses.pixel import mse as mse
from llie_jax.losses.structure import ssim as ssim
from llie_jax.losses.variation import gradient as gradient
from llie_jax.losses.variation import structure_aware as structure_aware
from llie_jax.losses.variation import variation as variation
from llie_jax.losses.weighted import WeightedLoss as WeightedLoss
from llie_jax.losses.weighted import complete_term as complete_term
