"""Running a model on images of any size."""

from llie_jax.inference.padding import crop as crop
from llie_jax.inference.padding import pad_to_multiple as pad_to_multiple
