"""Where a run starts: from initial values, other weights, or a checkpoint."""

from typing import Any

import jax

from llie_jax import parallel, weights
from llie_jax.configs import base
from llie_jax.models.base import Wrapper
from llie_jax.parallel import Mesh
from llie_jax.training.experiment import Experiment
from llie_jax.training.state import TrainState
from llie_jax.weights.store import Store


def initial_variables(experiment: Experiment) -> dict[str, Any] | None:
    """Returns the weights that `config.init_from` names; None if it names none.

    They must match the model; parameters matched by `config.init_missing` may be
    missing. Weights of a backbone are grafted into a wrapper.

    Raises:
        ValueError: if the weights cannot be trained, or do not match the model.
    """
    path = experiment.config.init_from
    if not path:
        return None
    source, variables = weights.load(path)
    if source.untrainable:
        raise ValueError(
            f"config.init_from is {path}, which cannot be trained: {source.untrainable}"
        )
    model = experiment.model
    grafted = isinstance(model, Wrapper) and not isinstance(source, Wrapper)
    weights.check_fit(
        variables,
        model.backbone if grafted else model,
        f"The arrays of {path}, for {base.title(experiment.config.model)},",
        missing=experiment.config.init_missing,
    )
    if grafted:
        return {name: {"backbone": tree} for name, tree in variables.items()}
    return variables


def begin(
    experiment: Experiment,
    checkpoints: Store,
    mesh: Mesh,
    initial: dict[str, Any] | None,
) -> tuple[TrainState, int]:
    """Returns the state to start from and its step, 0 for a new run.

    Args:
        experiment: the model and its optimizer.
        checkpoints: the run's checkpoints; a new run has none.
        mesh: the devices.
        initial: from `initial_variables`.

    Raises:
        ValueError: if there are checkpoints and none can be used.
    """
    # Passed as an argument: constants would be compiled into the program.
    init = jax.jit(experiment.init, out_shardings=parallel.replicated(mesh))
    shapes = jax.eval_shape(init, initial)
    return checkpoints.restore(template(shapes, mesh)) or (init(initial), 0)


def template(state: TrainState, mesh: Mesh) -> TrainState:
    """Returns the shapes of a state as checkpoints hold it, the same on every device.

    Args:
        state: a state, or its shapes.
        mesh: the devices.
    """
    sharding = parallel.replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
    )
