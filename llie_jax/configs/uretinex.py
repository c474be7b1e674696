"""URetinex-Net in the authors' three stages, on LOL. Not yet trained.

llie-jax train --config uretinex --workdir runs/decompose
    --config.data.train.root=data/lol_v1
llie-jax train --config uretinex:stage=unfold --workdir runs/unfold
    --config.data.train.root=data/lol_v1 --config.init_from=runs/decompose
llie-jax train --config uretinex:stage=adjust --workdir runs/adjust
    --config.data.train.root=data/lol_v1 --config.init_from=runs/unfold

Each stage is a run, starts from the weights of the one before and freezes what that
stage does not train: first the decompositions of image and reference, then the networks
of the rounds, then the adjustment of the illumination.

Steps, rates and patches are those that the published weights record; losses that these
do not record are those of the code for the successor, URetinex-Net++, since the authors
released none for this model.

The perceptual term of `unfold` needs torchvision's VGG19 weights and is off here, so
that a run needs only the data; --config.loss.terms.perceptual.weight=1.0, the authors'
value, turns it on, and the error names the file if it is missing.

Differs: one run trains both decompositions; the authors train that of references in a
run of its own, for 41,820 steps. In `adjust` the ratio of a patch is that of the
authors' evaluation, and there is no spatial consistency loss, which is the successor's.
Validation scores use the fixed ratio.

`lfpv=true` wraps the model in LFPV, see docs/recipes.md; it makes sense from `unfold`
on.
"""

from typing import Literal

from llie_jax.configs import base
from llie_jax.models.uretinex import PENALTIES

NETWORKS = {
    "decompose": ("decomposition", "reference"),
    "unfold": ("restoration", "illumination"),
    "adjust": ("adjustment",),
}
"""What each stage trains."""


def get_config(
    data: base.LOL = "lol_v1",
    stage: Literal["decompose", "unfold", "adjust"] = "decompose",
    lfpv: bool = False,
):
    """Returns the config."""
    config = base.get_config()
    config.model = base.sized("uretinex", "reference_ratio")
    config.data.train.name = data
    config.data.validation.fraction = 0.05
    config.data.augment.rotate = True
    config.stages.s0.patch_size = 48
    prefix = "backbone/" if lfpv else ""
    others = [name for key in NETWORKS if key != stage for name in NETWORKS[key]]
    freeze = tuple(f"{prefix}{name}/*" for name in others)
    if stage == "unfold":
        config.loss.terms = _unfold_terms(config.model.rounds)
        config.stages.s0.steps, config.stages.s0.batch_size = 246_000, 4
        config.optimizer = base.spec("adam", learning_rate=2e-4, freeze=freeze)
        share = 30_000 / 246_000
        config.schedule = base.spec("steps", boundaries=(share,), factor=0.1)
    else:
        decompose = stage == "decompose"
        config.loss.terms = _decompose_terms() if decompose else _adjust_terms()
        config.stages.s0.steps = 98_000 if decompose else 246_000
        config.stages.s0.batch_size = 10 if decompose else 4
        rate = 1e-4 if decompose else 5e-5
        config.optimizer = base.spec(
            "adam", learning_rate=rate, b1=0.99, b2=0.9, freeze=freeze
        )
        config.schedule = base.spec("constant")
    config.log.every_steps = 100
    config.evaluate.every_steps = 1000
    config.checkpoint.every_steps = 1000
    return base.add_lfpv(config) if lfpv else config


def _compare(loss: str, on: str, against: str, weight: float = 1.0):
    """Returns the spec of a term on an entry of `aux`."""
    return base.spec(loss, kind="loss", on=f"aux.{on}", against=against, weight=weight)


def _decompose_terms():
    return dict(
        pixel=_compare("l1", "recomposed", "image"),
        illumination=_compare("mse", "auxiliary_illumination_0", "aux.brightest", 0.1),
        reference=_compare("l1", "reference_recomposed", "target"),
        reference_illumination=_compare(
            "mse", "reference_illumination", "aux.reference_brightest", 0.1
        ),
        reference_smoothness=_compare(
            "structure_aware", "reference_illumination", "aux.reference_gray", 0.1
        ),
    )


def _unfold_terms(rounds: int):
    reference = ("reflectance", "aux.reference_reflectance")
    return dict(
        pixel=_compare("mse", *reference),
        ssim=_compare("ssim", *reference),
        # Off: needs VGG19's weights. The authors' weight is 1.
        perceptual=_compare("vgg19", *reference, 0.0),
        smoothness=base.spec("variation", on="aux.illumination", power=2, weight=20.0),
        # The penalties of the alternating minimisation.
        **{
            f"{name}_{t}": _compare(
                "mse", f"auxiliary_{name}_{t}", f"aux.{name}_{t}", start + step * t
            )
            for name, (start, step) in PENALTIES.items()
            for t in range(rounds)
        },
    )


def _adjust_terms():
    return dict(
        pixel=base.spec("mse"),
        gradient=_compare("gradient", "adjusted", "aux.illumination"),
    )
