"""What the exposure gate does with the weights that ship, or others.

python -m bench.gate --root data/lol_v1
python -m bench.gate --root data/lol_v1 --split test --weights W

Prints JSON: how many times brighter the network makes dark and normal images of LOL-v1
(the gate closes below `gate.CLOSED` and is open above `gate.OPEN`); how close normally
exposed images, and scikit-image's photographs, stay to themselves with the gate; and
the brightness of photographs at 12 exposures, where a good gate shows no fall and no
jump. Images are halved, which changes none of this. The limits were chosen on the
training split.
"""

import argparse
import json

import numpy as np
from PIL import Image

from llie_jax import data, weights
from llie_jax.data import synthetic
from llie_jax.inference.enhancer import Enhancer

PHOTOGRAPHS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png"),
    *("rocket.jpg", "camera.png"),
)
EXPOSURES = np.geomspace(0.05, 1, 12)
SIZE = (296, 200)
"""Width and height of what is enhanced: one size compiles once."""


def small(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("RGB").resize(SIZE, Image.BOX))


def enhanced(enhancer: Enhancer, image: np.ndarray):
    """Returns the result and what the gate measured."""
    exposures = []
    return enhancer(image, measured=exposures.append), exposures[0]


def spread(values) -> dict[str, float]:
    levels = (0, 5, 50, 95, 100)
    found = np.percentile(list(values), levels)
    return {f"{p} %": round(float(x), 3) for p, x in zip(levels, found, strict=True)}


def kept(enhancer: Enhancer, images) -> dict:
    """Returns how close images stay to themselves."""
    errors, gains = [], []
    for image in images:
        result, exposure = enhanced(enhancer, image)
        errors.append(np.square(result.astype(float) - image).mean())
        gains.append(exposure.gain)
    psnr = 10 * np.log10(255**2 / np.maximum(errors, 1e-2))  # at most 68 dB
    return {
        "gain": spread(gains),
        "psnr": spread(psnr),
        "mean_psnr": round(float(psnr.mean()), 2),
        "share_above_30_db": round(float((psnr >= 30).mean()), 3),
    }


def family(enhancer: Enhancer, image: np.ndarray) -> dict:
    """Returns the mean level of a photo at 12 exposures, as it is and enhanced."""
    dark = [synthetic.darken(image, exposure=e) if e < 1 else image for e in EXPOSURES]
    after = [enhanced(enhancer, each)[0].mean() for each in dark]
    steps = np.diff(after)
    return {
        "before": [round(float(each.mean())) for each in dark],
        "after": [round(float(each)) for each in after],
        "largest_fall": round(float(max(0, -steps.min())), 1),
        "largest_rise": round(float(steps.max()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", required=True, help="the folder of LOL-v1")
    parser.add_argument("--split", default="train")
    parser.add_argument("--weights", help="default: those that ship")
    parser.add_argument("--every", type=int, default=1, help="use each n-th image")
    args = parser.parse_args()
    enhancer = Enhancer(*weights.load(args.weights), gate=True)
    source = data.open_source("lol_v1", root=args.root, split=args.split)
    numbers = range(0, len(source), args.every)
    folder = synthetic.photographs()
    photos = [small(np.asarray(Image.open(folder / name))) for name in PHOTOGRAPHS]
    dark = [enhanced(enhancer, small(source.image(n, "image")))[1] for n in numbers]
    found = {
        "dark": {
            "gain": spread(each.gain for each in dark),
            "full_effect": round(np.mean([each.share == 1 for each in dark]), 3),
        },
        "normal": kept(enhancer, (small(source.image(n, "target")) for n in numbers)),
        "photographs": kept(enhancer, photos),
        "exposures": {
            name: family(enhancer, photo)
            for name, photo in zip(PHOTOGRAPHS, photos, strict=True)
        },
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
