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


def make_train_step(
    model: nn.Module,
    loss: Callable[..., tuple[jax.Array, Terms]],
    tx: optax.GradientTransformation,
    *,
    expand: Callable[[Any, Any], Batch] = lambda resident, batch: batch,
    schedule: optax.Schedule | None = None,
    ema_decay: float = 0.0,
    untrained: Sequence[str] = (),
    axis_name: str | None = None,
) -> Callable:
    """Returns `train_step(state, constants, batch, rng) -> (state, terms)`.

    `constants` never change, but are too large to compile in: `constants["loss"]`, the
    weights of networks in losses, and `constants["data"]`, the data set if it lives on
    the device. `terms` are scalars: each loss term, `loss`, `psnr` of the 8-bit output
    in dB if the batch has a target, `gradient_norm`, `update_norm`, `rate`, and
    `finite`, 0 if the loss or the gradient is not finite. Such a step only changes the
    counters.

    Args:
        model: the model.
        loss: `(outputs, batch, constants, step) -> (total, terms)`.
        tx: the optax chain.
        expand: makes a `Batch` from what the loader yields, `(data, batch) -> Batch`.
        schedule: the learning rate, for `terms["rate"]` only.
        ema_decay: decay of the averaged parameters; early steps use the lower
            (1 + step) / (10 + step), so that the initial values are forgotten.
        untrained: path patterns of parameters without gradient, such as "backbone/*";
            `tx` must not update them either.
        axis_name: the mesh axis over which the step is mapped, or None.
    """
    model = model.with_axis(axis_name)

    def train_step(
        state: TrainState, constants, batch, rng
    ) -> tuple[TrainState, Terms]:
        batch = as_images(expand(constants["data"], batch))
        target = batch.get("target")
        keys = (*model.record_inputs, *(OVERVIEW_INPUTS if model.overview else ()))
        further = {key: batch[key] for key in keys}
        rngs = streams(rng, state.step, axis_name, model.shared_streams)
        fixed = matching(state.params, untrained)

        def objective(params):
            params = jax.tree.map(
                lambda stop, leaf: jax.lax.stop_gradient(leaf) if stop else leaf,
                fixed,
                params,
            )
            outputs, updated = model.apply(
                {"params": params, **state.collections},
                batch["image"],
                target=target,
                train=True,
                **further,
                rngs=rngs,
                mutable=list(state.collections),
            )
            total, terms = loss(outputs, batch, constants["loss"], state.step)
            terms = {**terms, "loss": total}
            if target is not None:
                terms["psnr"] = jnp.mean(in_training.psnr(outputs.image, target))
            return total, (updated, terms)

        gradient = jax.value_and_grad(objective, has_aux=True)
        (_, (collections, terms)), grads = gradient(state.params)
        grads, terms = sync((grads, terms), axis_name)

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
                lambda keep, old, new: old if keep else new, fixed, ema_params, average
            )

        new = state.replace(
            params=params,
            collections=dict(collections),
            opt_state=opt_state,
            ema_params=ema_params,
        )
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        terms["gradient_norm"] = gradient_norm
        terms["update_norm"] = optax.tree.norm(updates)
        if schedule is not None:
            terms["rate"] = schedule(state.step)
        terms["finite"] = finite.astype(jnp.float32)
        state = kept.replace(
            step=state.step + 1,
            skipped=state.skipped + 1 - finite.astype(jnp.int32),
        )
        return state, terms

    return train_step


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
