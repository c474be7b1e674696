"""The training state: what changes from step to step, and nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct, traverse_util

from llie_jax.models.base import initial_variables

CACHE = "cache"
"""The collection of values derived from parameters; it is never part of the state."""


@struct.dataclass
class TrainState:
    """The state of a training run.

    Attributes:
        step: steps done, int32 scalar.
        params: the parameters.
        collections: all other collections of the model (`batch_stats`, ...).
        opt_state: state of the optax chain.
        ema_params: averaged parameters, or None without averaging.
        skipped: steps skipped because a value was not finite, int32 scalar.
    """

    step: jax.Array
    params: Any
    collections: dict[str, Any]
    opt_state: optax.OptState
    ema_params: Any
    skipped: jax.Array

    def variables(self, *, averaged: bool = True) -> dict[str, Any]:
        """Returns what `model.apply` takes, with averaged parameters if available."""
        params = self.params
        if averaged and self.ema_params is not None:
            params = self.ema_params
        return {"params": params, **self.collections}


def create_train_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    *,
    average: bool = False,
    variables: dict[str, Any] | None = None,
) -> TrainState:
    """Returns the state at step 0; works under `jax.jit` and `jax.eval_shape`.

    Args:
        model: the model.
        tx: the optax chain.
        rng: random key of the initial parameters.
        average: keeps averaged parameters.
        variables: initial values; the model initialises those that are missing.
    """
    side = 2 * model.multiple
    initial = initial_variables(model, rng, (side, side))
    variables = _overlay(initial, variables or {})
    params = variables.pop("params")
    variables.pop(CACHE, None)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=variables,
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if average else None,
        skipped=jnp.zeros((), jnp.int32),
    )


def _overlay(initial: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the initial values, overridden by the given ones."""
    values = {
        **traverse_util.flatten_dict(initial),
        **traverse_util.flatten_dict(given),
    }
    return traverse_util.unflatten_dict(values)
