"""LPIPS: the distance of images in the features of a pretrained network.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric, CVPR 2018, Eq. (1); linear heads of version 0.1.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from llie_jax.features import alexnet, squeezenet, vgg, weights

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_VGG_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


@dataclasses.dataclass(frozen=True)
class Net:
    """One of the networks of LPIPS.

    Attributes:
        trunk: the network behind it, one of `weights.NETWORKS`.
        taps: its layers whose features are compared.
        module: the network; its call returns the features by tap.
        torch_layers: torchvision's names of its convolutions -> ours.
        minimum: the smallest height and width of images, in pixels.
    """

    trunk: str
    taps: Sequence[str]
    module: nn.Module
    torch_layers: Mapping[str, str]
    minimum: int


NETS = {
    "alex": Net(
        "alexnet",
        alexnet.TAPS,
        alexnet.AlexNet(),
        alexnet.TORCH_LAYERS,
        alexnet.MINIMUM,
    ),
    "vgg": Net(
        "vgg16",
        _VGG_TAPS,
        vgg.VGG(_VGG_TAPS, vgg.VGG16),
        vgg.torch_layers(vgg.VGG16),
        16,
    ),
    "squeeze": Net(
        "squeezenet",
        squeezenet.TAPS,
        squeezenet.SqueezeNet(),
        squeezenet.TORCH_LAYERS,
        squeezenet.MINIMUM,
    ),
}


def load(
    net: str,
    *,
    trunk: str | os.PathLike | None = None,
    heads: str | os.PathLike | None = None,
) -> tuple[dict[str, Any], str]:
    """Returns the constants of LPIPS, and where they come from.

    Args:
        net: one of `NETS`.
        trunk: file of the network, see `weights.load_trunk`; None looks in the usual
            places.
        heads: file of the linear heads, likewise.

    Returns:
        {"trunk": parameters, "heads": [[C], ...]}; and a text for result files.

    Raises:
        FileNotFoundError, ImportError, ValueError: see `weights.load_trunk`.
    """
    facts = NETS[net]
    flat, origin = weights.load_trunk(
        facts.trunk, facts.torch_layers, path=trunk, option="trunk"
    )
    lin, heads_origin = weights.load_heads(f"lpips_{net}", len(facts.taps), path=heads)
    constants = {
        "trunk": traverse_util.unflatten_dict(flat, sep="/"),
        "heads": [lin[f"lin{place}"] for place in range(len(facts.taps))],
    }
    if heads_origin != origin:
        origin += f"; heads: {heads_origin}"
    return constants, origin


def shapes(net: str) -> dict[str, Any]:
    """Returns the shapes of the constants, without their files."""
    facts = NETS[net]
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda x: facts.module.init_with_output(jax.random.key(0), x), image
    )
    heads = [
        jax.ShapeDtypeStruct(features[tap].shape[-1:], jnp.float32)
        for tap in facts.taps
    ]
    return {"trunk": variables["params"], "heads": heads}


@functools.partial(jax.jit, static_argnames=("net", "shifted"))
def distance(
    image: jax.Array,
    target: jax.Array,
    constants: Mapping[str, Any],
    *,
    net: str,
    shifted: bool = True,
) -> jax.Array:
    """Returns the distance of each image to its target, [B].

    Args:
        image: [B, H, W, 3] in [0, 1], clipped or not.
        target: [B, H, W, 3].
        constants: from `load`.
        net: one of `NETS`.
        shifted: whether values are mapped to [-1, 1], as the networks expect. False
            gives the values of scripts that omit this, which are smaller.

    Raises:
        ValueError: if the images are too small for the network.
    """
    facts = NETS[net]

    def features(x: jax.Array) -> list[jax.Array]:
        x = x.astype(jnp.float32)
        x = 2 * x - 1 if shifted else x
        x = (x - jnp.array(_SHIFT)) / jnp.array(_SCALE)
        found = facts.module.apply({"params": constants["trunk"]}, x)
        return [_unit(found[tap]) for tap in facts.taps]

    pairs = zip(features(image), features(target), constants["heads"], strict=True)
    return sum(
        jnp.mean(jnp.square(ours - theirs) @ head, (1, 2))
        for ours, theirs, head in pairs
    )


def _unit(x: jax.Array) -> jax.Array:
    """Returns features [..., C] divided by their norm over the channels."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The root of zero has no gradient; below this limit nothing changes.
    return x / (jnp.sqrt(jnp.maximum(square, 1e-20)) + 1e-10)
