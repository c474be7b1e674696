"""Learning rates as functions of the step: the parts that `config.schedule` names.

A schedule starts at the optimizer's learning rate, the peak. Its fields are fractions
of the run or numbers of steps, so a shorter run keeps the shape. The weights of loss
terms have their own schedules (`llie_jax.losses.weighted`) with absolute values,
independent of the peak and the length of the run.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llie_jax import registry
from llie_jax.registry import Card, register

Curve = Callable[[jax.Array], jax.Array]
"""Step -> learning rate, without warm-up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(abc.ABC):
    """What all schedules share.

    Attributes:
        warmup_steps: number of steps in which the rate rises linearly to the peak.
        hold_steps: the rate changes only every `hold_steps` steps; set it to the steps
            of an epoch for papers that schedule by epoch.
    """

    warmup_steps: int = 0
    hold_steps: int = 1

    @abc.abstractmethod
    def curve(self, peak: float, steps: int) -> Curve:
        """Returns the rate as a function of the step, after the warm-up."""

    def rates(self, peak: float, steps: int) -> optax.Schedule:
        """Returns the learning rate as a function of the step.

        Args:
            peak: the optimizer's learning rate.
            steps: length of the run.

        Raises:
            ValueError: if `hold_steps` is below 1, or the warm-up does not end before
                the run.
        """
        if self.hold_steps < 1 or not 0 <= self.warmup_steps < max(steps, 1):
            raise ValueError(
                f"schedule.hold_steps={self.hold_steps} must be at least 1, and "
                f"schedule.warmup_steps={self.warmup_steps} below the run's {steps} "
                "steps."
            )
        curve = self.curve(peak, steps)
        hold, warmup = self.hold_steps, self.warmup_steps

        def rate(step):
            value = curve((step // hold) * hold)
            if warmup:
                value = jnp.where(step < warmup, peak * (step + 1) / warmup, value)
            return value

        return rate


@register("constant", Card("schedule"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The peak at every step."""

    def curve(self, peak: float, steps: int) -> Curve:
        """Returns the peak for every step."""
        return lambda step: jnp.asarray(peak)


@register("cosine", Card("schedule"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from the peak to `final_rate` over the whole run.

    Attributes:
        final_rate: the rate at the end.
    """

    final_rate: float = 1e-6

    def curve(self, peak: float, steps: int) -> Curve:
        """Returns the falling rate as a function of the step."""
        return _half_cosines(peak, (1.0,), (self.final_rate,), self.warmup_steps, steps)


@register("cosine_periods", Card("schedule"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class CosinePeriods(Schedule):
    """Periods that each start at the peak and end at their own rate.

    Within a period the rate follows half a cosine, which rises if the period's rate is
    above the peak.

    Source: the schedule of Retinexformer's code.

    Attributes:
        periods: relative lengths of the periods.
        period_rates: the rate at the end of each period.
    """

    periods: tuple[float, ...] = (1.0,)
    period_rates: tuple[float, ...] = (1e-6,)

    def __post_init__(self):
        lengths, rates = tuple(self.periods), tuple(self.period_rates)
        if not lengths or len(lengths) != len(rates) or min(lengths) <= 0:
            raise ValueError(
                f"schedule.periods={lengths} and schedule.period_rates={rates} need "
                "one entry per period, and lengths above 0."
            )

    def curve(self, peak: float, steps: int) -> Curve:
        """Returns the rate as a function of the step."""
        return _half_cosines(
            peak, self.periods, self.period_rates, self.warmup_steps, steps
        )


@register("cosine_restarts", Card("schedule"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineRestarts(Schedule):
    """Half cosines from the peak to `final_rate`, each longer than the one before.

    The end of the run may cut the last one short.

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts,
    ICLR 2017, Eq. (5).

    Attributes:
        first: length of the first period, as a fraction of the run.
        growth: length of each further period over the one before, at least 1.
        final_rate: the rate at the end of a period.
    """

    first: float = 0.1
    growth: float = 2.0
    final_rate: float = 1e-7

    def __post_init__(self):
        if not (0 < self.first <= 1 and self.growth >= 1):
            raise ValueError(
                f"schedule.first={self.first} must be above 0 and at most 1 (a "
                f"fraction of all steps), and schedule.growth={self.growth} at least 1."
            )

    def curve(self, peak: float, steps: int) -> Curve:
        """Returns the rate as a function of the step."""
        begin, final = self.warmup_steps, self.final_rate
        starts, lengths = [0.0], [self.first]
        while starts[-1] + lengths[-1] < 1:
            starts.append(starts[-1] + lengths[-1])
            lengths.append(lengths[-1] * self.growth)
        # In whole steps: a float32 fraction could be a step early or late.
        starts = begin + np.round(np.multiply(starts, steps - begin)).astype(int)
        lengths = np.maximum(np.multiply(lengths, steps - begin), 1)

        def rate(step):
            period = jnp.sum(step >= starts[1:])
            done = (step - jnp.asarray(starts)[period]) / jnp.asarray(lengths)[period]
            cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
            return final + (peak - final) * cosine

        return rate


@register("steps", Card("schedule"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps(Schedule):
    """Multiplies the rate by a factor at fixed fractions of the run.

    Source: the schedule of SNR-Net's code, which gives the steps of its full run.

    Attributes:
        boundaries: fractions of the steps after the warm-up, increasing: (0.25, 0.5) of
            1000 steps are the steps 250 and 500.
        factor: multiplies the rate at each boundary.
    """

    boundaries: tuple[float, ...] = (0.5,)
    factor: float = 0.5

    def __post_init__(self):
        rising = np.all(np.diff([0.0, *self.boundaries, 1.0]) > 0)
        if not (rising and self.factor > 0):
            raise ValueError(
                f"schedule.boundaries={tuple(self.boundaries)} must increase, between "
                f"0 and 1 (fractions of all steps), and schedule.factor={self.factor} "
                "must be above 0."
            )

    def curve(self, peak: float, steps: int) -> Curve:
        """Returns the piecewise constant rate as a function of the step."""
        start = self.warmup_steps
        shares = np.asarray(self.boundaries, float)
        # Compares whole steps: a float32 fraction could be a step early or late.
        boundaries = start + np.round(shares * (steps - start)).astype(int)
        return lambda step: peak * self.factor ** jnp.sum(step >= boundaries)


def make_schedule(spec: registry.Spec, *, peak: float, steps: int) -> optax.Schedule:
    """Returns the learning rate of a run as a function of the step.

    Args:
        spec: the schedule.
        peak: the optimizer's learning rate.
        steps: length of the run.

    Raises:
        ValueError: for an unknown name or field, or a value out of range.
    """
    return build(spec).rates(peak, steps)


def build(spec: registry.Spec) -> Schedule:
    """Returns the schedule of a spec, its values checked."""
    part, fields = registry.split_spec(spec, kind="schedule")
    return part.make(**fields)


def _half_cosines(
    peak: float,
    lengths: Sequence[float],
    rates: Sequence[float],
    start: int,
    steps: int,
) -> Curve:
    """Returns half a cosine per period, from `peak` to the period's rate.

    Args:
        peak: the rate at the start of each period.
        lengths: relative lengths of the periods.
        rates: the rate at the end of each period.
        start: step at which the first period starts.
        steps: step at which the last period ends.
    """
    ends = np.cumsum(lengths) / np.sum(lengths)
    starts = ends - np.asarray(lengths) / np.sum(lengths)
    rates = jnp.asarray(rates, jnp.float32)

    def curve(step):
        done = jnp.clip((step - start) / max(steps - start, 1), 0.0, 1.0)
        period = jnp.searchsorted(jnp.asarray(ends[:-1]), done, side="right")
        first, last = jnp.asarray(starts)[period], jnp.asarray(ends)[period]
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * (done - first) / (last - first)))
        return rates[period] + (peak - rates[period]) * cosine

    return curve
