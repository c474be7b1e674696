"""`llie-jax costs`: parameters and MACs of a model."""

import argparse
import dataclasses

from llie_jax.cli import arguments

HELP = "Parameters and multiply-accumulates of a model."
EXAMPLES = """
  llie-jax costs darkir
  llie-jax costs darkir-l --size 400x600
  llie-jax costs '{"name": "darkir", "dilations": [1]}' --json costs.json
"""

RULES = """
MACs: convolutions, linear layers and matrix products. fvcore: as that tool counts the
authors' code, which papers report; it adds PyTorch's own layer norms, resizes and
poolings. Most papers write "G" for 2^30."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument(
        "model", help="a model, a model and its size (darkir-l), or a spec as JSON"
    )
    parser.add_argument(
        "--size",
        default="256x256",
        help="HEIGHTxWIDTH of the image, in pixels",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="also write the numbers to this file"
    )


def run(args: argparse.Namespace) -> None:
    """Prints the costs."""
    size = arguments.size(args.size, "--size")

    import llie_jax
    from llie_jax import costs
    from llie_jax.cli import output

    spec = arguments.model(args.model)
    found = costs.count(spec, size)
    if args.json:
        output.write_json(
            args.json,
            {
                "model": llie_jax.registry.complete_spec(spec),
                **dataclasses.asdict(found),
            },
        )
    height, width = found.size
    print(f"{args.model}, image of {height} x {width}")
    print(f"  parameters    {found.params:>17,}  {found.params / 1e6:9.2f} x 10^6")
    print(
        f"    inference   {found.inference_params:>17,}"
        f"  {found.inference_params / 1e6:9.2f} x 10^6"
    )
    for label, macs in (("MACs", found.macs), ("  fvcore", found.macs_fvcore)):
        print(
            f"  {label:<14}{macs:>17,}  {macs / 1e9:9.2f} x 10^9"
            f"  {macs / 2**30:9.2f} x 2^30"
        )
    print(RULES)
