"""The training step and the validation step, both written for one device.

`llie_jax.parallel` maps them over all devices. Without a mesh axis they are ordinary
functions, which run under plain `jax.jit`.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from llie_jax.image import levels
from llie_jax.metrics import in_training
from llie_jax.optimizers import matching
from llie_jax.training.remat import rematerialised
from llie_jax.training.state import TrainState
from llie_jax.types import Batch

Terms = dict[str, jax.Array]

OVERVIEW_INPUTS = ("overview", "window")
"""Inputs of models that take the overview of a photo with a crop of it."""


def sync(tree: Any, axis_name: str | None) -> Any:
    """Averages floating-point leaves over the mesh axis; without one, a no-op."""
    if axis_name is None:
        return tree
    return jax.tree.map(
        lambda leaf: (
            jax.lax.pmean(leaf, axis_name)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        tree,
    )


def streams(
    rng: jax.Array, step: jax.Array, axis_name: str | None, shared: Sequence[str] = ()
) -> dict[str, jax.Array]:
    """Returns the random keys of one step: stream -> key.

    `dropout` and `noise` differ between devices. `shared` streams are equal on all
    devices, because what they draw becomes replicated state.
    """
    common = jax.random.fold_in(rng, step)
    device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    return {
        **{
            name: jax.random.fold_in(common, zlib.crc32(name.encode()))
            for name in shared
        },
        "dropout": jax.random.fold_in(jax.random.fold_in(common, 1), device),
        "noise": jax.random.fold_in(jax.random.fold_in(common, 2), device),
    }


def as_images(batch: Batch) -> Batch:
    """Returns the batch with 8-bit and 16-bit images as float32 in [0, 1]."""
    return {key: levels.to_float(value) for key, value in batch.items()}


def make_train_step(gradient: Callable, update: Callable) -> Callable:
    """Returns `train_step(state, constants, batch, rng) -> (state, terms)`.

    `terms` are scalars: each loss term, `loss`, `psnr` of the 8-bit output in dB if the
    batch has a target, `gradient_norm`, `update_norm`, `rate`, and `finite`, 0 if the
    loss or the gradient is not finite. Such a step only changes the counters.

    Args:
        gradient: from `make_gradient`.
        update: from `make_update`.
    """

    def train_step(
        state: TrainState, constants, batch, rng
    ) -> tuple[TrainState, Terms]:
        return update(state, *gradient(state, constants, batch, rng))

    return train_step


def make_gradient(
    model: nn.Module,
    loss: Callable[..., tuple[jax.Array, Terms]],
    *,
    expand: Callable[[Any, Any], Batch] = lambda resident, batch: batch,
    untrained: Sequence[str] = (),
    accumulate: int = 1,
    remat: str = "",
    scored: bool = True,
    axis_name: str | None = None,
) -> Callable:
    """Returns `gradient(state, constants, batch, rng) -> (grads, collections, terms)`.

    Gradients and terms are averaged over the mesh axis; collections are what the model
    makes of them, which averages its batch statistics itself. `constants` never change,
    but are too large to compile in: `constants["loss"]`, the weights of networks in
    losses, and `constants["data"]`, the data set if it lives on the device.

    Args:
        model: the model.
        loss: `(outputs, batch, constants, step) -> (total, terms)`.
        expand: makes a `Batch` from what the loader yields, `(data, batch) -> Batch`.
        untrained: path patterns of parameters without gradient, such as "backbone/*".
        accumulate: number of equal parts of a device's batch, computed one after the
            other; the gradient is their mean. Batch norms see one part at a time, and
            update their statistics after each.
        remat: patterns of modules, see `llie_jax.training.remat`.
        scored: whether the terms have the PSNR of the output; computing the output
            may be work that the loss does not need.
        axis_name: the mesh axis over which the step is mapped, or None.
    """
    model = model.with_axis(axis_name)
    keys = (*model.record_inputs, *(OVERVIEW_INPUTS if model.overview else ()))

    def objective(params, collections, constants, step, batch, rngs):
        target = batch.get("target")
        params = jax.tree.map(
            lambda stop, leaf: jax.lax.stop_gradient(leaf) if stop else leaf,
            matching(params, untrained),
            params,
        )
        with rematerialised(remat):
            outputs, updated = model.apply(
                {"params": params, **collections},
                batch["image"],
                target=target,
                train=True,
                **{key: batch[key] for key in keys},
                rngs=rngs,
                mutable=list(collections),
            )
        total, terms = loss(outputs, batch, constants["loss"], step)
        terms = {**terms, "loss": total}
        if scored and target is not None:
            terms["psnr"] = jnp.mean(in_training.psnr(outputs.image, target))
        return total, (dict(updated), terms)

    differentiated = jax.grad(objective, has_aux=True)

    def gradient(state: TrainState, constants, batch, rng):
        batch = as_images(expand(constants["data"], batch))
        rngs = streams(rng, state.step, axis_name, model.shared_streams)

        def part(collections, batch, rngs):
            return differentiated(
                state.params, collections, constants, state.step, batch, rngs
            )

        if accumulate == 1:
            grads, (collections, terms) = part(state.collections, batch, rngs)
        else:
            grads, (collections, terms) = _in_parts(
                part, state.params, state.collections, batch, rngs, accumulate
            )
        grads, terms = sync((grads, terms), axis_name)
        return grads, collections, terms

    return gradient


def _in_parts(part: Callable, params, collections, batch: Batch, rngs, count: int):
    """Returns the mean gradient and terms of parts of a batch, one after the other."""
    batches = jax.tree.map(
        lambda leaf: leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:]),
        batch,
    )

    def add(carry, numbered):
        total, collections = carry
        number, batch = numbered
        rngs_here = {key: jax.random.fold_in(rng, number) for key, rng in rngs.items()}
        grads, (collections, terms) = part(collections, batch, rngs_here)
        total = jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, grads)
        return (total, collections), terms

    # Sums of bfloat16 would lose the small parts.
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)),
        params,
    )
    (total, collections), terms = jax.lax.scan(
        add, (zeros, collections), (jnp.arange(count), batches)
    )
    grads = jax.tree.map(lambda a, b: (a / count).astype(b.dtype), total, params)
    terms = {name: jnp.mean(values) for name, values in terms.items()}
    return grads, (collections, terms)


def make_update(
    tx: optax.GradientTransformation,
    *,
    schedule: optax.Schedule | None = None,
    ema_decay: float = 0.0,
    untrained: Sequence[str] = (),
) -> Callable:
    """Returns `update(state, grads, collections, terms) -> (state, terms)`.

    Args:
        tx: the optax chain.
        schedule: the learning rate, for `terms["rate"]` only.
        ema_decay: decay of the averaged parameters; early steps use the lower
            (1 + step) / (10 + step), so that the initial values are forgotten.
        untrained: path patterns of parameters that `tx` does not update.
    """

    def update(state: TrainState, grads, collections, terms: Terms):
        gradient_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(gradient_norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_params is not None:
            step = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
            average = optax.incremental_update(params, ema_params, 1.0 - decay)
            # Rounding may change the average of equal numbers.
            ema_params = jax.tree.map(
                lambda keep, old, new: old if keep else new,
                matching(state.params, untrained),
                ema_params,
                average,
            )

        new = state.replace(
            params=params,
            collections=collections,
            opt_state=opt_state,
            ema_params=ema_params,
        )
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        terms = {
            **terms,
            "gradient_norm": gradient_norm,
            "update_norm": optax.tree.norm(updates),
            "finite": finite.astype(jnp.float32),
        }
        if schedule is not None:
            terms["rate"] = schedule(state.step)
        state = kept.replace(
            step=state.step + 1,
            skipped=state.skipped + 1 - finite.astype(jnp.int32),
        )
        return state, terms

    return update


def eval_step(batch: Batch) -> Terms:
    """Returns the 8-bit `image` [B, H, W, 3] of a model's output, and its scores.

    If the batch has a `target`, there is one `psnr` and one `ssim` per image, [B]; the
    host computes means, so that an uneven last batch cannot bias them.

    Args:
        batch: `output`, as the model gives it, and optionally `target`, [B, H, W, 3].
    """
    batch = as_images(batch)
    output = jnp.clip(batch["output"], 0.0, 1.0)
    result = {"image": jnp.round(255.0 * output).astype(jnp.uint8)}
    if "target" in batch:
        result["psnr"] = in_training.psnr(output, batch["target"])
        result["ssim"] = in_training.ssim(output, batch["target"])
    return result
