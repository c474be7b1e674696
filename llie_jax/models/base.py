"""The interface of every model, and the card that describes it.

A `Model` enhances images. A `Backbone` is a model that splits into `encode` and
`decode`, so that a `Wrapper` can put something in between. A `ModelCard` holds what is
known about a model without running it: sizes, published weights, layers.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
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

    A subclass defines `multiple`, `pad_mode` and `__call__`; everything else has a
    default. Models never pad, crop or resize their input.

    Attributes:
        test_options: fields that take effect at inference only, such as CIDNet's
            `saturation`.
        test_streams: random streams that the model draws from at inference, such as the
            noise of a sampler. Each image has its own key.
        shared_streams: random streams whose draws must be equal on all devices, since
            they determine state. `dropout` and `noise` differ between devices.
        learned: collections of learned values, which count as parameters.
        record_inputs: further images of the records, by their keys, that the model
            takes in training as inputs of the same names.
        reference_inputs: inputs in which the model takes the reference of an image at
            inference; scores with them are marked.
        overview: side in pixels of the overview of the whole photo that the model takes
            with a part of it, see `llie_jax.image.overview`; 0 if it takes none. Crops
            in training and tiles at inference then come with the inputs `overview` and
            `window`.
    """

    test_options: ClassVar[tuple[str, ...]] = ()
    test_streams: ClassVar[tuple[str, ...]] = ()
    shared_streams: ClassVar[tuple[str, ...]] = ()
    learned: ClassVar[tuple[str, ...]] = ("params",)
    record_inputs: ClassVar[tuple[str, ...]] = ()
    reference_inputs: ClassVar[tuple[str, ...]] = ()
    overview: ClassVar[int] = 0

    @property
    def multiple(self) -> int:
        """The required divisor of the height and width of images, in pixels."""
        raise TypeError(f"{type(self).__name__} does not define `multiple`.")

    @property
    def pad_mode(self) -> str:
        """How images are padded to `multiple`: "constant" (zeros) or "reflect"."""
        raise TypeError(f"{type(self).__name__} does not define `pad_mode`.")

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
            **inputs: further inputs of the model, such as SNR-Net's `snr_map`.

        Raises:
            ValueError: if `image` has the wrong shape.
        """
        raise TypeError(f"{type(self).__name__} does not define `__call__`.")

    @nn.nowrap
    def native_inputs(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns the inputs derived from an image before a protocol resizes it.

        Args:
            image: [B, H, W, 3] in [0, 1], at its original size.
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
            ValueError: if the model has no such option; the message lists its options.
        """
        known = self.options
        for name in options:
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__} has no test option {name!r}."
                    f"{messages.suggest(name, known)} "
                    f"Options: {messages.listed(known)}."
                )
        return self._changed(options) if options else self

    def _changed(self, options: Mapping[str, float]) -> "Model":
        return self.clone(**options)

    @nn.nowrap
    def with_axis(self, axis_name: str | None) -> "Model":
        """Returns the model for a step that is mapped over a mesh axis.

        Models with collectives of their own use the axis; others are unchanged.
        """
        del axis_name
        return self

    @nn.nowrap
    def for_inference(self) -> "Model":
        """Returns the model without the parts that only training needs."""
        return self

    @property
    def untrainable(self) -> str:
        """Why the model cannot be trained, and what can be; "" if it can."""
        return ""

    @nn.nowrap
    def fold(self, variables: Mapping[str, Any]) -> tuple["Model", dict[str, Any]]:
        """Merges linear branches that only training needs into single layers.

        The result gives the same images, faster, and can no longer be trained.

        Args:
            variables: `{collection: tree of arrays}` of this model.

        Returns:
            The folded model and its variables.

        Raises:
            ValueError: if the model has nothing to fold.
        """
        del variables
        raise ValueError(
            f"{type(self).__name__} has no branches that only training needs, so it "
            "cannot be folded; its release file needs no folding."
        )

    @nn.nowrap
    def card(self) -> "ModelCard":
        """Returns the card of the model's class; an empty one if unregistered."""
        part = registry.part_of(type(self))
        return part.card if part else ModelCard()

    @nn.nowrap
    def check_image(self, image: jax.Array) -> None:
        """Checks that the model accepts images of this shape.

        Raises:
            ValueError: if `image` is not [B, H, W, 3], or `multiple` does not divide
                its height and width.
        """
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"image has shape {image.shape}, not [B, H, W, 3].")
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
    """A model that splits into `encode` and `decode`, for use in a `Wrapper`.

    A subclass builds its submodules in `setup`, since both methods share them.
    """

    @property
    def feature_stride(self) -> int:
        """The size of the image over the size of the features."""
        return self.multiple

    def encode(
        self,
        image: jax.Array,
        *,
        target: jax.Array | None = None,
        train: bool = False,
        **inputs: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """Returns the features at the split, and whatever else `decode` needs.

        Args:
            image: see `Model.__call__`.
            target: see `Model.__call__`.
            train: see `Model.__call__`.
            **inputs: see `Model.__call__`.

        Returns:
            Features [B, h, w, C], and a tree of arrays.

        Raises:
            ValueError: if `image` has the wrong shape.
        """
        raise TypeError(f"{type(self).__name__} does not define `encode`.")

    def decode(
        self, features: jax.Array, context: Any, *, train: bool = False
    ) -> Outputs:
        """Returns the outputs for the features and context from `encode`."""
        raise TypeError(f"{type(self).__name__} does not define `decode`.")

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
    """A model around a backbone, whose variables are under `backbone`.

    A subclass has the field `backbone`. Padding, options, inputs and layers are the
    backbone's unless the subclass overrides them.

    Raises:
        ValueError: if the field `backbone` is not a `Backbone`.
    """

    def __post_init__(self):
        if not isinstance(self.backbone, Backbone):
            inside = self.backbone
            name = type(inside).__name__
            raise ValueError(
                f"{type(self).__name__} cannot wrap {name}, which is not a Backbone (a "
                "model with `encode` and `decode`). Backbones: "
                f"{messages.listed(backbones())}."
            )
        super().__post_init__()

    @property
    def multiple(self) -> int:
        """The `multiple` of the backbone."""
        return self.backbone.multiple

    @property
    def pad_mode(self) -> str:
        """The `pad_mode` of the backbone."""
        return self.backbone.pad_mode

    @property
    def test_streams(self) -> tuple[str, ...]:
        """The `test_streams` of the backbone."""
        return self.backbone.test_streams

    @property
    def record_inputs(self) -> tuple[str, ...]:
        """The `record_inputs` of the backbone."""
        return self.backbone.record_inputs

    @property
    def reference_inputs(self) -> tuple[str, ...]:
        """The `reference_inputs` of the backbone."""
        return self.backbone.reference_inputs

    @property
    def overview(self) -> int:
        """The `overview` of the backbone."""
        return self.backbone.overview

    @nn.nowrap
    def native_inputs(self, image: jax.Array) -> dict[str, jax.Array]:
        """Returns the native inputs of the backbone."""
        return self.backbone.native_inputs(image)

    @property
    def options(self) -> dict[str, float]:
        """The test options of the backbone."""
        return self.backbone.options

    def _changed(self, options: Mapping[str, float]) -> "Wrapper":
        return self.clone(backbone=self.backbone.with_options(options))

    @property
    def untrainable(self) -> str:
        """Why the backbone cannot be trained."""
        return self.backbone.untrainable

    @nn.nowrap
    def fold(self, variables: Mapping[str, Any]) -> tuple["Wrapper", dict[str, Any]]:
        """Folds the backbone, see `Model.fold`."""
        backbone, inside = self.backbone.fold(
            {k: tree["backbone"] for k, tree in variables.items() if "backbone" in tree}
        )
        folded = {}
        for name, tree in variables.items():
            folded[name] = {k: v for k, v in tree.items() if k != "backbone"}
            if name in inside:
                folded[name]["backbone"] = inside[name]
        folded = {name: tree for name, tree in folded.items() if tree}
        return self.clone(backbone=backbone), folded

    @nn.nowrap
    def card(self) -> "ModelCard":
        """Returns the wrapper's card, with the layers and padding of the backbone."""
        inner = self.backbone.card()
        return dataclasses.replace(
            super().card(),
            padding=inner.padding,
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
        infer_spec: `(shapes, given) -> fields`: infers fields of the model from the
            keys and shapes of a checkpoint and the fields that are given.
        unused: patterns of official keys to ignore.
        join: `parts -> tensors`: joins a checkpoint in several files, whose tensors are
            `parts`, to one state dict; None if no file is of this model.
    """

    patterns: Mapping[str, str]
    infer_spec: Callable[[Mapping[str, tuple[int, ...]], Mapping[str, Any]], dict]
    unused: tuple[str, ...] = ()
    join: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any] | None] | None = None


@dataclasses.dataclass(frozen=True)
class Trained:
    """A result of training with this project.

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

    Paths name modules or parameters; `*` matches any text.

    Attributes:
        sizes: published or shipped sizes, name -> fields.
        costs: what `llie_jax.costs` counts for some of the sizes, so that listing them
            is fast: size -> `params`, `inference_params`, and `macs_256` for an image
            of 256 x 256 pixels.
        tiny: fields of the smallest useful model, for tests and trials.
        padding: whether images may be padded to the model's `multiple`; if not, the
            model only gets images that need no padding.
        torch: how official checkpoints are read; None if none exist.
        weights: published checkpoints.
        verified: what the model was compared with, and how closely they agree; "" if
            it was not compared.
        trained: results of training with this project, size -> result.
        attention_layers: the attention modules, for the redundancy studies.
        feed_forward_layers: the feed-forward modules, likewise.
        unused_layers: modules whose outputs are never read.
        unused_parameters: parameters that may have no influence on any output.
        training_only: parameters that do not influence the enhanced image.
    """

    kind: str = dataclasses.field(default="model", init=False)
    sizes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    padding: bool = True
    torch: TorchKeys | None = None
    weights: Mapping[str, Pretrained] = dataclasses.field(default_factory=dict)
    verified: str = ""
    trained: Mapping[str, Trained] = dataclasses.field(default_factory=dict)
    attention_layers: tuple[str, ...] = ()
    feed_forward_layers: tuple[str, ...] = ()
    unused_layers: tuple[str, ...] = ()
    unused_parameters: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()


def check_at_least_one(model: Model, *fields: str) -> None:
    """Checks fields that count something, such as channels or blocks.

    Raises:
        ValueError: if one is below 1.
    """
    for name in fields:
        value = getattr(model, name)
        if value < 1:
            raise ValueError(f"{name}={value}; use at least 1.")


def card(name: str) -> ModelCard:
    """Returns the card of a registered model.

    Raises:
        ValueError: if the name is unknown; the message lists the registered models.
    """
    return registry.get(name).card


def backbones() -> list[str]:
    """Returns the names of the models that a `Wrapper` can wrap."""
    return [
        name
        for name in registry.list_models()
        if issubclass(registry.get(name).make, Backbone)
    ]


def variable_shapes(
    model: Model, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Returns the shapes and dtypes of the variables that `model.init` makes.

    Fast even for large models, since nothing is compiled.

    Args:
        model: the model.
        size: (height, width) of the image to trace with; None is the smallest. JAX
            caches the traces of inner layers, so a second trace at the same size is
            faster.

    Returns:
        `{collection: tree of jax.ShapeDtypeStruct}`, with `params` first.
    """
    size = size or (model.multiple, model.multiple)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with conv_kernels.use_implementation("lax"):  # fastest to trace
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)


def initial_variables(
    model: Model, rng: jax.Array, size: tuple[int, int]
) -> dict[str, Any]:
    """Returns the variables that `model.init` makes, but compiles much faster.

    Args:
        model: the model.
        rng: random key of the parameters.
        size: (height, width) of the image to trace with.
    """
    with conv_kernels.use_implementation("lax"):  # traced, but never run
        return jaxprs.batched(model.init)(rng, jnp.zeros((1, *size, 3)))


def parse_options(pairs: list[str]) -> dict[str, float]:
    """Returns the test options of a command line, such as `["saturation=1.3"]`.

    Raises:
        ValueError: if one is not NAME=NUMBER.
    """
    options = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            options[name] = float(value)
            if not math.isfinite(options[name]):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"The test option {pair!r} is not NAME=NUMBER, such as saturation=1.3."
            ) from None
    return options
