"""Speed and memory of ADR's kernel generators: explicit bases against the closed form.

python -m bench.pog
python -m bench.pog --batch 2 --repeats 3

Runs all generators of the full Restormer with the paper's settings: 20 ADR modules with
two generators each, Dm 4 and De 64. The explicit form builds every basis from its
embedding, once per batch, and weights its vectors; both forms take the same parameters,
and a check asserts that they give the same kernels. The compiled forms alternate, and
the shortest time of each is reported. Memory is XLA's temporary memory. Prints a table
and writes bench/results/pog.json.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bench import timing
from llie_jax.nn import pog

RESULTS = timing.RESULTS / "pog.json"

WIDTH, EMBEDDING = 4, 64
CHANNELS = 6 * [576] + 14 * [288]  # of query, key and value: decoder and refinement


def explicit_kernel(params, pooled):
    """Returns the kernel values [B, N] from the paper's equations, with all bases."""
    mix = pooled @ params["mix_in"]["kernel"] + params["mix_in"]["bias"]
    mix = nn.gelu(mix, approximate=True)
    weights = nn.softmax(mix @ params["mix_out"]["kernel"] + params["mix_out"]["bias"])
    basis = pog.householder_basis(params["embedding"])
    vectors = jnp.einsum("bj,njd->bnd", weights, basis)
    hidden = vectors @ params["decode_in"]["kernel"] + params["decode_in"]["bias"]
    values = nn.gelu(hidden, approximate=True) @ params["decode_out"]["kernel"]
    return values[..., 0] + params["decode_out"]["bias"]


def closed_kernel(features):
    """Returns the package's module as a function with the same result."""
    module = pog.OrthogonalConv(features, embedding_dim=EMBEDDING)

    def kernel(params, pooled):
        values = module.apply({"params": params}, pooled, method="kernel")
        return values.transpose(0, 4, 3, 1, 2).reshape(len(pooled), -1)

    return kernel


def generators(batch):
    """Returns the parameters and mean features of all generators."""
    params, pooled = [], []
    for place, channels in enumerate(CHANNELS):
        for inputs, features in ((channels, WIDTH), (WIDTH, channels)):
            rng = jax.random.fold_in(jax.random.key(0), 2 * place + (inputs == WIDTH))
            module = pog.OrthogonalConv(features, embedding_dim=EMBEDDING)
            mean = jax.random.normal(rng, (batch, inputs))
            params.append(module.init(rng, mean, method="kernel")["params"])
            pooled.append(mean)
    return params, pooled


def forms():
    """Returns {name: function of (params, pooled) -> all kernel values}."""

    def explicit(params, pooled):
        return [explicit_kernel(p, x) for p, x in zip(params, pooled, strict=True)]

    def closed(params, pooled):
        return [
            closed_kernel(len(p["embedding"]) // x.shape[-1])(p, x)
            for p, x in zip(params, pooled, strict=True)
        ]

    return {"explicit": explicit, "closed": closed}


def with_gradient(function):
    """Returns the gradient of the function with respect to all parameters."""

    def total(params, pooled):
        return sum(jnp.sum(jnp.square(values)) for values in function(params, pooled))

    return jax.grad(total)


def measure(functions, arguments, repeats):
    """Returns {name: {"ms", "temporary_mib"}}, running the functions alternately."""
    compiled = {
        name: jax.jit(function).lower(*arguments).compile()
        for name, function in functions.items()
    }
    times = timing.in_turns(
        {name: functools.partial(run, *arguments) for name, run in compiled.items()},
        repeats,
    )
    return {
        name: {
            "ms": min(times[name]),
            "temporary_mib": run.memory_analysis().temp_size_in_bytes / 2**20,
        }
        for name, run in compiled.items()
    }


def main():
    """Runs the benchmark and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    arguments = generators(args.batch)
    both = forms()
    for one, other in zip(
        *(jax.jit(f)(*arguments) for f in both.values()), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    rows = {"forward": measure(both, arguments, args.repeats)}
    gradients = {name: with_gradient(function) for name, function in both.items()}
    rows["gradient"] = measure(gradients, arguments, args.repeats)
    for what, row in rows.items():
        explicit, closed = row["explicit"], row["closed"]
        row["faster"] = explicit["ms"] / closed["ms"]
        row["less_memory"] = explicit["temporary_mib"] / closed["temporary_mib"]
        for name in ("explicit", "closed"):
            found = row[name]
            print(
                f"{what:9}{name:9}{found['ms']:9.1f} ms"
                f"{found['temporary_mib']:9.1f} MiB"
            )
        print(
            f"{what:9}{row['faster']:.1f} x faster, {row['less_memory']:.1f} x less "
            "memory"
        )
    result = {
        **timing.machine(),
        "batch": args.batch,
        "values": sum(x["embedding"].shape[0] for x in arguments[0]),
        **rows,
    }
    timing.write(RESULTS, result)


if __name__ == "__main__":
    main()
