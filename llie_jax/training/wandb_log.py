"""Weights & Biases, for runs that ask for it with `config.log.wandb`."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from llie_jax.weights.run import RunFolder


class WandbLog:
    """Sends the numbers of a run to a project of Weights & Biases.

    The folder decides the run's identity there, so a resumed run goes on in the same
    place. `WANDB_MODE=offline` keeps everything in the folder.

    Args:
        project: the name of the project.
        run: the run's folder.
        config: the config, nested.

    Raises:
        ImportError: if the package is not installed.
    """

    def __init__(self, project: str, run: RunFolder, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise ImportError(
                f"config.log.wandb is {project!r}, which needs a package: pip install "
                "'llie-jax[wandb]'."
            ) from None
        self._wandb = wandb
        path = str(run.path.absolute())
        self._run = wandb.init(
            project=project,
            dir=path,
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
