"""LPIPS, one metric for each network and scale of inputs in use.

All take RGB images [H, W, 3], uint8, uint16 or floats in [0, 1]. Lower is nearer; 0 for
equal images. The values of two networks are not comparable. The network runs in
float32; see `llie_jax.features.weights` for where its arrays are found.

Source: Zhang et al., CVPR 2018; version 0.1.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from llie_jax.features import lpips
from llie_jax.metrics import values
from llie_jax.metrics.base import ORIGIN, Metric, MetricCard
from llie_jax.registry import register


def card(net: str, **facts: Any) -> MetricCard:
    """Returns the card of a metric that is LPIPS with one of `lpips.NETS`."""
    return MetricCard(
        higher_is_better=False, minimum_size=lpips.NETS[net].minimum, **facts
    )


@dataclasses.dataclass(frozen=True)
class _LPIPS(Metric):
    """LPIPS with one network.

    Attributes:
        net: the network, one of `lpips.NETS`.
        shifted: whether values are mapped to [-1, 1].
        trunk: file of the network's weights; "" looks in the usual places.
        heads: file of the linear heads, likewise.
        swapped: whether red and blue are swapped, as scripts do that read images with
            OpenCV.
    """

    net: ClassVar[str]
    shifted: ClassVar[bool] = True

    trunk: str = ""
    heads: str = ""
    swapped: bool = False

    def load_constants(self) -> dict[str, Any]:
        """Loads the network and the heads, see `llie_jax.features.lpips.load`."""
        constants, origin = lpips.load(
            self.net, trunk=self.trunk or None, heads=self.heads or None
        )
        return {"arrays": constants, ORIGIN: origin}

    def convert(self, image: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Returns the image as the network gets it, float32 [H, W, 3]."""
        del target
        image = values.to_unit(image, clip=False).astype(np.float32)
        return image[..., ::-1] if self.swapped else image

    def __call__(self, images, targets, constants):
        """Returns the distance of each image to its target."""
        # Accelerators round the factors of products otherwise.
        with jax.default_matmul_precision("highest"):
            distances = lpips.distance(
                np.stack(list(map(self.convert, images, targets))),
                np.stack([_LPIPS.convert(self, x, x) for x in targets]),
                constants["arrays"],
                net=self.net,
                shifted=self.shifted,
            )
        return np.asarray(distances)


@register(
    "lpips_alex", card("alex", used_by="HVI-CIDNet, LLFlow, GSAD, most LOL tables")
)
class LPIPSAlex(_LPIPS):
    """LPIPS with AlexNet."""

    net = "alex"


@register("lpips_vgg", card("vgg", used_by="LEDNet and tables of LOL-Blur"))
class LPIPSVGG(_LPIPS):
    """LPIPS with VGG16, 1.5 to 2 times the values of AlexNet."""

    net = "vgg"


@register("lpips_vgg_unshifted", card("vgg", used_by="DarkIR"))
class LPIPSVGGUnshifted(_LPIPS):
    """LPIPS with VGG16 on values in [0, 1], not mapped to [-1, 1]: a smaller scale."""

    net, shifted = "vgg", False


@register("lpips_squeeze", card("squeeze", used_by="no table known to us"))
class LPIPSSqueeze(_LPIPS):
    """LPIPS with SqueezeNet."""

    net = "squeeze"
