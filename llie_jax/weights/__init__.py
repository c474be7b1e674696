"""Weights by name, file or run."""

from llie_jax.weights import shipped as shipped
from llie_jax.weights.fit import check_fit as check_fit
from llie_jax.weights.load import describe as describe
from llie_jax.weights.load import load as load
from llie_jax.weights.release import FOLDER_VARIABLE as FOLDER_VARIABLE
from llie_jax.weights.release import file_sha256 as file_sha256
from llie_jax.weights.release import is_release as is_release
from llie_jax.weights.release import locate as locate
from llie_jax.weights.release import published as published
from llie_jax.weights.release import recognise as recognise
from llie_jax.weights.release import save as save
from llie_jax.weights.release import write_safetensors as write_safetensors
from llie_jax.weights.run import RunFolder as RunFolder
from llie_jax.weights.shipped import ships as ships
