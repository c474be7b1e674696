"""What every model promises, and what is known about each.

A `Model` enhances images. A `Backbone` is a model that can be split into `encode` and
`decode`, so that a `Wrapper` can put something in between. What is known about a model
without running it (sizes, published weights, layers) is on its `ModelCard`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from llie_jax import jaxprs, messages, registry
from llie_jax.nn import conv_kernels
from llie_jax.types import Outputs, Pretrained

_LAYERS = ("attention_layers", "feed_forward_layers", "unused_layers")


class Model(nn.Module):
    """A network that enhances images.

    A subclass gives `multiple` and `pad_mode` and computes in `__call__`; everything
    else has a default. It never pads, crops or resizes its input.

    Attributes:
        test_options: fields that change enhanced images only after training, such as
            CIDNet's `saturation`.
        shared_streams: random streams whose draws must be equal on all devices, since
            they become state. `dropout` and `noise` differ between devices.
        learned: collections whose values training learns; they count as parameters.
    """

    test_options: ClassVar[tuple[str, ...]] = ()
    shared_streams: ClassVar[tuple[str, ...]] = ()
    learned: ClassVar[tuple[str, ...]] = ("params",)

    @property
    def multiple(self) -> int:
        """The number that must divide the height and width of images, in pixels."""
        raise TypeError(f"{type(self).__name__} does not say its `multiple`.")

    @property
    def pad_mode(self) -> str:
        """How images are padded to `multiple`: "constant" (zeros) or "reflect"."""
        raise TypeError(f"{type(self).__name__} does not say its `pad_mode`.")

    def __call__(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        **inputs: jax.Array,
    ) -> Outputs:
        """Enhances images.

        Args:
            image: [B, H, W, 3] in [0, 1], height and width multiples of `multiple`.
            target: the references, for models that need them in training.
            train: whether this is a training step.
            **inputs: what else the model takes, such as SNR-Net's `snr_map`.

        Raises:
            ValueError: if `image` has another shape.
        """
        raise TypeError(f"{type(self).__name__} does not compute anything.")

    @nn.nowrap
    def native_inputs(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns the inputs that are made of an image before a protocol resizes it.

        Args:
            image: [B, H, W, 3] in [0, 1], at its own size.
        """
        del image
        return {}

    @property
    def options(self) -> dict[str, float]:
        """The test options and their values."""
        return {name: getattr(self, name) for name in self.test_options}

    @nn.nowrap
    def with_options(self, options: Mapping[str, float]) -> "Model":
        """Returns the model with some test options changed.

        Raises:
            ValueError: if the model has no such option; those it has are named.
        """
        known = self.options
        for name in options:
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__} has no test option {name!r}."
                    f"{messages.suggest(name, known)} It has: {messages.listed(known)}."
                )
        return self._changed(options) if options else self

    def _changed(self, options: Mapping[str, float]) -> "Model":
        return self.clone(**options)

    @nn.nowrap
    def with_axis(self, axis_name: str | None) -> "Model":
        """Returns the model for a step that is mapped over a mesh axis.

        Models with collectives of their own take the axis; for others nothing changes.
        """
        del axis_name
        return self

    @nn.nowrap
    def for_inference(self) -> "Model":
        """Returns the model without the parts that only training needs."""
        return self

    @nn.nowrap
    def card(self) -> "ModelCard":
        """Returns what is known about the model; an empty card if unregistered."""
        part = registry.part_of(type(self))
        return part.card if part else ModelCard()

    @nn.nowrap
    def check_image(self, image: jax.Array) -> None:
        """Checks that the model takes images of this shape.

        Raises:
            ValueError: if `image` is not [B, H, W, 3], or `multiple` does not divide
                its height and width.
        """
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"image has the shape {image.shape}, not [B, H, W, 3].")
        height, width = image.shape[1:3]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"image is {height} x {width}; {self._describe_multiple()}. Use "
                "llie_jax.inference.padding.pad_to_multiple, or llie_jax.enhance for "
                "any size."
            )

    def _describe_multiple(self) -> str:
        name = type(self).__name__
        return f"this {name} needs multiples of {self.multiple}"


class Backbone(Model):
    """A model that can be split between features and image, for a `Wrapper`.

    A subclass builds its parts in `setup`.
    """

    @property
    def feature_stride(self) -> int:
        """Height and width of the image over those of the features."""
        return self.multiple

    def encode(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        **inputs: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """Returns the features at the split, and what `decode` needs besides them.

        Args:
            image: as for `__call__`, as are the other arguments.
            target: as for `__call__`.
            train: as for `__call__`.
            **inputs: as for `__call__`.

        Returns:
            Features [B, h, w, C], and a tree of arrays.

        Raises:
            ValueError: if `image` has another shape.
        """
        raise TypeError(f"{type(self).__name__} does not say how it encodes.")

    def decode(
        self, features: jax.Array, context: Any, *, train: bool = False
    ) -> Outputs:
        """Returns the outputs for features and context as `encode` gives them."""
        raise TypeError(f"{type(self).__name__} does not say how it decodes.")

    def __call__(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        **inputs: jax.Array,
    ) -> Outputs:
        """Enhances images: `decode` of `encode`; see `Model`."""
        features, context = self.encode(image, target=target, train=train, **inputs)
        return self.decode(features, context, train=train)


class Wrapper(Model):
    """A model round a backbone, whose variables are under `backbone`.

    A subclass has the field `backbone`. What it does not say itself is the backbone's:
    padding, options, inputs, layers.

    Raises:
        ValueError: if the field `backbone` holds something that cannot be split.
    """

    def __post_init__(self):
        if not isinstance(self.backbone, Backbone):
            inside = self.backbone
            name = type(inside).__name__
            raise ValueError(
                f"{type(self).__name__} cannot wrap {name}: it is no Backbone, a model "
                "with `encode` and `decode`. Backbones: "
                f"{messages.listed(backbones())}."
            )
        super().__post_init__()

    @property
    def multiple(self) -> int:
        """That of the backbone."""
        return self.backbone.multiple

    @property
    def pad_mode(self) -> str:
        """That of the backbone."""
        return self.backbone.pad_mode

    @nn.nowrap
    def native_inputs(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns what the backbone makes of an image at its own size."""
        return self.backbone.native_inputs(image)

    @property
    def options(self) -> dict[str, float]:
        """The test options of the backbone."""
        return self.backbone.options

    def _changed(self, options: Mapping[str, float]) -> "Wrapper":
        return self.clone(backbone=self.backbone.with_options(options))

    @nn.nowrap
    def card(self) -> "ModelCard":
        """Returns the wrapper's card, with the layers of the backbone."""
        inner = self.backbone.card()
        return dataclasses.replace(
            super().card(),
            **{
                field: tuple(f"backbone/{path}" for path in getattr(inner, field))
                for field in _LAYERS
            },
        )


@dataclasses.dataclass(frozen=True)
class TorchKeys:
    """How official PyTorch checkpoints of a model are read.

    Attributes:
        patterns: official key -> our name, see `llie_jax.convert.names`.
        infer_spec: `(shapes, given) -> fields`: what keys and shapes of a checkpoint
            tell about the model's fields, beside those that are given.
        unused: patterns of official keys that nothing here reads.
    """

    patterns: Mapping[str, str]
    infer_spec: Callable[[Mapping[str, tuple[int, ...]], Mapping[str, Any]], dict]
    unused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Trained:
    """A result of this project's own training.

    Attributes:
        config: the recipe.
        data: the training data.
        protocol: how the score was computed.
        score: metric name to value.
    """

    config: str
    data: str
    protocol: str
    score: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class ModelCard(registry.Card):
    """What is known about a model without running it.

    Paths are those of modules or parameters, with `*` for any text.

    Attributes:
        sizes: published or shipped sizes, name -> fields.
        tiny: fields of the smallest useful model, for tests and trials.
        torch: how official checkpoints are read; None if there are none.
        weights: published checkpoints.
        verified: what was compared with what, and how closely; "" for nothing.
        trained: results of our own training, size -> result.
        attention_layers: modules that are attention, for the redundancy studies.
        feed_forward_layers: modules that are feed-forward networks, likewise.
        unused_layers: modules whose results nobody reads.
        unused_parameters: parameters that may have no influence on any output.
        training_only: parameters without influence on the enhanced image.
    """

    kind: str = dataclasses.field(default="model", init=False)
    sizes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    torch: TorchKeys | None = None
    weights: Mapping[str, Pretrained] = dataclasses.field(default_factory=dict)
    verified: str = ""
    trained: Mapping[str, Trained] = dataclasses.field(default_factory=dict)
    attention_layers: tuple[str, ...] = ()
    feed_forward_layers: tuple[str, ...] = ()
    unused_layers: tuple[str, ...] = ()
    unused_parameters: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()


def card(name: str) -> ModelCard:
    """Returns the card of a registered model.

    Raises:
        ValueError: if there is none of that name; the message lists what there is.
    """
    return registry.get(name).card


def backbones() -> list[str]:
    """Returns the names of the models that a `Wrapper` can take."""
    return [
        name
        for name in registry.list_models()
        if issubclass(registry.get(name).make, Backbone)
    ]


def variable_shapes(
    model: Model, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Returns what `model.init` would make, with shapes and dtypes in place of arrays.

    Takes a moment even for large models, since nothing is compiled.

    Args:
        model: the model.
        size: (height, width) of the image it is traced with, by default the smallest.
            JAX keeps the traces of the layers inside: a second trace of the same size
            is faster.

    Returns:
        `{collection: tree of jax.ShapeDtypeStruct}`, the first collection is `params`.
    """
    size = size or (model.multiple, model.multiple)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with conv_kernels.use_implementation("lax"):  # the fastest to trace
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)


def initial_variables(
    model: Model, rng: jax.Array, size: tuple[int, int]
) -> dict[str, Any]:
    """Returns what `model.init` makes, compiled in a fraction of the time.

    Args:
        model: the model.
        rng: random key of the parameters.
        size: (height, width) of the image it is traced with.
    """
    with conv_kernels.use_implementation("lax"):  # what is traced is never run
        return jaxprs.batched(model.init)(rng, jnp.zeros((1, *size, 3)))


def parse_options(pairs: list[str]) -> dict[str, float]:
    """Returns the test options of a command line, `["saturation=1.3"]`.

    Raises:
        ValueError: if one is not NAME=NUMBER.
    """
    options = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            options[name] = float(value)
        except ValueError:
            raise ValueError(
                f"The test option {pair!r} is not NAME=NUMBER, such as saturation=1.3."
            ) from None
    return options
