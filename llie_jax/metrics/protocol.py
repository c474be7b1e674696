"""Protocols: how a paper turns a model's output into the numbers of its tables.

The "PSNR / SSIM" of two papers differ in the padding, the rounding and the definitions
that their scripts use. A protocol states all of these as data.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llie_jax import messages, registry
from llie_jax.metrics import base, values

OUTPUTS = ("round", "truncate", "clip", "raw")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a model's images are scored.

    Attributes:
        name: the name in commands and files.
        description: one line on whose numbers these are.
        metrics: column -> metric, by name or spec; see `llie_jax.metrics.Scorer`.
        output: how the model's output is converted before scoring: "round" or
            "truncate" to 8 bits, "clip" to [0, 1] as floats, or "raw".
        multiple: height and width are padded to a multiple of this; None uses the
            model's. The model's own multiple is always respected.
        pad_mode: "reflect" or "constant" (zeros); None uses the model's.
        size: (height, width) at which the model sees images, instead of padding. Images
            are resized bilinearly without antialiasing, and the output is resized back.
            Inputs that a model derives from the image at its original size, such as
            SNR-Net's map, are computed before. None does not resize.
        pair_size: (height, width) to which image and target are resized in the same way
            when they are read; scores are computed at this size. None keeps their size.
        gt_mean: column -> metric, likewise: columns that use the reference to change
            the image, computed on request only; see `with_gt_mean`.
        optional: columns that are left out where the network of their metric is not
            installed, see `available`.
        not_computed: the columns that are left out.
    """

    name: str
    description: str
    metrics: Mapping[str, registry.Spec]
    output: str = "round"
    multiple: int | None = None
    pad_mode: str | None = None
    size: tuple[int, int] | None = None
    pair_size: tuple[int, int] | None = None
    gt_mean: Mapping[str, registry.Spec] = dataclasses.field(default_factory=dict)
    optional: tuple[str, ...] = ("lpips", "lpips_gt_mean")
    not_computed: tuple[str, ...] = ()

    def __post_init__(self):
        if self.output not in OUTPUTS:
            raise ValueError(
                f"Protocol {self.name!r}: output is {self.output!r}; accepted: "
                f"{', '.join(OUTPUTS)}."
            )
        for field in ("size", "pair_size"):
            value = getattr(self, field)
            if value is not None and (len(value) != 2 or min(value) < 1):
                raise ValueError(
                    f"Protocol {self.name!r}: {field} is {value}; give height and "
                    "width, both at least 1, or None."
                )

    def with_gt_mean(self) -> "Protocol":
        """Returns this protocol with the columns `gt_mean` after its own.

        Raises:
            ValueError: if it has none; the message names those that do.
        """
        if not self.gt_mean:
            having = ", ".join(n for n, other in PROTOCOLS.items() if other.gt_mean)
            raise ValueError(
                f"Protocol {self.name!r} has no scores with GT mean; these have: "
                f"{having}."
            )
        return dataclasses.replace(self, metrics={**self.metrics, **self.gt_mean})

    def available(
        self,
        constants: dict | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> "Protocol":
        """Returns this protocol without the optional columns that cannot be computed.

        Args:
            constants: a cache that `scorer` reads too, see `metrics.Scorer`.
            size: (height, width) that the smallest images have; an optional metric may
                need larger ones. None does not check it.
        """
        constants = {} if constants is None else constants
        kept, missing = {}, []
        for column, spec in self.metrics.items():
            if column in self.optional:
                small = size and min(size) < base.card(spec).minimum_size
                if small or not base.loads(spec, constants):
                    missing.append(column)
                    continue
            kept[column] = spec
        return dataclasses.replace(self, metrics=kept, not_computed=tuple(missing))

    @property
    def uses_reference(self) -> list[str]:
        """The columns whose metric changes the image by what the reference shows."""
        return [c for c, spec in self.metrics.items() if base.card(spec).uses_reference]

    def padding(self, multiple: int, pad_mode: str) -> tuple[int, str]:
        """Returns the multiple and the mode to pad with, given the model's own.

        Raises:
            ValueError: if `size` is set and is no multiple of the model's.
        """
        if self.size is not None:
            if any(side % multiple for side in self.size):
                height, width = self.size
                raise ValueError(
                    f"Protocol {self.name!r} resizes images to {height} x {width}; "
                    f"this model needs multiples of {multiple}. Use a protocol that "
                    "pads, such as default."
                )
            return 1, self.pad_mode or pad_mode
        return math.lcm(multiple, self.multiple or 1), self.pad_mode or pad_mode

    def finish(self, image: np.ndarray) -> np.ndarray:
        """Converts a model's output [H, W, 3] for the metrics, as `output` says.

        Args:
            image: floating point with 1 as white, uint16, or uint8, returned unchanged.
        """
        if image.dtype == np.uint8 or self.output == "raw":
            return image
        if self.output == "clip":
            return image if image.dtype == np.uint16 else np.clip(image, 0, 1)
        rounding = "truncate" if self.output == "truncate" else "nearest"
        return values.to_levels(image, rounding=rounding)

    def to_levels(self, image: np.ndarray) -> np.ndarray:
        """Returns a model's output as uint8, as this protocol would save it."""
        return values.to_levels(self.finish(image))

    @property
    def needs_target(self) -> bool:
        """Whether any of the metrics compares with a reference."""
        return any(base.card(metric).needs_target for metric in self.metrics.values())

    def check_keys(self, keys: Sequence[str], where: str) -> None:
        """Checks that the records have references if the metrics need them.

        Args:
            keys: the images of the records.
            where: the name of the records in the message.

        Raises:
            ValueError: naming the metrics that need a reference, and those that do not.
        """
        if "target" in keys or not self.needs_target:
            return
        described = {True: [], False: []}
        for column, metric in self.metrics.items():
            text = f"{column} ({base.metric_name(metric)})"
            described[base.card(metric).needs_target].append(text)
        others = [name for name, other in PROTOCOLS.items() if not other.needs_target]
        advice = f", or the protocol {' or '.join(others)}" if others else ""
        raise ValueError(
            f"Protocol {self.name!r} needs references, which {where} does not have. "
            f"Metrics with a reference: {', '.join(described[True])}; without: "
            f"{', '.join(described[False]) or 'none of its metrics'}. Use data with "
            f"references{advice}."
        )

    def scorer(self, constants: dict | None = None) -> base.Scorer:
        """Returns a scorer for many outputs or saved 8-bit images.

        Args:
            constants: a cache shared between scorers, see `metrics.Scorer`.

        Raises:
            FileNotFoundError, ImportError: if a metric's constants cannot be loaded.
        """
        return base.Scorer(self.metrics, prepare=self.finish, constants=constants)

    def score(
        self, image: np.ndarray, target: np.ndarray | None = None
    ) -> dict[str, float]:
        """Returns the value of each available column, for one image.

        Args:
            image: a model's output, or saved 8-bit pixels, [H, W, 3].
            target: the reference, [H, W, 3]; for metrics that compare.

        Raises:
            TypeError, ValueError: as `metrics.compute`.
        """
        constants: dict = {}
        found = self.available(constants, size=np.shape(image)[:2])
        targets = None if target is None else [target]
        return found.scorer(constants)([image], targets)[0]

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields in a plain form, for result files."""
        fields = dataclasses.asdict(self)
        fields |= {"metrics": dict(self.metrics), "gt_mean": dict(self.gt_mean)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }


def _gt_mean(name: str, *, lpips: str = "") -> dict[str, registry.Spec]:
    """Returns the columns of one variant of GT mean."""
    columns = {"psnr_gt_mean": name, "ssim_gt_mean": f"{name}_ssim"}
    return columns | ({"lpips_gt_mean": lpips} if lpips else {})


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="default",
            description="8-bit images, as saved to files; most tables",
            metrics={"psnr": "rgb_uint8", "ssim": "gauss11", "lpips": "lpips_alex"},
            gt_mean=_gt_mean("gtmean"),
        ),
        Protocol(
            name="retinexformer",
            description="Retinexformer's tables, and those of its code family",
            metrics={"psnr": "rgb_float", "ssim": "gauss11"},
            output="clip",
            multiple=4,
            pad_mode="reflect",
            gt_mean=_gt_mean("gtmean_retinexformer"),
        ),
        Protocol(
            name="cidnet",
            description="HVI-CIDNet's tables: pixels truncated to 8 bits",
            metrics={
                "psnr": "rgb_uint8_trunc",
                "ssim": "gauss11",
                "lpips": "lpips_alex",
            },
            output="truncate",
            gt_mean=_gt_mean("gtmean_cidnet", lpips="gtmean_cidnet_lpips"),
        ),
        Protocol(
            name="cidnet_unpaired",
            description="HVI-CIDNet's NIQE of photos without references",
            metrics={"niqe": "niqe_swapped"},
            output="truncate",
            multiple=8,
            pad_mode="reflect",
        ),
        Protocol(
            name="darkir",
            description="DarkIR's tables: floats, neither clipped nor rounded",
            metrics={
                "psnr": {"name": "rgb_float", "clip": False},
                "ssim": {"name": "gauss11", "quantize": False},
                "lpips": "lpips_vgg_unshifted",
            },
            output="raw",
            multiple=8,
            pad_mode="constant",
        ),
        Protocol(
            name="darkir_unpaired",
            description="DarkIR's NIQE of photos without references, nearly",
            metrics={"niqe": "niqe_yiq"},
            multiple=8,
            pad_mode="constant",
        ),
        Protocol(
            name="lednet",
            description="LEDNet's tables and those of LOL-Blur: red and blue swapped",
            metrics={
                "psnr": "rgb_uint8",
                "ssim": {"name": "gauss11_y", "swapped": True},
                "lpips": {"name": "lpips_vgg", "swapped": True},
            },
        ),
        Protocol(
            name="snr",
            description="SNR-Net's tables, LOL-v1, v2-real: the model gets 400 x 608",
            metrics={"psnr": "rgb_uint8", "ssim": "gauss11"},
            size=(400, 608),
        ),
        Protocol(
            name="snr_syn",
            description="SNR-Net's tables, LOL-v2-syn: the model gets 384 x 384",
            metrics={"psnr": "rgb_uint8", "ssim": "gauss11"},
            size=(384, 384),
        ),
        Protocol(
            name="snr_video",
            description="SNR-Net's tables, SID, SMID, SDSD: pairs scored at 512 x 960",
            metrics={"psnr": "rgb_uint8", "ssim": "gauss11"},
            pair_size=(512, 960),
        ),
        Protocol(
            name="llflow",
            description="LLFlow's tables, whose published columns are those of GT mean",
            metrics={
                "psnr": "rgb_uint8_trunc",
                "ssim": "uniform7_gray",
                "lpips": "lpips_alex",
            }
            | _gt_mean("gtmean_llflow", lpips="gtmean_llflow_lpips"),
            output="truncate",
            multiple=2,
            pad_mode="reflect",
            gt_mean=_gt_mean("gtmean_llflow", lpips="gtmean_llflow_lpips"),
        ),
        Protocol(
            name="niqe",
            description="NIQE of photos without references, as saved to files",
            metrics={"niqe": "niqe"},
        ),
    )
}


def get(protocol: "str | Protocol") -> Protocol:
    """Returns a protocol by name; a `Protocol` is returned unchanged.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"Unknown protocol {protocol!r}.{messages.suggest(protocol, PROTOCOLS)} "
            f"Known: {', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[protocol]
