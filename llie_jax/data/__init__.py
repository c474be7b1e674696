"""Data sets of image pairs, and the pipelines that feed a training step."""

from llie_jax.data.pipeline import Pipeline as Pipeline
from llie_jax.data.pipeline import ResizedPairs as ResizedPairs
from llie_jax.data.pipeline import make_pipeline as make_pipeline
from llie_jax.data.sources import PairedSource as PairedSource
from llie_jax.data.sources import open_source as open_source
from llie_jax.data.sources import split_by_reference as split_by_reference
from llie_jax.data.synthetic import darken as darken
from llie_jax.data.transforms import Augment as Augment
from llie_jax.data.transforms import Stage as Stage
