"""What every loss promises.

A loss is a function `(prediction, target, *, options) -> [B]`, see `losses.pixel`, or a
`NetworkLoss`. Its card says if it takes other arguments.
"""

import abc
import dataclasses
from typing import Any

import jax

from llie_jax import registry


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossCard(registry.Card):
    """What is known about a loss.

    Attributes:
        needs_target: whether it compares with another image: the one that a term's
            `against` names, or the batch's `target` if it takes the whole output.
        whole_output: whether it takes `(outputs, batch)`, everything that the model
            returned and everything that it was given.
    """

    kind: str = "loss"
    needs_target: bool = True
    whole_output: bool = False


class NetworkLoss(abc.ABC):
    """A loss that evaluates a frozen network; its dataclass fields are its options.

    The network's weights are constants: they are loaded once, passed to every call as
    an argument of the compiled step, and never changed. Subclasses are frozen
    dataclasses.
    """

    @property
    @abc.abstractmethod
    def constants_key(self) -> str:
        """Names the constants: losses with equal keys share them."""

    @abc.abstractmethod
    def load_constants(self) -> dict[str, Any]:
        """Loads the constants from their file.

        Raises:
            FileNotFoundError, ImportError, ValueError: if the file is missing or does
                not hold this network.
        """

    @abc.abstractmethod
    def constants_shapes(self) -> dict[str, Any]:
        """Returns the shapes of `load_constants` without needing the file."""

    @abc.abstractmethod
    def __call__(self, *images: jax.Array, constants: dict[str, Any]) -> jax.Array:
        """Returns the loss per image, [B].

        Args:
            *images: the same arguments as a loss that is a function takes.
            constants: from `load_constants`.
        """
