"""Data sets, with or without references, and the pipelines that feed training steps.

Each module imports only from those before it: `dataset`, `catalogue`, `frames`,
`locating`, `scanning`, `sources`, `synthetic`, `splitting`, `prepared`, `opening`,
`mixture`, `preparing`, `checking`, `relight`, `transforms`, `loading`, `pipeline`;
`labelled` is of sets that are only enhanced.
"""

from llie_jax.data.mixture import open_mixture as open_mixture
from llie_jax.data.opening import open_source as open_source
from llie_jax.data.pipeline import CroppedSource as CroppedSource
from llie_jax.data.pipeline import Pipeline as Pipeline
from llie_jax.data.pipeline import ResizedSource as ResizedSource
from llie_jax.data.pipeline import make_pipeline as make_pipeline
from llie_jax.data.sources import Source as Source
from llie_jax.data.splitting import split_by_reference as split_by_reference
from llie_jax.data.synthetic import darken as darken
from llie_jax.data.transforms import Augment as Augment
from llie_jax.data.transforms import Stage as Stage
