"""Time of a model beside the official PyTorch module, in turns in one run.

A forward pass is inference; a training step is the L1 loss of the image, its gradient
and an AdamW update, here as `llie-jax train` runs it. Both sides have the same sizes,
threads and dtype, and random weights. bfloat16 is `dtype=bfloat16` here and autocast in
PyTorch, so parameters are float32 on both sides. A ratio is the time here over
PyTorch's: below 1, this project is faster. In brackets are the quartiles of the ratios
of neighbouring runs. Both sides have huge pages of memory where `llie-jax train` has.

FILE is the official source file, or an adapter: a file of yours that changes what
does not fit, such as a `forward` with other arguments. Its folder can be imported from.
"""

import argparse
import contextlib
import importlib.util
import os
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

EXAMPLES = """
examples:
  python -m bench.peer --torch-module archs/DarkIR.py:DarkIR --model darkir
      --forward 1x256x256 1x400x600 --step 2x128x128
  python -m bench.peer --torch-module RetinexFormer_arch.py:RetinexFormer
      --torch-args '{"stage": 1, "n_feat": 40, "num_blocks": [1, 2, 2]}'
      --model retinexformer --forward 1x256x256
  python -m bench.peer --torch-module adapter.py:ZeroDCE --output 1 --model zero_dce
      --forward 8x512x512 --device gpu --dtype float32 bfloat16
      --torch-mode eager compile --out zero_dce.json
"""
DTYPES = ("float32", "bfloat16")
MODES = ("eager", "compile")
HERE = "here"


def parse_module(text: str) -> tuple[pathlib.Path, str]:
    """Returns the file and the class of FILE:CLASS.

    Raises:
        ValueError: if it is something else, or there is no such file.
    """
    file, _, name = text.rpartition(":")
    if not file or not name.isidentifier():
        raise ValueError(
            f"--torch-module is {text!r}; give FILE:CLASS, for example "
            "archs/DarkIR.py:DarkIR."
        )
    path = pathlib.Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"--torch-module: there is no file {file}.")
    return path, name


def parse_case(text: str) -> tuple[int, int, int]:
    """Returns (batch, height, width) of BATCHxHEIGHTxWIDTH.

    Raises:
        ValueError: if it is something else.
    """
    try:
        batch, height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        batch = 0
    if batch < 1 or min(height, width) < 1:
        raise ValueError(
            f"A case is {text!r}; give BATCHxHEIGHTxWIDTH, for example 2x128x128."
        )
    return batch, height, width


def import_class(path: pathlib.Path, name: str) -> Callable[..., Any]:
    """Returns a class of a file, whose folder joins the import path.

    Raises:
        ImportError: if the file imports what is not installed, or has no such class.
    """
    sys.path.insert(0, str(path.parent.absolute()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    # As after an ordinary import: dataclasses and pickles look the module up by name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = vars(module).get(name)
    if found is None:
        classes = [k for k, v in vars(module).items() if isinstance(v, type)]
        raise ImportError(f"{path} has no {name!r}. Classes: {', '.join(classes)}.")
    return found


def pick_image(result: Any, index: int | None) -> Any:
    """Returns the image among what a module returns.

    Args:
        result: a tensor, or a tuple, list or dict of tensors and others.
        index: its place; None takes the largest tensor with three channels, the first
            of equals.

    Raises:
        ValueError: if there is no such output.
    """
    if isinstance(result, dict):
        result = list(result.values())
    if not isinstance(result, tuple | list):
        return result
    if index is not None:
        if not -len(result) <= index < len(result):
            raise ValueError(f"--output is {index}; there are {len(result)} outputs.")
        return result[index]
    images = [
        each for each in result if getattr(each, "ndim", 0) == 4 and each.shape[1] == 3
    ]
    if not images:
        raise ValueError("No output is an image [B, 3, H, W]; use an adapter.")
    return max(images, key=lambda image: image.shape[-1] * image.shape[-2])


def count(tree: Any) -> int:
    """Returns the number of values in a tree of arrays."""
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def restrict_threads(threads: int) -> None:
    """Leaves this process so many cores; call it before JAX starts its threads.

    Raises:
        ValueError: if the machine has fewer.
    """
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise ValueError(f"--threads is {threads}; this machine has {len(cores)}.")
    os.sched_setaffinity(0, cores[:threads])


class Peer:
    """The official module, with what the timings need.

    Args:
        module: the module.
        device: a PyTorch device.
        output: see `pick_image`.
    """

    def __init__(self, module, device: str, output: int | None):
        self._module = module.to(device)
        self._device = device
        self._output = output

    @property
    def parameters(self) -> int:
        """The number of parameters, of which those shared count once."""
        return sum(each.numel() for each in self._module.parameters())

    def _images(self, batch: int, height: int, width: int):
        import torch

        torch.manual_seed(0)
        return 0.2 * torch.rand(batch, 3, height, width, device=self._device)

    def _runner(self, mode: str, dtype: str) -> Callable[[Any], Any]:
        """Returns the module as a function of images, compiled or not."""
        import torch

        torch._dynamo.reset()  # else a shape after another compiles for any shape
        module = torch.compile(self._module) if mode == "compile" else self._module

        def run(images):
            lower = dtype == "bfloat16"
            with torch.autocast(self._device, torch.bfloat16, enabled=lower):
                return pick_image(module(images), self._output)

        return run

    def _wait(self) -> None:
        import torch

        if self._device == "cuda":
            torch.cuda.synchronize()

    def forward(self, case, mode: str, dtype: str) -> Callable[[], None]:
        """Returns the inference as a function without arguments."""
        import torch

        self._module.eval()
        images = self._images(*case)
        run = self._runner(mode, dtype)

        def once():
            with torch.no_grad():
                run(images)
            self._wait()

        return once

    def step(self, case, mode: str, dtype: str) -> Callable[[], None]:
        """Returns the training step as a function without arguments."""
        import torch

        from bench.workloads import TARGET

        self._module.train()
        images = self._images(*case)
        run = self._runner(mode, dtype)
        optimizer = torch.optim.AdamW(self._module.parameters(), lr=1e-4)

        def once():
            optimizer.zero_grad(set_to_none=True)
            (run(images).float() - TARGET).abs().mean().backward()
            optimizer.step()
            self._wait()

        return once


def rows(args, model_of: Callable[[str], Any], peer: Peer) -> Iterator[dict[str, Any]]:
    """Measures all cases, and yields a row of figures for each."""
    from bench import timing, workloads

    cases = [("forward", case) for case in args.forward]
    cases += [("step", case) for case in args.step]
    for what, case in cases:
        here, there = {
            "forward": (workloads.forward, peer.forward),
            "step": (workloads.step, peer.step),
        }[what]
        for dtype in args.dtype:
            functions = {HERE: here(model_of(dtype), workloads.dark_images(*case))}
            # Each mode has its own turns: compiled code of one case would be freed.
            for mode in args.torch_mode:
                functions["torch"] = there(case, mode, dtype)
                times = timing.in_turns(
                    functions,
                    args.repeats,
                    clock=args.clock,
                    pause=0.05,
                    in_a_row=args.in_a_row if what == "step" else 1,
                )
                ratio = timing.Ratio.of(times[HERE], times["torch"])
                yield {
                    "what": what,
                    "case": case,
                    "dtype": dtype,
                    "torch_mode": mode,
                    "here_ms": statistics.median(times[HERE]),
                    "torch_ms": statistics.median(times["torch"]),
                    "ratio": ratio.median,
                    "quartiles": (ratio.low, ratio.high),
                    "times_ms": times,
                }


def line(row) -> str:
    """Returns a row as text."""
    low, high = row["quartiles"]
    return (
        f"{row['what']:8}{'x'.join(map(str, row['case'])):>12}  {row['dtype']:9}"
        f"{row['torch_mode']:8} here {row['here_ms']:9.1f} ms   PyTorch "
        f"{row['torch_ms']:9.1f} ms   ratio {row['ratio']:.3f} ({low:.3f} to "
        f"{high:.3f})"
    )


def run(args: argparse.Namespace) -> None:
    """Measures, prints the rows and writes them.

    Raises:
        ValueError, OSError, ImportError: if an argument does not fit.
    """
    path, name = parse_module(args.torch_module)
    args.forward = [parse_case(text) for text in args.forward]
    args.step = [parse_case(text) for text in args.step]
    if not args.forward and not args.step:
        raise ValueError("Nothing to measure; give --forward or --step cases.")
    if args.in_a_row < 1:
        raise ValueError(f"--in-a-row is {args.in_a_row}; it is at least 1.")
    if importlib.util.find_spec("torch") is None:
        raise ImportError("PyTorch is not installed: pip install 'llie-jax[torch]'.")
    if args.device == "cpu":
        restrict_threads(args.threads)
    device = {"cpu": "cpu", "gpu": "cuda"}[args.device]

    import jax
    import torch

    import llie_jax
    from bench import timing
    from llie_jax.cli import arguments, output
    from llie_jax.models.base import variable_shapes

    jax.config.update("jax_platforms", device)
    torch.set_num_threads(args.threads)
    spec = arguments.model(args.model)
    model_of = {
        dtype: llie_jax.build(
            # A model without the field `dtype` computes in float32.
            spec if dtype == "float32" else {**spec, "dtype": dtype}
        )
        for dtype in args.dtype
    }.__getitem__
    torch_args = output.read_json_argument(args.torch_args, "--torch-args")
    with contextlib.redirect_stdout(sys.stderr):  # official code prints
        module = import_class(path, name)(**torch_args)
    peer = Peer(module, device, args.output)

    ours = count(variable_shapes(model_of(args.dtype[0]))["params"])
    print(f"{args.model}: {ours:,} parameters here, {peer.parameters:,} in {name}")
    if ours != peer.parameters:
        print(
            "warning: the numbers of parameters differ; are --model and --torch-args "
            "of the same size?",
            file=sys.stderr,
        )
    result = {
        "model": llie_jax.registry.complete_spec(spec),
        "torch_module": name,
        "torch_args": torch_args,
        "parameters": {HERE: ours, "torch": peer.parameters},
        **timing.machine(),
        "torch": torch.__version__,
        "torch_device": (
            torch.cuda.get_device_name()
            if device == "cuda"
            else torch.device("cpu").type
        ),
        "threads": args.threads,
        "clock": args.clock,
        "in_a_row": args.in_a_row,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "rows": [],
    }
    print(f"jax {result['jax']}, torch {torch.__version__}, {result['device']}")
    for row in rows(args, model_of, peer):
        print(line(row), flush=True)
        result["rows"].append(row)
        if args.out:
            timing.write(args.out, result)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    from bench import timing

    found = argparse.ArgumentParser(
        prog="python -m bench.peer",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--torch-module", required=True, metavar="FILE:CLASS")
    add("--torch-args", default="{}", metavar="JSON", help="arguments of the class")
    add(
        "--output",
        type=int,
        metavar="INDEX",
        help="which of several outputs is the image; the largest image by default",
    )
    add("--model", required=True, metavar="SPEC", help="as `llie-jax costs` takes it")
    case = "BATCHxHEIGHTxWIDTH"
    add("--forward", nargs="+", default=[], metavar=case, help="forward passes")
    add("--step", nargs="+", default=[], metavar=case, help="training steps")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"])
    add("--torch-mode", nargs="+", choices=MODES, default=["eager"])
    add("--device", choices=("cpu", "gpu"), default="cpu")
    add("--threads", type=int, default=2, help="CPU threads of both; default 2")
    add("--repeats", type=int, default=9, help="runs of each after the first")
    add(
        "--in-a-row",
        type=int,
        default=4,
        help="training steps of one side before the other's turn, as a run makes them; "
        "of several, the first is not counted",
    )
    timing.add_clock(found)
    add("--out", type=pathlib.Path, metavar="FILE", help="also write the figures here")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    from llie_jax.cli.main import guarded

    return guarded(run, parser().parse_args(argv))


if __name__ == "__main__":
    from llie_jax.cli import huge_pages

    huge_pages.use()
    sys.exit(main())
