"""Speed and memory of the layers, compared with plain XLA.

python -m bench.layers
python -m bench.layers --only sum --clock cpu

The shapes are those of DarkIR-m at 256x256. The two forms alternate, and the shortest
time of each is reported. Times are in milliseconds, memory is XLA's temporary memory in
MiB, ratios are plain over ours. Prints a table and writes bench/results/layers.json.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench import timing
from llie_jax.nn import conv_kernels, layers, norms

RESULTS = timing.RESULTS / "layers.json"


def plain_conv(x, kernel, *, strides=1, dilation=1, groups=1):
    padding = [
        (dilation * (k // 2),) * 2 if k % 2 else (0, 0) for k in kernel.shape[:2]
    ]
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def plain_layer_norm(x, params):
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * lax.rsqrt(variance + 1e-6) * params["scale"] + params["bias"]


def depthwise(shape, dilation):
    channels = shape[-1]
    return (
        f"depthwise, dilation {dilation}",
        shape,
        (3, 3, 1, channels),
        lambda x, k: plain_conv(x, k, dilation=dilation, groups=channels),
        lambda x, k: conv_kernels.grouped_conv(
            x, k, groups=channels, dilation=dilation
        ),
    )


def pairs(shape):
    groups = shape[-1] // 2
    return (
        "grouped, 2 in and 2 out",
        shape,
        (3, 3, 2, shape[-1]),
        lambda x, k: plain_conv(x, k, groups=groups),
        lambda x, k: conv_kernels.grouped_conv(x, k, groups=groups),
    )


def depthwise_sum(shape, dilations=(1, 4, 9)):
    channels = shape[-1]
    return (
        "sum of depthwise, dilations 1, 4, 9",
        shape,
        [(3, 3, 1, channels)] * len(dilations),
        lambda x, ks: sum(
            plain_conv(x, k, dilation=d, groups=channels)
            for k, d in zip(ks, dilations, strict=True)
        ),
        lambda x, ks: conv_kernels.summed_depthwise(x, ks, dilations=dilations),
    )


def dense(name, shape, size, features, **options):
    module = layers.Conv(features, (size, size), use_bias=False, **options)
    return (
        name,
        shape,
        (size, size, shape[-1], features),
        lambda x, k: plain_conv(x, k, strides=options.get("strides", 1)),
        lambda x, k: module.apply({"params": {"kernel": k}}, x),
    )


def layer_norm(shape):
    return (
        "layer norm",
        shape,
        {"scale": shape[-1:], "bias": shape[-1:]},
        plain_layer_norm,
        lambda x, params: norms.LayerNorm().apply({"params": params}, x),
    )


LEVELS = [(1, 256 // 2**i, 256 // 2**i, 64 * 2**i) for i in range(4)]
BATCHES = [(4, 64, 64, 64), (4, 32, 32, 128)]
DENSE = [(8, 128, 128, 32), (8, 64, 64, 64), (8, 32, 32, 128), (2, 128, 128, 36)]
HALVES = [(*shape[:3], shape[3] // 2) for shape in LEVELS]


def cases():
    """Yields (name, shape of x, shapes of the parameters, plain, ours)."""
    for shape in LEVELS + BATCHES:
        for dilation in (1, 4, 9):
            yield depthwise(shape, dilation)
    for shape in HALVES:
        yield depthwise(shape, 1)
    for shape in LEVELS + BATCHES:
        yield pairs(shape)
    for shape in LEVELS + BATCHES:
        yield depthwise_sum(shape)
    for shape in HALVES:
        yield dense("1x1", shape, 1, 2 * shape[-1])
    for shape in HALVES[:3]:
        yield dense("2x2 of stride 2", shape, 2, 2 * shape[-1], strides=2, padding=0)
    yield dense("3x3, 32 to 3", (1, 256, 256, 32), 3, 3)
    for shape in DENSE:
        yield dense(f"3x3, {shape[-1]} to {shape[-1]}", shape, 3, shape[-1])
    for channels in (3, 6):
        yield dense(
            f"3x3, {channels} to {channels}", (1, 256, 256, channels), 3, channels
        )
    for shape in HALVES:
        yield layer_norm(shape)


def with_gradient(function):
    """Returns a function of (x, params, cotangent): the value and both gradients."""

    def run(x, params, cotangent):
        y, pullback = jax.vjp(function, x, params)
        return y, pullback(cotangent)

    return run


def measure(plain, ours, args, **options):
    """Returns (shortest milliseconds, temporary MiB) of both functions."""
    compiled = {
        name: jax.jit(function).lower(*args).compile()
        for name, function in (("plain", plain), ("ours", ours))
    }
    times = timing.in_turns(
        {name: functools.partial(run, *args) for name, run in compiled.items()},
        **options,
    )
    return [
        (min(times[name]), run.memory_analysis().temp_size_in_bytes / 2**20)
        for name, run in compiled.items()
    ]


def random(rng, shapes):
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=is_shape,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="stop repeating a form after this"
    )
    timing.add_clock(parser)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    options = dict(repeats=args.repeats, seconds=args.seconds, clock=args.clock)

    rows = []
    print(f"{'':36}{'shape':>18}  forward: plain   ours  ratio   with gradient:")
    for name, shape, param_shapes, plain, ours in cases():
        if args.only not in name:
            continue
        rng = np.random.default_rng(0)
        x, params = random(rng, shape), random(rng, param_shapes)
        cotangent = random(rng, jax.eval_shape(plain, x, params).shape)
        row = {"name": name, "shape": shape}
        for part, functions, inputs in (
            ("forward", (plain, ours), (x, params)),
            (
                "gradient",
                (with_gradient(plain), with_gradient(ours)),
                (x, params, cotangent),
            ),
        ):
            (slow, slow_memory), (fast, fast_memory) = measure(
                *functions, inputs, **options
            )
            row[part] = {
                "plain_ms": round(slow, 3),
                "ours_ms": round(fast, 3),
                "ratio": round(slow / fast, 2),
                "plain_mib": round(slow_memory, 1),
                "ours_mib": round(fast_memory, 1),
            }
        rows.append(row)
        cells = [
            f"{row[part]['plain_ms']:9.2f} {row[part]['ours_ms']:6.2f} "
            f"{row[part]['ratio']:6.1f}"
            for part in ("forward", "gradient")
        ]
        print(f"{name:36}{'x'.join(map(str, shape)):>18}  {'       '.join(cells)}")

    report = {
        **timing.machine(),
        "clock": args.clock,
        "unit": "milliseconds; temporary memory in MiB",
        "rows": rows,
    }
    timing.write(args.out, report)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
