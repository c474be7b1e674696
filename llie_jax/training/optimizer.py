"""Learning rate schedules and optax chains from a config."""

import jax.numpy as jnp
import optax

from llie_jax import registry

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant")


def make_schedule(config, *, peak: float, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    "cosine" falls from `peak` to `final_rate` along half a cosine over all steps,
    after a linear `warmup_steps`; "constant" stays. With `hold_steps` above 1 the rate
    changes only every so many steps, as papers that schedule by epoch have it.

    Raises:
        ValueError: for an unknown name or an impossible number.
    """
    if config.name not in SCHEDULES:
        raise ValueError(
            f"Unknown schedule {config.name!r}."
            f"{registry.suggest(config.name, SCHEDULES)} Use one of {SCHEDULES}."
        )
    if config.hold_steps < 1 or not 0 <= config.warmup_steps < max(steps, 1):
        raise ValueError(
            f"schedule.hold_steps={config.hold_steps} must be at least 1, and "
            f"schedule.warmup_steps={config.warmup_steps} below the {steps} steps."
        )
    warmup, hold = config.warmup_steps, config.hold_steps

    def rate(step):
        held = (step // hold) * hold
        if config.name == "cosine":
            progress = jnp.clip((held - warmup) / max(steps - warmup, 1), 0.0, 1.0)
            cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
            value = config.final_rate + (peak - config.final_rate) * cosine
        else:
            value = jnp.asarray(peak)
        if warmup:
            value = jnp.where(step < warmup, peak * (step + 1) / warmup, value)
        return value

    return rate


def make_optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optax chain: clipping, then the optimizer with its schedule.

    Raises:
        ValueError: for an unknown optimizer.
    """
    if config.name == "adamw":
        optimizer = optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    elif config.name == "adam":
        optimizer = optax.adam(schedule, b1=config.b1, b2=config.b2, eps=config.eps)
    elif config.name == "sgd":
        optimizer = optax.sgd(schedule)
    else:
        raise ValueError(
            f"Unknown optimizer {config.name!r}."
            f"{registry.suggest(config.name, OPTIMIZERS)} Use one of {OPTIMIZERS}."
        )
    if config.clip_norm > 0:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer
