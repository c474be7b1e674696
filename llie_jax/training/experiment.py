"""The parts of a run that only depend on its config: model, loss, optimizer, step.

The training loop and `llie-jax plan` build the same step here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

from llie_jax import messages, optimizers, registry, schedules
from llie_jax.configs import base
from llie_jax.losses.weighted import WeightedLoss
from llie_jax.models.base import variable_shapes
from llie_jax.training.state import TrainState, create_train_state
from llie_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything about a run except its data and its devices.

    Attributes:
        config: the checked config.
        model: the model.
        loss: the weighted loss.
        tx: the optax chain.
        schedule: the learning rate as a function of the step.
    """

    config: Any
    model: nn.Module
    loss: WeightedLoss
    tx: optax.GradientTransformation
    schedule: optax.Schedule

    @classmethod
    def from_config(cls, config) -> "Experiment":
        """Builds the parts, without loading weights or compiling.

        An unchecked config is checked first, see `llie_jax.configs.base.check`.

        Raises:
            ValueError: if values of the config contradict each other.
        """
        config = base.check(config)
        model = registry.build(config.model.to_dict())
        if model.untrainable:
            raise ValueError(f"config.model cannot be trained: {model.untrainable}")
        for name, stage in config.stages.items():
            for key in ("patch_size", "patch_width"):
                if stage[key] % model.multiple:
                    raise ValueError(
                        f"config.stages.{name}.{key} is {stage[key]}; "
                        f"{base.title(config.model)} needs multiples of "
                        f"{model.multiple}."
                    )
        _check_patterns(model, config.optimizer)
        schedule = schedules.make_schedule(
            config.schedule.to_dict(),
            peak=config.optimizer.learning_rate,
            steps=base.total_steps(config),
        )
        return cls(
            config=config,
            model=model,
            loss=WeightedLoss(config.loss.terms.to_dict()),
            tx=optimizers.make_optimizer(config.optimizer.to_dict(), schedule),
            schedule=schedule,
        )

    def init(self, variables: dict[str, Any] | None = None) -> TrainState:
        """Returns the state at step 0, initialised from `variables` if given."""
        return create_train_state(
            self.model,
            self.tx,
            jax.random.key(self.config.seed),
            average=self.config.ema.decay > 0,
            variables=variables,
        )

    def train_step(self, expand: Callable, axis_name: str | None) -> Callable:
        """Returns the training step for one device, see `step.make_train_step`."""
        return make_train_step(
            self.model,
            self.loss,
            self.tx,
            expand=expand,
            schedule=self.schedule,
            ema_decay=self.config.ema.decay,
            untrained=self.config.optimizer.freeze,
            axis_name=axis_name,
        )


def _check_patterns(model: nn.Module, optimizer) -> None:
    """Raises ValueError if a pattern of the optimizer matches no parameter."""
    scaled = optimizer.scaled.parameters
    patterns = [("freeze", pattern) for pattern in optimizer.freeze]
    patterns += [("scaled.parameters", scaled)] if scaled else []
    if not patterns:
        return
    params = variable_shapes(model)["params"]
    for key, pattern in patterns:
        if not any(jax.tree.leaves(optimizers.matching(params, (pattern,)))):
            raise ValueError(
                f"config.optimizer.{key} has {pattern!r}, which matches no "
                f"parameter of {type(model).__name__}. Paths start with "
                f"{messages.listed(sorted(f'{name}/' for name in params), limit=8)}; "
                "* matches any text."
            )
