"""`llie-jax niqe-fit`: pristine parameters of NIQE from a folder of photos."""

import argparse

HELP = "Fit the pristine parameters of NIQE to a folder of sharp, undistorted photos."
EXAMPLES = """
  llie-jax niqe-fit pristine_photos
  llie-jax niqe-fit pristine_photos --out niqe.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="100 photos or more, of at least 96 x 96 pixels",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="where to write the parameters, .npz; default: niqe.npz in "
        "~/.cache/llie_jax, where the metrics look for them",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the niqe.npz that is there"
    )


def run(args: argparse.Namespace) -> None:
    """Fits the parameters and writes them."""
    from llie_jax import files
    from llie_jax.features import weights
    from llie_jax.image import io
    from llie_jax.metrics import niqe

    out = files.path(args.out) if args.out else weights.places(niqe.FILE)[-1]
    if out.suffix != ".npz":
        raise ValueError(f"The parameters are written to a .npz; got {out}.")
    if not args.out and out.exists() and not args.overwrite:
        raise FileExistsError(
            f"{out} exists, and may hold the original parameters; choose another file "
            "with --out, or replace it with --overwrite."
        )
    photos = io.list_images(args.folder)
    files.check_output(out, photos)
    files.writable_folder(out.parent)
    mean, covariance = niqe.fit(map(io.read_rgb, photos))
    origin = f"fitted to {len(photos)} photos"
    niqe.save_parameters(out, mean, covariance, origin)
    print(f"{out}: {origin}")
    print("Scores with them are not comparable with those of papers, and are marked.")
