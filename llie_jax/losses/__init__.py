"""Training losses, and their weighted sum."""

from llie_jax.losses.angle import rgb_cosine as rgb_cosine
from llie_jax.losses.base import LossCard as LossCard
from llie_jax.losses.base import NetworkLoss as NetworkLoss
from llie_jax.losses.distribution import brightness as brightness
from llie_jax.losses.distribution import soft_histogram as soft_histogram
from llie_jax.losses.frequency import amplitude_spectrum as amplitude_spectrum
from llie_jax.losses.frequency import edge as edge
from llie_jax.losses.perceptual import LPIPSVGG as LPIPSVGG
from llie_jax.losses.perceptual import LPIPSAlex as LPIPSAlex
from llie_jax.losses.perceptual import LPIPSSqueeze as LPIPSSqueeze
from llie_jax.losses.perceptual import LPIPSVGGUnshifted as LPIPSVGGUnshifted
from llie_jax.losses.perceptual import (
    NormalizedVGGPerceptual as NormalizedVGGPerceptual,
)
from llie_jax.losses.perceptual import VGGPerceptual as VGGPerceptual
from llie_jax.losses.pixel import charbonnier as charbonnier
from llie_jax.losses.pixel import l1 as l1
from llie_jax.losses.pixel import mse as mse
from llie_jax.losses.pixel import smooth_l1 as smooth_l1
from llie_jax.losses.pixel import tonemapped_l1 as tonemapped_l1
from llie_jax.losses.statistics import outlier_aware as outlier_aware
from llie_jax.losses.statistics import psnr as psnr
from llie_jax.losses.structure import ms_ssim as ms_ssim
from llie_jax.losses.structure import ssim as ssim
from llie_jax.losses.variation import gradient as gradient
from llie_jax.losses.variation import structure_aware as structure_aware
from llie_jax.losses.variation import variation as variation
from llie_jax.losses.weighted import WeightedLoss as WeightedLoss
from llie_jax.losses.weighted import complete_term as complete_term
from llie_jax.losses.zero_reference import colour_constancy as colour_constancy
from llie_jax.losses.zero_reference import (
    edge_aware_smoothness as edge_aware_smoothness,
)
from llie_jax.losses.zero_reference import exposure as exposure
from llie_jax.losses.zero_reference import spatial_consistency as spatial_consistency
from llie_jax.losses.zero_reference import total_variation as total_variation
