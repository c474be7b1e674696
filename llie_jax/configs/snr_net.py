"""SNR-Net with the authors' recipe, on its seven data sets. Not yet trained.

llie-jax train --config snr_net --workdir runs/snr_net
    --config.data.train.root=data/lol_v1
llie-jax train --config snr_net:data=smid,lfpv=true --workdir runs/snr_net_lfpv
    --config.data.train.root=data/smid

LOL: the rate halves after 50,000, 100,000, 200,000 and 300,000 of the 600,000 steps,
and at the same fractions of a shorter run (--config.stages.s0.steps). LOL-v2's real
pairs train as whole images of 400 x 608, flipped but not rotated.

SID, SMID, SDSD: images are resized to 512 x 960 as they are read, also those that are
scored; training uses whole images (SID) or crops, flipped but not rotated. Whole scenes
are held out, with all takes of them.

The loss is a sum over the pixels of an image. The authors also sum over the batch,
where this is the mean; Adam takes the same steps for both, apart from its eps. The
perceptual term of LOL-v2 and SID needs torchvision's VGG19 weights and is off here, so
that a run needs only the data; --config.loss.terms.perceptual.weight=0.1, the authors'
value (0.02 for LOL-v2's synthetic pairs), turns it on, and the error names the file if
it is missing.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md. Its authors released
`data=smid,lfpv=true`, with a perceptual term on the backbone's output without the bank:
--config.loss.terms.backbone_perceptual.weight=0.1 turns it on.
"""

from typing import Literal, NamedTuple

from llie_jax.configs import base


class Setting(NamedTuple):
    """What differs between the data sets.

    Attributes:
        size: height and width to which training images are resized; (0, 0) keeps the
            size that the data set gives them.
        patch: height and width of the crops.
        batch_size: pairs per step.
        learning_rate: the peak.
        perceptual: whether the loss has a perceptual term.
    """

    size: tuple[int, int]
    patch: tuple[int, int]
    batch_size: int
    learning_rate: float
    perceptual: bool = False


LOL = {
    "lol_v1": Setting((0, 0), (128, 128), 32, 4e-4),
    "lol_v2_real": Setting((400, 608), (400, 608), 4, 4e-4, perceptual=True),
    "lol_v2_syn": Setting((0, 0), (128, 128), 32, 4e-4, perceptual=True),
}
FRAMES = {
    "sid": Setting((0, 0), (512, 960), 2, 1e-4, perceptual=True),
    "smid": Setting((0, 0), (256, 256), 12, 4e-4),
    "sdsd_indoor": Setting((0, 0), (256, 256), 12, 4e-4),
    "sdsd_outdoor": Setting((0, 0), (128, 128), 4, 1e-4),
}


def get_config(
    data: Literal[
        *("lol_v1", "lol_v2_real", "lol_v2_syn"),
        *("sid", "smid", "sdsd_indoor", "sdsd_outdoor"),
    ] = "lol_v1",
    lfpv: bool = False,
):
    """Returns the config."""
    setting = (LOL | FRAMES)[data]
    (height, width), square = setting.patch, setting.patch[0] == setting.patch[1]
    config = base.get_config()
    config.model = base.spec("snr_net")
    config.data.train.name = data
    config.data.train.size = setting.size
    config.data.validation.fraction = 0.05
    config.data.augment.rotate = data in ("lol_v1", "lol_v2_syn")
    config.stages.s0.patch_size = height
    config.stages.s0.patch_width = 0 if square else width
    config.stages.s0.batch_size = setting.batch_size
    config.loss.terms = dict(pixel=base.spec("charbonnier", reduce="sum"))
    if setting.perceptual or (lfpv and data == "smid"):
        config.loss.terms.perceptual = base.spec("vgg19", reduce="sum", weight=0.0)
    config.optimizer = base.spec("adam", learning_rate=setting.learning_rate, b2=0.99)
    if data in LOL:
        config.stages.s0.steps = 600_000
        shares = (1 / 12, 1 / 6, 1 / 3, 1 / 2)
        config.schedule = base.spec("steps", boundaries=shares, factor=0.5)
    else:
        config.stages.s0.steps = 200_000
        config.schedule = base.spec("cosine", kind="schedule", final_rate=1e-7)
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config
