"""How sure a difference between two models on the same images is."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 9999
_NUMBERS_AT_ONCE = 2_000_000  # resampled numbers in memory
_FEW = 50
"""Below this many images, a reader is told that they decide little."""


@dataclasses.dataclass(frozen=True)
class Paired:
    """Differences of the scores of the same images, first model minus second.

    Attributes:
        count: images with a finite difference; those of mean and interval.
        left_out: the other images: one score is infinite, or both are.
        mean: mean difference; None without images.
        low: lower end of the bootstrap interval of the mean; None below two images.
        high: its upper end.
        better: images on which the first model is better.
        worse: images on which it is worse.
        p: of the two-sided sign test: how likely a split as uneven is if either model
            is better with equal chance. Ties are left out. None without images.
    """

    count: int
    left_out: int
    mean: float | None
    low: float | None
    high: float | None
    better: int
    worse: int
    p: float | None


def paired(
    first: Sequence[float], second: Sequence[float], *, higher_is_better: bool = True
) -> Paired:
    """Compares two models' scores of the same images.

    The interval is the bias-corrected and accelerated bootstrap (BCa) over images; its
    random numbers are fixed.

    Source: Efron, Better Bootstrap Confidence Intervals, JASA 1987; SciPy's code.

    Args:
        first: the scores of one model.
        second: those of another, in the same order.
        higher_is_better: whether larger scores are better.
    """
    from scipy import stats  # takes a second to import

    with np.errstate(invalid="ignore"):  # infinity minus infinity
        differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    finite = differences[np.isfinite(differences)]
    # An infinite difference still has a sign.
    signs = np.sign(differences[~np.isnan(differences)])
    signs = signs if higher_is_better else -signs
    better, worse = int((signs > 0).sum()), int((signs < 0).sum())
    low = high = None
    if len(finite) > 1 and np.ptp(finite) == 0:
        low = high = float(finite[0])
    elif len(finite) > 1:
        with warnings.catch_warnings():
            # Nearly constant differences; the interval may then be undefined.
            warnings.simplefilter("ignore")
            interval = stats.bootstrap(
                (finite,),
                np.mean,
                n_resamples=_RESAMPLES,
                confidence_level=CONFIDENCE,
                method="BCa",
                batch=max(1, _NUMBERS_AT_ONCE // len(finite)),
                rng=np.random.default_rng(0),
            ).confidence_interval
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            low, high = float(interval.low), float(interval.high)
    return Paired(
        count=len(finite),
        left_out=len(differences) - len(finite),
        mean=float(finite.mean()) if len(finite) else None,
        low=low,
        high=high,
        better=better,
        worse=worse,
        p=(
            float(stats.binomtest(better, better + worse).pvalue)
            if better + worse
            else (1.0 if len(finite) else None)
        ),
    )


def caution(fewest: int, most: int) -> str:
    """Returns what a reader should bear in mind.

    Args:
        fewest: the smallest number of images of a comparison.
        most: the largest.
    """
    images = f"{most} image{'' if most == 1 else 's'}"
    if fewest < most:
        images = f"{fewest} to {images}"
    text = "The interval covers the choice of images, not that of the training seed."
    if fewest < _FEW:
        text = (
            f"{images} decide{'s' if most == 1 else ''} little: other images of the "
            f"same kind may turn a small difference round. {text}"
        )
    if fewest < 6:
        least = 2.0 ** (1 - fewest)
        text += f" With {fewest} the sign test cannot fall below {least:g}."
    return text
