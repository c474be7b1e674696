"""Weights & Biases, for runs that ask for it with `config.log.wandb`."""

import hashlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np

from llie_jax import files
from llie_jax.weights.run import RunFolder


def check_installed(project: str) -> None:
    """Raises ImportError if there is a project, and the package is not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise ImportError(
            f"config.log.wandb is {project!r}, which needs a package: pip install "
            "'llie-jax[wandb]'."
        )


class WandbLog:
    """Sends the numbers of a run to a project of Weights & Biases.

    The folder decides the run's identity there, so a resumed run goes on in the same
    place. `WANDB_MODE=offline` keeps everything in the folder, or in the working
    directory if the folder is in a bucket.

    Args:
        project: the name of the project.
        run: the run's folder.
        config: the config, nested.

    Raises:
        ImportError: if the package is not installed.
    """

    def __init__(self, project: str, run: RunFolder, config: Mapping[str, Any]):
        check_installed(project)
        import wandb

        self._wandb = wandb
        path = str(run.path.absolute())
        self._run = wandb.init(
            project=project,
            dir=path if files.is_local(run.path) else None,
            id=hashlib.sha256(path.encode()).hexdigest()[:16],
            name=run.path.name,
            resume="allow",
            config=dict(config),
        )

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Sends the numbers of a step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Sends a uint8 picture [H, W, 3]."""
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        """Ends the run there, once everything is sent."""
        self._run.finish()
