"""A small CIDNet or Retinexformer for the study: a run takes minutes.

llie-jax train --config bench/study_small.py:reallocate=orthogonal --workdir runs/pog
    --config.data.train.root=data/lol_v1
llie-jax train --config bench/study_small.py:backbone=retinexformer,lfpv=paper
    --workdir runs/lfpv --config.data.train.root=data/lol_v1

The size `small` of each backbone, few and small crops; all arms share loss and learning
rate. The width 8 of ADR is a fourth of the paper's, as the widths are a third to a
fifth; Retinexformer has fewer blocks, too.
"""

from typing import Literal

from llie_jax.configs import base


def get_config(
    backbone: Literal["cidnet", "retinexformer"] = "cidnet",
    reallocate: Literal["", "static", "dynamic", "orthogonal"] = "",
    gain: float = 8.0,
    zero_start: bool = True,
    lfpv: Literal["", "released", "paper"] = "",
):
    """Returns the config.

    Args:
        backbone: the network.
        reallocate: the kernels of ADR; "" for none.
        gain: `decoder_gain` of orthogonal kernels.
        zero_start: see `llie_jax.nn.adr`.
        lfpv: the update rule of a bank around the network; "" for none.
    """
    config = base.get_config()
    fields = dict(base.card(backbone).sizes["small"])
    if reallocate:
        conv = {"name": reallocate}
        if reallocate == "orthogonal":
            conv |= {"embedding_dim": 16, "decoder_gain": gain}
        fields["reallocate"] = {
            "name": "adr",
            "width": 8,
            "zero_start": zero_start,
            "conv": conv,
        }
    config.model = base.spec(backbone, kind="model", **fields)
    config.data.train.name = "lol_v1"
    config.data.validation.fraction = 0.06
    config.stages.s0 = dict(steps=400, patch_size=64, batch_size=4)
    config.loss.terms = dict(pixel=base.spec("l1"), ssim=base.spec("ssim", weight=0.5))
    config.optimizer = base.spec("adam", learning_rate=1e-3, clip_norm=1.0)
    config.schedule = base.spec("cosine", kind="schedule", warmup_steps=50)
    config.ema.decay = 0.99
    config.log.every_steps = 50
    config.evaluate.every_steps = 400
    config.checkpoint.every_steps = 100
    return base.add_lfpv(config, update_rule=lfpv) if lfpv else config
