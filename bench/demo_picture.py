"""Makes docs/demo.jpg: photographs before and after, at full size.

make demo && .venv/bin/python -m bench.demo_picture

From left to right: the darkened photograph, the result of the model that `make demo`
trained, that of the weights that ship (left out in a copy without them), the original.
The photographs come with scikit-image; `llie_jax.evaluation.showcase` names them.
"""

import argparse
import pathlib

import numpy as np

from llie_jax import weights
from llie_jax.evaluation import showcase
from llie_jax.image import io
from llie_jax.inference.enhancer import Enhancer

CROPS = {
    "coffee.png": (100, 150),
    "chelsea.png": (20, 90),
}
"""The photographs shown, and the first row and column of what is shown."""

SIZE = (240, 300)


def crop(image: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    row, column = start
    return image[row : row + SIZE[0], column : column + SIZE[1]]


def picture(enhancers: list[Enhancer]) -> np.ndarray:
    """Returns one row for each photograph, uint8."""
    rows = []
    for photograph in showcase.PHOTOGRAPHS:
        start = CROPS.get(photograph.file)
        if start is None or photograph.exposure == 1:
            continue
        dark, original = showcase.darkened(photograph)
        columns = [dark, *(enhance(dark) for enhance in enhancers), original]
        rows.append(np.concatenate([crop(each, start) for each in columns], axis=1))
    return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default="runs/demo", help="the run of `make demo`")
    parser.add_argument("--out", type=pathlib.Path, default="docs/demo.jpg")
    args = parser.parse_args()
    enhancers = [Enhancer(*weights.load(args.run))]
    if weights.shipped.names():
        enhancers.append(Enhancer(*weights.load(), gate=True))
    io.write_image(args.out, picture(enhancers), quality=88)
    print(args.out)


if __name__ == "__main__":
    main()
