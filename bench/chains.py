"""Time of plain convolutional networks beside PyTorch: chains of four 3x3 layers.

python -m bench.chains
python -m bench.chains --only 32x128

Forward and all gradients of four convolutions with ReLU, in turns with PyTorch (extra
`torch`), on two threads. Prints a table and writes bench/results/chains.json.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bench import peer, timing
from llie_jax.nn import layers

CASES = {
    f"{channels}x{size}": (batch, size, channels)
    for batch, size, channels in (
        (8, 128, 12),
        (4, 128, 24),
        (8, 128, 32),
        (2, 256, 32),
        (8, 64, 64),
        (8, 32, 128),
    )
}
"""CHANNELSxSIZE -> batch, size, channels."""

_DEPTH = 4


class Chain(nn.Module):
    """Four convolutions that keep the number of channels, each with ReLU."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns features of the same shape as `x`, [B, H, W, channels]."""
        for _ in range(_DEPTH):
            x = nn.relu(layers.Conv(self.channels)(x))
        return x


def here(values: np.ndarray):
    """Returns a function without arguments: loss and gradients of the chain."""
    model = Chain(values.shape[-1])
    x = jnp.asarray(values)
    params = jax.jit(model.init)(jax.random.key(0), x[:1, :8, :8])
    run = jax.jit(
        jax.value_and_grad(lambda params, x: model.apply(params, x).mean(), (0, 1))
    )
    return lambda: run(params, x)


def there(values: np.ndarray):
    """The same in PyTorch."""
    import torch

    channels = values.shape[-1]
    model = torch.nn.Sequential(
        *(
            part
            for _ in range(_DEPTH)
            for part in (
                torch.nn.Conv2d(channels, channels, 3, padding=1),
                torch.nn.ReLU(),
            )
        )
    )
    x = torch.from_numpy(values.transpose(0, 3, 1, 2).copy()).requires_grad_()

    def run():
        model.zero_grad()
        x.grad = None
        model(x).mean().backward()

    return run


def main() -> None:
    """Runs the benchmark and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--out", type=pathlib.Path, default=timing.RESULTS / "chains.json"
    )
    args = parser.parse_args()
    peer.restrict_threads(args.threads)
    rows = {}
    for name, (batch, size, channels) in CASES.items():
        if args.only not in (None, name):
            continue
        shape = (batch, size, size, channels)
        values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        times = timing.in_turns(
            {"here": here(values), "torch": there(values)}, args.repeats, pause=0.05
        )
        ratio = timing.Ratio.of(times["here"], times["torch"])
        medians = {key: float(np.median(found)) for key, found in times.items()}
        rows[name] = {"batch": batch, **medians, "ratio": ratio.median}
        print(
            f"{channels:4} channels, {batch} x {size} x {size}: here "
            f"{medians['here']:7.1f} ms   PyTorch {medians['torch']:7.1f} ms   "
            f"ratio {ratio}",
            flush=True,
        )
    timing.write(args.out, {**timing.machine(), "milliseconds": rows})


if __name__ == "__main__":
    main()
