"""Optimizers as optax chains: the parts that `config.optimizer` names.

{"name": "adam", "learning_rate": 1e-4, "b2": 0.999, "clip_norm": 0.01}
"""

import abc
import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from flax import traverse_util

from llie_jax import registry
from llie_jax.registry import Card, register


def _none_scaled() -> dict[str, Any]:
    return {"parameters": "", "factor": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(abc.ABC):
    """What all optimizers share. Patterns are those of `matching`.

    Attributes:
        learning_rate: the peak of the schedule.
        clip_norm: largest global norm of the gradient; 0.0 does not clip.
        l2: this multiple of each parameter is added to its clipped gradient: what
            PyTorch's Adam and SGD call weight decay.
        freeze: patterns of parameters that are not trained.
        scaled: `parameters`, the pattern of parameters whose learning rate is
            multiplied by `factor`; "" for none.
    """

    learning_rate: float = 5e-4
    clip_norm: float = 0.0
    l2: float = 0.0
    freeze: tuple[str, ...] = ()
    scaled: Mapping[str, Any] = dataclasses.field(default_factory=_none_scaled)

    def __post_init__(self):
        self._check_ranges(("learning_rate", "clip_norm", "l2"), math.inf)
        if set(self.scaled) != set(_none_scaled()):
            raise ValueError(
                f"optimizer.scaled has the keys {sorted(self.scaled)}; it takes "
                f"{sorted(_none_scaled())}."
            )
        if not 0 < self.scaled["factor"] < math.inf:
            raise ValueError(
                f"optimizer.scaled.factor is {self.scaled['factor']}; give more than 0."
            )

    def _check_ranges(self, fields: Sequence[str], below: float) -> None:
        """Raises ValueError if a field is negative, or not below a limit."""
        for name in fields:
            value = getattr(self, name)
            if not 0 <= value < below:
                limit = "" if below == math.inf else f", below {below}"
                raise ValueError(f"optimizer.{name} is {value}; give 0 or more{limit}.")

    @abc.abstractmethod
    def rule(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the bare optimizer."""

    def chain(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the full chain: clipping, L2, the rule, scaled learning rates.

        Frozen parameters have no optimizer state, and their updates are 0.
        """
        chain = [self.rule(schedule)]
        if self.l2 > 0:
            chain.insert(0, optax.add_decayed_weights(self.l2))
        if self.clip_norm > 0:
            chain.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.scaled["parameters"]:
            pattern = (self.scaled["parameters"],)
            chain.append(
                optax.masked(
                    optax.scale(self.scaled["factor"]),
                    lambda params: matching(params, pattern),
                )
            )
        tx = optax.chain(*chain) if len(chain) > 1 else chain[0]
        if not self.freeze:
            return tx
        return optax.partition(
            {"trained": tx, "frozen": optax.set_to_zero()},
            lambda params: jax.tree.map(
                lambda matches: "frozen" if matches else "trained",
                matching(params, self.freeze),
            ),
        )


@register("adam", Card("optimizer"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam.

    Source: Kingma and Ba, Adam, ICLR 2015.

    Attributes:
        b1: decay of the running mean of the gradient.
        b2: decay of the running mean of its square.
        eps: added to the root of the latter.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self):
        super().__post_init__()
        self._check_ranges(("b1", "b2"), 1)
        self._check_ranges(("eps",), math.inf)

    def rule(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the bare optimizer."""
        return optax.adam(schedule, b1=self.b1, b2=self.b2, eps=self.eps)


@register("adamw", Card("optimizer"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.

    Attributes:
        weight_decay: each step subtracts this fraction of a parameter, times the
            learning rate.
        no_decay: patterns of parameters without weight decay. Only the direction of the
            rows of ADR's embeddings matters; decay would shorten them until gradients
            explode.
    """

    weight_decay: float = 1e-4
    no_decay: tuple[str, ...] = ("*/embedding",)

    def __post_init__(self):
        super().__post_init__()
        self._check_ranges(("weight_decay",), math.inf)

    def rule(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the bare optimizer."""
        return optax.adamw(
            schedule,
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            mask=lambda params: jax.tree.map(
                lambda matches: not matches, matching(params, self.no_decay)
            ),
        )


@register("sgd", Card("optimizer"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Gradient descent.

    Attributes:
        momentum: decay of the running sum of gradients; 0.0 has no such state.
    """

    momentum: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self._check_ranges(("momentum",), 1)

    def rule(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the bare optimizer."""
        return optax.sgd(schedule, momentum=self.momentum or None)


def make_optimizer(
    spec: registry.Spec, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the optax chain of a spec with the given learning rates.

    Raises:
        ValueError: for an unknown name or field, or a value out of range.
    """
    return build(spec).chain(schedule)


def build(spec: registry.Spec) -> Optimizer:
    """Returns the optimizer of a spec, its values checked."""
    part, fields = registry.split_spec(spec, kind="optimizer")
    return part.make(**fields)


def matching(params: Any, patterns: Sequence[str]) -> Any:
    """Returns a tree of booleans: whether a parameter's path matches a pattern.

    Args:
        params: the parameters, or their shapes.
        patterns: for example "*/embedding"; the parts of a path are joined by "/".
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict(
        {
            path: any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
            for path in flat
        },
        sep="/",
    )
