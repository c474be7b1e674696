"""Photos of many sizes through `llie_jax.enhance`; run by test_enhancer.

Prints one JSON line: memory after each photo in MB, programs alive, and the largest
difference from the model applied without an enhancer.
"""

import json
import resource
import sys

import jax
import numpy as np

import llie_jax
from llie_jax.inference import padding, programs
from llie_jax.models.base import variable_shapes
from tests.inference import toys


def memory() -> float:
    """Returns the memory that this process has now, in MB."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * resource.getpagesize() / 1e6


def direct(model, variables, image):
    """Returns the expected result of `enhance`."""
    padded, size = padding.pad_to_multiple(image, model.multiple, model.pad_mode)
    output = model.apply(variables, padded[None].astype(np.float32) / 255).image[0]
    output = np.clip(padding.crop(np.asarray(output), size), 0, 1)
    return np.rint(255 * output).astype(np.uint8)


def main():
    """Prints one JSON line."""
    model = toys.Convolutions()
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(leaf.dtype),
        variable_shapes(model),
    )
    used, alive, chosen = [], [], []
    for number in range(int(sys.argv[1])):
        size = 33 + 8 * (number % 15), 30 + 8 * (number // 15)
        image = rng.integers(0, 200, (*size, 3)).astype(np.uint8)
        result = llie_jax.enhance(model, variables, image)
        if number % 60 == 0:
            chosen.append((image, result))
        used.append(memory())
        alive.append(len(programs.PROGRAMS))
    # Last, because each size applied directly takes memory of its own.
    difference = max(
        int(np.abs(result.astype(int) - direct(model, variables, image)).max())
        for image, result in chosen
    )
    print(json.dumps({"memory": used, "alive": alive, "difference": difference}))


if __name__ == "__main__":
    main()
