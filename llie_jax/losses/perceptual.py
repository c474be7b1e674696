"""Perceptual loss: the distance between features of a pretrained network."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from llie_jax.features import lpips, vgg
from llie_jax.losses.base import LossCard, NetworkLoss
from llie_jax.losses.pixel import as_float, check_shapes, l1, mse
from llie_jax.messages import suggest
from llie_jax.registry import register

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
_DISTANCES = {"l1": l1, "mse": mse}


class _VGGLoss(NetworkLoss):
    """A loss on features of one of torchvision's VGG networks.

    Attributes:
        network: its name.
        convolutions: number of convolutions of each stage.
        weights: file with the network's weights.
    """

    network: ClassVar[str]
    convolutions: ClassVar[tuple[int, ...]]
    weights: str

    @property
    @abc.abstractmethod
    def taps(self) -> tuple[str, ...]:
        """The layers to compare."""

    @property
    def constants_key(self) -> str:
        """Names the network's parameters: losses with equal keys share them."""
        last = vgg.needed_layers(self.taps, self.convolutions)[-1]
        return f"{self.network}:{self.weights}:{last}"

    def load_constants(self) -> dict:
        """Loads the network's parameters up to the last layer from its file.

        Raises:
            FileNotFoundError, ImportError, ValueError: see `vgg.load`.
        """
        return vgg.load(self.weights or None, name=self.network, taps=self.taps)

    def constants_shapes(self) -> dict:
        """Returns the parameter shapes of the published network, without its file."""
        trunk = vgg.VGG(self.taps, self.convolutions)
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        return jax.eval_shape(trunk.init, jax.random.key(0), image)["params"]

    def features(self, image: jax.Array, constants: dict) -> dict[str, jax.Array]:
        """Returns the features of prepared images [B, H, W, 3], layer -> features."""
        width = constants["conv1_1"]["kernel"].shape[-1]
        trunk = vgg.VGG(self.taps, self.convolutions, width=width)
        return trunk.apply({"params": constants}, image)


@register("vgg19", LossCard())
@dataclasses.dataclass(frozen=True)
class VGGPerceptual(_VGGLoss):
    """Weighted distance between VGG19 features.

    No gradient flows through the target's features.

    Source: Johnson et al., ECCV 2016; layers and factors as in SNR-Net (Xu et al., CVPR
    2022) and the authors' code of DarkIR (Feijoo et al., CVPR 2025), where the term's
    weight is 0.01.

    Attributes:
        weights: file with the network's weights; "" searches the default places, see
            `llie_jax.features.vgg.load`.
        layers: layers to compare; "conv..." is before the ReLU, "relu..." after it.
        factors: weight of each layer.
        normalize: whether images are normalised by ImageNet's mean and standard
            deviation, as in the network's training. Off, as in those authors' code.
        signed: whether images are assumed to be in [-1, 1] and mapped to [0, 1] first.
            HVI-CIDNet's code (Yan, Feng et al., CVPR 2025) does so with images that are
            in [0, 1] already.
        distance: "l1" or "mse", between the features.
        reduce: "mean" or "sum" over the pixels and channels of each layer.
    """

    network, convolutions = "vgg19", vgg.VGG19

    weights: str = ""
    layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    factors: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    normalize: bool = False
    signed: bool = False
    distance: str = "l1"
    reduce: str = "mean"

    def __post_init__(self):
        vgg.needed_layers(self.layers)  # raises for unknown layers
        if len(self.layers) != len(self.factors):
            raise ValueError(
                f"vgg19 has {len(self.layers)} layers but {len(self.factors)} factors; "
                "give one factor per layer."
            )
        if self.distance not in _DISTANCES:
            raise ValueError(
                f"vgg19 has no distance {self.distance!r}."
                f"{suggest(self.distance, _DISTANCES)} Use one of "
                f"{', '.join(_DISTANCES)}."
            )

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers to compare."""
        return tuple(self.layers)

    def __call__(
        self, prediction: jax.Array, target: jax.Array, constants: dict
    ) -> jax.Array:
        """Returns the distance per image, [B].

        Args:
            prediction: images [B, H, W, 3] in [0, 1], clipped or not.
            target: images of the same shape.
            constants: the network's parameters.

        Raises:
            ValueError: if the shapes differ or the images are too small (relu5_1 needs
                16 x 16).
        """
        check_shapes(prediction, target)

        def features(image):
            image = as_float(image)
            if self.signed:
                image = (image + 1) / 2
            if self.normalize:
                image = (image - jnp.array(_IMAGENET_MEAN)) / jnp.array(_IMAGENET_STD)
            return self.features(image, constants)

        predicted = features(prediction)
        wanted = features(jax.lax.stop_gradient(target))
        distance = _DISTANCES[self.distance]
        return sum(
            factor * distance(predicted[layer], wanted[layer], reduce=self.reduce)
            for layer, factor in zip(self.layers, self.factors, strict=True)
        )


@register("vgg16_normalized", LossCard())
@dataclasses.dataclass(frozen=True)
class NormalizedVGGPerceptual(_VGGLoss):
    """Squared difference of VGG16 features after an instance norm.

    The norm makes the loss compare where features are, and not how strong they are. No
    gradient flows through the target's features.

    Source: Jiang et al., EnlightenGAN, IEEE TIP 2021, the self feature preserving loss;
    layer and preprocessing as in CPGA-Net+, where the term's weight is 0.01.

    Attributes:
        weights: file with the network's weights; "" searches the default places, see
            `llie_jax.features.vgg.load`.
        layer: layer to compare. The last pooling needs 32 x 32 pixels.
    """

    network, convolutions = "vgg16", vgg.VGG16

    weights: str = ""
    layer: str = "pool5"

    def __post_init__(self):
        vgg.needed_layers((self.layer,), vgg.VGG16)  # raises for an unknown layer

    @property
    def taps(self) -> tuple[str, ...]:
        """The layer to compare."""
        return (self.layer,)

    def __call__(
        self, prediction: jax.Array, target: jax.Array, constants: dict
    ) -> jax.Array:
        """Returns the mean squared difference per image, [B].

        Args:
            prediction: images [B, H, W, 3] in [0, 1], clipped or not.
            target: images of the same shape.
            constants: the network's parameters.

        Raises:
            ValueError: if the shapes differ or the images are too small.
        """
        check_shapes(prediction, target)

        def features(image):
            image = 255 * as_float(image) - jnp.array(_CAFFE_MEAN)
            # Blue first, as the authors' code does; torchvision's weights expect red.
            x = self.features(image[..., ::-1], constants)[self.layer]
            mean = jnp.mean(x, (1, 2), keepdims=True)
            variance = jnp.mean(jnp.square(x - mean), (1, 2), keepdims=True)
            return (x - mean) * jax.lax.rsqrt(variance + 1e-5)

        return mse(features(prediction), features(jax.lax.stop_gradient(target)))


@dataclasses.dataclass(frozen=True)
class _LPIPSLoss(NetworkLoss):
    """LPIPS with one network; no gradient flows through the target's features.

    Attributes:
        net: the network, one of `lpips.NETS`.
        shifted: whether values are mapped to [-1, 1].
        trunk: file of the network's weights; "" looks in the usual places, see
            `llie_jax.features.weights`.
        heads: file of the linear heads, likewise.
    """

    net: ClassVar[str]
    shifted: ClassVar[bool] = True

    trunk: str = ""
    heads: str = ""

    @property
    def constants_key(self) -> str:
        """Names the network's parameters: losses with equal keys share them."""
        return f"lpips_{self.net}:{self.trunk}:{self.heads}"

    def load_constants(self) -> dict:
        """Loads network and heads.

        Raises:
            FileNotFoundError, ImportError, ValueError: see `lpips.load`.
        """
        constants, _ = lpips.load(
            self.net, trunk=self.trunk or None, heads=self.heads or None
        )
        return constants

    def constants_shapes(self) -> dict:
        """Returns the shapes of the published network and heads, without files."""
        return lpips.shapes(self.net)

    def __call__(
        self, prediction: jax.Array, target: jax.Array, constants: dict
    ) -> jax.Array:
        """Returns the distance per image, [B].

        Args:
            prediction: images [B, H, W, 3] in [0, 1], clipped or not.
            target: images of the same shape.
            constants: the network's parameters.

        Raises:
            ValueError: if the shapes differ or the images are too small.
        """
        check_shapes(prediction, target)
        return lpips.distance(
            as_float(prediction),
            as_float(jax.lax.stop_gradient(target)),
            constants,
            net=self.net,
            shifted=self.shifted,
        )


@register("lpips_alex", LossCard())
class LPIPSAlex(_LPIPSLoss):
    """LPIPS with AlexNet, see `llie_jax.features.lpips`."""

    net = "alex"


@register("lpips_vgg", LossCard())
class LPIPSVGG(_LPIPSLoss):
    """LPIPS with VGG16; DarkIR's paper has this term with the weight 0.01."""

    net = "vgg"


@register("lpips_vgg_unshifted", LossCard())
class LPIPSVGGUnshifted(_LPIPSLoss):
    """LPIPS with VGG16 on values in [0, 1], as DarkIR's test code has it."""

    net, shifted = "vgg", False


@register("lpips_squeeze", LossCard())
class LPIPSSqueeze(_LPIPSLoss):
    """LPIPS with SqueezeNet."""

    net = "squeeze"
