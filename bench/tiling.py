"""Cost and effect of tiling: memory, time, seams, difference from the untiled result.

python -m bench.tiling --weights runs/darkir_m
python -m bench.tiling --weights W --photo night.jpg --tile 768 --megapixels 24

Enhances a large photo with the defaults of `llie_jax.enhance` and reports the peak
memory of the process; then enhances a 2-megapixel photo with and without tiles. Prints
JSON. A seam ratio is the mean step across tile borders over the mean step across
neighbouring lines (`llie_jax.inference.tiling.seam_ratio`), or across lines of the same
phase on the lattice of the model's strides. The ratios of the untiled result show what
the picture and the model contribute themselves.
"""

import argparse
import json
import resource
import time

import numpy as np
from PIL import Image

import llie_jax.weights
from llie_jax.files import atomic
from llie_jax.inference import photo, tiling
from llie_jax.inference.enhancer import TILE, Enhancer


def make_photo(path: str | None, megapixels: float) -> np.ndarray:
    """Returns a 4:3 photo of about that size, uint8: `path`, or a darkened picture."""
    if path is None:
        from skimage import data

        picture = Image.fromarray((data.astronaut() // 8).astype(np.uint8))
    else:
        picture = Image.fromarray(photo.read(path).image)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    image = np.asarray(picture.resize((height * 4 // 3, height), Image.LANCZOS))
    # Enlarging removes the grain, without which steps beside a seam are too small.
    noise = np.random.default_rng(0).normal(0, 1.5, image.shape).astype(np.float32)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def seams(result: np.ndarray, grid: tiling.Grid, multiple: int) -> dict[str, float]:
    """Returns the seam ratios against all neighbouring lines and lines in phase."""
    all_lines = tiling.seam_ratio(result, grid)
    in_phase = tiling.seam_ratio(result, grid, spacing=multiple)
    return {"seam_ratio": round(all_lines, 3), "in_phase": round(in_phase, 3)}


def peak_memory() -> float:
    """Returns the peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--photo", help="instead of scikit-image's astronaut, darkened")
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--tile", type=int, default=TILE)
    parser.add_argument("--overlap", type=int)
    parser.add_argument("--out", help="also write the JSON here")
    parser.add_argument("--skip-large", action="store_true")
    args = parser.parse_args()
    model, variables = llie_jax.weights.load(args.weights)
    options = {"tile": args.tile, "overlap": args.overlap}
    enhancer = Enhancer(model, variables, **options)
    figures = {"weights": args.weights, **options}

    if not args.skip_large:
        image = make_photo(args.photo, args.megapixels)
        grid = enhancer.plan(image.shape[:2]).grid
        start = time.perf_counter()
        result = enhancer(image)
        figures["large"] = {
            "size": image.shape[:2],
            "tiles": len(grid),
            "seconds": round(time.perf_counter() - start, 1),
            "peak_memory_gb": round(peak_memory(), 2),
            **seams(result, grid, model.multiple),
        }
        del image, result

    image = make_photo(args.photo, 2)
    grid = enhancer.plan(image.shape[:2]).grid
    floats = image / np.float32(255)
    whole = llie_jax.enhance(model, variables, floats, limit=float("inf"))
    figures["two_megapixels"] = {
        "size": image.shape[:2],
        "tiles": len(grid),
        "unit": "8-bit levels",
        "untiled": seams(whole, grid, model.multiple),
    }
    # Models without ADR give the same result twice.
    for name, shared in (("shared_kernels", True), ("kernels_per_tile", False)):
        tiled = llie_jax.enhance(
            model, variables, floats, shared_kernels=shared, **options
        )
        difference = np.abs(tiled - whole) * 255
        figures["two_megapixels"][name] = {
            "mean_difference": round(float(difference.mean()), 3),
            "largest_difference": round(float(difference.max()), 3),
            **seams(tiled, grid, model.multiple),
        }
    text = json.dumps(figures, indent=1)
    print(text)
    if args.out:
        with atomic(args.out) as temporary:
            temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
