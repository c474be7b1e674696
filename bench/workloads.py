"""What the benchmarks time: a model's forward pass and its training step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llie_jax.inference.prepare import prepare
from llie_jax.models.base import Model, variable_shapes
from llie_jax.training.state import TrainState
from llie_jax.training.step import make_gradient, make_train_step, make_update
from llie_jax.types import Outputs

TARGET = 0.5
"""The grey that training steps aim at."""


def dark_images(batch: int, height: int, width: int) -> jax.Array:
    """Returns noise [batch, height, width, 3] in [0, 0.2]."""
    return 0.2 * jax.random.uniform(jax.random.key(0), (batch, height, width, 3))


def l1(outputs: Outputs) -> jax.Array:
    """Returns the mean absolute error of the image."""
    return jnp.mean(jnp.abs(outputs.image.astype(jnp.float32) - TARGET))


def random_variables(model: Model) -> dict[str, Any]:
    """Returns random variables, far sooner than `init` does for a large network.

    Collections other than `params` are positive, since variances are among them.
    """
    rng = np.random.default_rng(0)

    def normal(leaf):
        return jnp.asarray(0.05 * rng.normal(size=leaf.shape), leaf.dtype)

    variables = jax.tree.map(normal, variable_shapes(model))
    params = variables.pop("params")
    return {"params": params, **jax.tree.map(jnp.abs, variables)}


def forward(model: Model, image: jax.Array) -> Callable[[], Any]:
    """Returns the inference of a model as a function without arguments.

    Everything that depends only on parameters is computed beforehand.
    """
    model = model.for_inference()
    variables = prepare(model, random_variables(model))
    rngs = {stream: jax.random.key(0) for stream in model.test_streams}
    run = jax.jit(lambda v, x: model.apply(v, x, rngs=rngs).image)
    return lambda: run(variables, image)


def step(
    model: Model,
    image: jax.Array,
    *,
    loss: Callable[[Outputs], jax.Array] = l1,
    tx: optax.GradientTransformation | None = None,
) -> Callable[[], Any]:
    """Returns a training step as `llie-jax train` runs it, without arguments.

    Args:
        model: the model.
        image: the batch, [B, H, W, 3]; the target is grey.
        loss: what is minimised.
        tx: the optimizer, AdamW by default.
    """
    run, state, rest = step_program(model, image, loss, tx or optax.adamw(1e-4))

    def once():
        nonlocal state
        state, terms = run(state, *rest)
        return state, terms

    return once


def step_program(
    model: Model,
    image: jax.Array,
    loss: Callable[[Outputs], jax.Array],
    tx: optax.GradientTransformation,
) -> tuple[Any, TrainState, tuple]:
    """Returns the jitted function of `step`, its state and its other arguments."""
    collections = random_variables(model)
    params = collections.pop("params")
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=collections,
        opt_state=tx.init(params),
        ema_params=None,
        skipped=jnp.zeros((), jnp.int32),
    )
    inputs = dict.fromkeys(model.record_inputs, image)
    if model.overview:
        inputs["overview"] = dark_images(len(image), model.overview, model.overview)
        inputs["window"] = jnp.tile(jnp.array([0.0, 0.0, 1.0, 1.0]), (len(image), 1))
    batch = {"image": image, "target": jnp.full_like(image, TARGET), **inputs}
    run = jax.jit(
        make_train_step(
            make_gradient(model, lambda outputs, *_: (loss(outputs), {})),
            make_update(tx),
        ),
        donate_argnums=0,  # the old state, as in training
    )
    constants = {"data": None, "loss": {}}
    return run, state, (constants, batch, jax.random.key(1))
