"""Where a run starts: its own initial values, other weights, or a checkpoint."""

from typing import Any

import jax
from jax.sharding import Mesh

from llie_jax import parallel, weights
from llie_jax.training.experiment import Experiment
from llie_jax.training.state import TrainState
from llie_jax.weights.store import Store


def initial_variables(experiment: Experiment) -> dict[str, Any] | None:
    """Returns the weights named by `config.init_from`, which must fit the model.

    Parameters that `config.init_missing` names may be missing. Weights of a host are
    grafted into a wrapper's.
    """
    path = experiment.config.init_from
    if not path:
        return None
    source, variables = weights.load(path)
    model = experiment.model
    grafted = hasattr(model, "host") and not hasattr(source, "host")
    spec = experiment.config.model
    on_host = f", for {spec.name} on {spec.host.name}," if "host" in spec else ""
    weights.check_fit(
        variables,
        model.host if grafted else model,
        f"The arrays of {path}{on_host}",
        missing=experiment.config.init_missing,
    )
    if grafted:
        return {name: {"host": tree} for name, tree in variables.items()}
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
        checkpoints: those of the run; a new one has none.
        mesh: the devices.
        initial: from `initial_variables`.

    Raises:
        ValueError: if there are checkpoints and none can be used.
    """
    sharding = parallel.replicated(mesh)
    # The initial values come as an argument: as constants they would be compiled in.
    init = jax.jit(experiment.init, out_shardings=sharding)
    shapes = jax.eval_shape(init, initial)
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
    )
    return checkpoints.restore(template) or (init(initial), 0)
