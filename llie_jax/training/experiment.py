"""The parts of a run that only depend on its config: model, loss, optimizer, step.

The training loop and `llie-jax plan` build the same step here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

from llie_jax import messages, optimizers, parallel, registry, schedules
from llie_jax.configs import base
from llie_jax.losses.weighted import WeightedLoss
from llie_jax.models.base import variable_shapes
from llie_jax.parallel import Mesh
from llie_jax.training import remat
from llie_jax.training.state import TrainState, create_train_state
from llie_jax.training.step import make_gradient, make_train_step, make_update


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
        remat.check(config.remat, model)
        if config.shard_optimizer and config.parallel == "pmap":
            raise ValueError(
                "config.shard_optimizer needs config.parallel='shard_map'; pmap cannot "
                "split a state over devices."
            )
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
        return make_train_step(self.gradient(expand, axis_name), self.update())

    def gradient(self, expand: Callable, axis_name: str | None) -> Callable:
        """Returns the gradient for one device, see `step.make_gradient`."""
        return make_gradient(
            self.model,
            self.loss,
            expand=expand,
            untrained=self.config.optimizer.freeze,
            accumulate=self.config.accumulate,
            remat=self.config.remat,
            scored=self.loss.reads_output,
            axis_name=axis_name,
        )

    def update(self) -> Callable:
        """Returns what the optimizer does with the gradient, see `step.make_update`."""
        return make_update(
            self.tx,
            schedule=self.schedule,
            ema_decay=self.config.ema.decay,
            untrained=self.config.optimizer.freeze,
        )

    def layout(self, state: TrainState, mesh: Mesh) -> Any:
        """Returns the shardings of a state: one for all, or a tree of them.

        Args:
            state: the state, or its shapes.
            mesh: the devices.
        """
        everywhere = parallel.replicated(mesh)
        if not self.config.shard_optimizer:
            return everywhere
        layout = jax.tree.map(lambda _: everywhere, state)
        return layout.replace(opt_state=parallel.spread(state.opt_state, mesh))

    def spread(self, state: TrainState, mesh: Mesh) -> TrainState:
        """Returns a replicated state in its `layout`."""
        if not self.config.shard_optimizer:
            return state
        return parallel.lay_out(state, self.layout(state, mesh))

    def gathered(self, state: TrainState, mesh: Mesh) -> TrainState:
        """Returns a state that is the same on every device, as checkpoints hold it."""
        if not self.config.shard_optimizer:
            return state
        return parallel.lay_out(state, parallel.replicated(mesh))

    def mapped_step(
        self, expand: Callable, mesh: Mesh, *, mapping: str = "shard_map"
    ) -> Callable:
        """Returns the compiled training step over all devices of a mesh.

        Its state has the shardings of `layout`.
        """
        if not self.config.shard_optimizer:
            return parallel.map_step(
                lambda axis: self.train_step(expand, axis), mesh, mapping=mapping
            )
        update = self.update()
        return parallel.map_step_in_halves(
            self.gradient(expand, parallel.AXIS),
            lambda state, gradient: update(
                state, *gradient(state.replace(opt_state=None, ema_params=None))
            ),
            mesh,
            self.layout(jax.eval_shape(self.init), mesh),
        )

    def check_batches(self, mesh: Mesh) -> None:
        """Checks that all devices get whole and equal parts of each batch.

        Raises:
            ValueError: if a batch size is not divisible.
        """
        for name, stage in self.config.stages.items():
            key = f"config.stages.{name}.batch_size"
            parallel.check_batch_size(stage.batch_size, mesh, key)
            self.check_parts(stage.batch_size // mesh.size, mesh, key)

    def check_parts(self, images: int, mesh: Mesh, key: str) -> None:
        """Checks that a device computes its images in equal parts.

        Args:
            images: of each device, in one step.
            mesh: the devices.
            key: what sets that number, for the error.

        Raises:
            ValueError: if `config.accumulate` does not divide it.
        """
        if images % self.config.accumulate:
            raise ValueError(
                f"{key} gives {images} images to each of {mesh.size} devices, "
                f"which config.accumulate={self.config.accumulate} does not divide."
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
