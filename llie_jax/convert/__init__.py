"""Converts official PyTorch checkpoints to models and variables."""

from llie_jax.convert.checkpoint import read_checkpoint as read_checkpoint
from llie_jax.convert.checkpoint import state_dict as state_dict
from llie_jax.convert.convert import convert_tensors as convert_tensors
from llie_jax.convert.convert import from_torch as from_torch
from llie_jax.convert.convert import infer_spec as infer_spec
from llie_jax.convert.convert import join_parts as join_parts
