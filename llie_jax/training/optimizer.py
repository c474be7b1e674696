"""Learning rate schedules and optax chains from a config."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from llie_jax import messages

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "cosine_periods", "steps", "constant")


def make_schedule(config, *, peak: float, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    "cosine" falls from `peak` to `final_rate` along half a cosine over all steps,
    after a linear `warmup_steps`. "cosine_periods" cuts the steps in parts of the
    relative lengths `periods`; in each, the rate goes from `peak` to that part's entry
    of `period_rates` along half a cosine, which also rises if the entry is above `peak`
    (Retinexformer's schedule). "steps" multiplies the rate by `factor` at each of
    `boundaries`, which are shares of all steps (SNR-Net's schedule), so that a shorter
    run keeps its shape. "constant" stays. With `hold_steps` above 1 the rate
    changes only every so many steps, as papers that schedule by epoch have it.

    Raises:
        ValueError: for an unknown name or an impossible number.
    """
    if config.name not in SCHEDULES:
        raise ValueError(
            f"Unknown schedule {config.name!r}."
            f"{messages.suggest(config.name, SCHEDULES)} Use one of {SCHEDULES}."
        )
    if config.hold_steps < 1 or not 0 <= config.warmup_steps < max(steps, 1):
        raise ValueError(
            f"schedule.hold_steps={config.hold_steps} must be at least 1, and "
            f"schedule.warmup_steps={config.warmup_steps} below the {steps} steps."
        )
    warmup, hold = config.warmup_steps, config.hold_steps
    lengths, rates = (1.0,), (config.final_rate,)
    if config.name == "cosine_periods":
        lengths, rates = config.periods, config.period_rates
        if not lengths or len(lengths) != len(rates) or min(lengths) <= 0:
            raise ValueError(
                f"schedule.periods={tuple(lengths)} and schedule.period_rates="
                f"{tuple(rates)} need one entry per period, and lengths above 0."
            )
    boundaries = np.asarray(config.boundaries, float)
    if config.name == "steps" and not (
        np.all(np.diff([0.0, *boundaries, 1.0]) > 0) and config.factor > 0
    ):
        raise ValueError(
            f"schedule.boundaries={tuple(config.boundaries)} must rise, between 0 and "
            f"1 (shares of all steps), and schedule.factor={config.factor} be above 0."
        )
    # Whole steps: a share of two float32 numbers may be a step early or late.
    boundaries = warmup + np.round(boundaries * (steps - warmup)).astype(int)
    ends = np.cumsum(lengths) / np.sum(lengths)
    starts = ends - np.asarray(lengths) / np.sum(lengths)
    rates = jnp.asarray(rates, jnp.float32)

    def rate(step):
        held = (step // hold) * hold
        if config.name == "constant":
            value = jnp.asarray(peak)
        elif config.name == "steps":
            value = peak * config.factor ** jnp.sum(held >= boundaries)
        else:
            done = jnp.clip((held - warmup) / max(steps - warmup, 1), 0.0, 1.0)
            period = jnp.searchsorted(jnp.asarray(ends[:-1]), done, side="right")
            start, end = jnp.asarray(starts)[period], jnp.asarray(ends)[period]
            cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * (done - start) / (end - start)))
            value = rates[period] + (peak - rates[period]) * cosine
        if warmup:
            value = jnp.where(step < warmup, peak * (step + 1) / warmup, value)
        return value

    return rate


def make_optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optax chain: clipping, then the optimizer with its schedule.

    For parameters that `config.frozen` names it keeps nothing, and their updates are 0.

    Raises:
        ValueError: for an unknown optimizer or a factor that is not above 0.
    """
    if config.name == "adamw":
        optimizer = optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(
                lambda matches: not matches, matching(params, config.no_decay)
            ),
        )
    elif config.name == "adam":
        optimizer = optax.adam(schedule, b1=config.b1, b2=config.b2, eps=config.eps)
    elif config.name == "sgd":
        optimizer = optax.sgd(schedule)
    else:
        raise ValueError(
            f"Unknown optimizer {config.name!r}."
            f"{messages.suggest(config.name, OPTIMIZERS)} Use one of {OPTIMIZERS}."
        )
    chain = [optimizer]
    if config.clip_norm > 0:
        chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.scaled.parameters:
        if config.scaled.factor <= 0:
            raise ValueError(
                f"optimizer.scaled.factor is {config.scaled.factor}; give more than 0."
            )
        pattern = (config.scaled.parameters,)
        chain.append(
            optax.masked(
                optax.scale(config.scaled.factor),
                lambda params: matching(params, pattern),
            )
        )
    tx = optax.chain(*chain) if len(chain) > 1 else optimizer
    if not config.frozen:
        return tx
    return optax.partition(
        {"trained": tx, "frozen": optax.set_to_zero()},
        lambda params: jax.tree.map(
            lambda matches: "frozen" if matches else "trained",
            matching(params, config.frozen),
        ),
    )


def matching(params: Any, patterns: Sequence[str]) -> Any:
    """Returns a tree of booleans: whether a parameter's path fits one of patterns.

    Args:
        params: the parameters, or their shapes.
        patterns: such as "*/embedding"; the parts of a path are joined by "/".
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict(
        {
            path: any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
            for path in flat
        },
        sep="/",
    )
