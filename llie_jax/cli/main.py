"""The `llie-jax` command: its subcommands, and mistakes as one clear line."""

import argparse
import contextlib
import gc
import glob
import importlib
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator

from llie_jax import files, messages
from llie_jax.cli import huge_pages, streams

# Each is a module of this package with HELP, EXAMPLES, `add_arguments` and `run`. Slow
# imports go into `run`: `--help` and mistakes in arguments need none of them.
SUBCOMMANDS = (
    "enhance",
    "train",
    "runs",
    "eval",
    "score",
    "compare",
    "data",
    "models",
    "costs",
    "convert",
    "features",
    "niqe-fit",
    "verify",
    "plan",
    "redundancy",
    "bank",
)


_GOOGLE = "0x1ae0"  # vendor of TPUs on the PCI bus


# What a user's files and arguments can cause; overflow is an ArithmeticError.
_MISTAKES = (
    *(ValueError, TypeError, KeyError, OSError, ImportError),
    *(ArithmeticError, MemoryError, RecursionError),
)


class _Formatter(
    argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
    """Keeps the layout of examples, and shows only informative defaults."""

    def _get_help_string(self, action):
        if action.default in (None, "", False, []):
            return action.help
        return super()._get_help_string(action)


def guarded(function, *args, **kwargs) -> int:
    """Calls `function`; a user's mistake becomes one line on stderr and status 2.

    `LLIE_JAX_TRACEBACK=1` shows the traceback instead.
    """
    _expect_no_tpu()
    # Tracing creates millions of long-lived objects; by default, every 700 of them
    # trigger a garbage collection.
    gc.set_threshold(50_000, *gc.get_threshold()[1:])
    try:
        with _notes_as_lines():
            _keep_compilations()
            return function(*args, **kwargs) or 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except _MISTAKES as error:
        if os.environ.get("LLIE_JAX_TRACEBACK"):
            raise
        message = error.args[0] if isinstance(error, KeyError) else str(error)
        message = " ".join(str(message).split()) or type(error).__name__
        message = messages.printable(message)
        print(f"error: {message}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _notes_as_lines() -> Iterator[None]:
    """Prints each `Note` as one line, without the place in the code."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message, category, *place, **options):
            if issubclass(category, messages.Note):
                print(f"note: {messages.printable(str(message))}", file=sys.stderr)
            else:
                others(message, category, *place, **options)

        warnings.showwarning = show
        warnings.simplefilter("always", messages.Note)
        yield


def _keep_compilations() -> None:
    """Caches compiled programs on disk, unless JAX is configured otherwise.

    Compiling a network takes longer than enhancing a photo.
    """
    variable = "JAX_COMPILATION_CACHE_DIR"
    if variable in os.environ:
        files.path(os.environ[variable])  # JAX would make a local folder named "gs:"
        return
    folder = os.path.join(os.path.expanduser("~"), ".cache", "llie_jax", "xla")
    if "jax" not in sys.modules:
        os.environ[variable] = folder  # read when JAX is imported, if it ever is
        return
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", folder)


def _expect_no_tpu() -> None:
    """Keeps libtpu calm on a machine without a TPU, where it serves `llie-jax plan`.

    It would print errors about a TPU VM that is not there, and ask the metadata server.
    """
    vendors = [pathlib.Path(p) for p in glob.glob("/sys/bus/pci/devices/*/vendor")]
    if glob.glob("/dev/accel*") or any(_GOOGLE in p.read_text() for p in vendors):
        return
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    os.environ.setdefault("TPU_LOG_DIR", "disabled")  # else files in /tmp


def parser() -> argparse.ArgumentParser:
    """Returns the parser with all subcommands."""
    top = argparse.ArgumentParser(
        prog="llie-jax",
        description="Low-light image enhancement in JAX.",
        epilog="COMMAND --help explains a command, with examples.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in SUBCOMMANDS:
        module = importlib.import_module(f"llie_jax.cli.{name.replace('-', '_')}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog="examples:\n" + module.EXAMPLES.strip("\n"),
            formatter_class=_Formatter,
            allow_abbrev=False,  # --config.KEY is no abbreviation of --config
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return top


def program(*first: str) -> int:
    """Runs the command as a program of its own; returns the exit status.

    Args:
        *first: arguments before those of the command line.
    """
    arguments = [*first, *sys.argv[1:]]
    if arguments[:1] == ["train"]:
        huge_pages.use()
    return main(arguments)


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status."""
    streams.make_robust()
    top = parser()
    args, unknown = top.parse_known_args(argv)
    if hasattr(args, "overrides"):
        args.overrides = unknown  # --config.KEY=VALUE; the subcommand checks them
    elif unknown:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    return guarded(_run, args)


def _run(args: argparse.Namespace) -> int | None:
    """Runs a subcommand, after the checks that all of them need.

    Raises:
        ValueError: if a name is empty, as that of an unset variable is (an empty path
            would mean the working directory), or the JSON file would replace another.
    """
    for name, value in vars(args).items():
        values = value if isinstance(value, list) else [value]
        if "" in values and args.parser.get_default(name) != "":
            raise ValueError(f"The argument {name.replace('_', '-')} is empty.")
    if getattr(args, "json", None):
        files.check_json(args.json)
        folder = files.path(args.json).parent
        files.writable_folder(folder, hint="choose another --json", create=False)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(program())
