"""A small study on LOL-v1: what the ideas of the three papers add, at equal budget.

python -m bench.study run --root data/lol_v1 --out ~/llie_runs/study
python -m bench.study run --root data/lol_v1 --out ~/llie_runs/study --match "cidnet*"
python -m bench.study test --root data/lol_v1 --out ~/llie_runs/study
python -m bench.study table

`run` trains every arm with every seed, one after the other, first the arms of the
first tier; killed and started again, it goes on where it was. Held-out pairs give the
score of a run. `test` scores eval15, once for each finished run. Both write
docs/study.json, from which `table` prints the tables of docs/study.md.
"""

import argparse
import dataclasses
import fnmatch
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys

from llie_jax.files import atomic

RESULTS = pathlib.Path(__file__).parent.parent / "docs" / "study.json"
RECIPE = pathlib.Path(__file__).parent / "study_small.py"
SEEDS = 3
DAWN = ("--config.stages.s0.steps=500", "--config.evaluate.every_steps=500")
"""A twenty-fourth of the recipe's steps."""
GT_MEAN = (
    "--config.loss.terms.pixel.gt_mean=True",
    "--config.loss.terms.ssim.gt_mean=True",
)
"""For the result; the term of the toned image keeps teaching the exposure."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: GROUP/VARIANT; arms of a group are compared with its first one.
        recipe: what `--config` gets.
        changes: values of the config that differ from the recipe's.
        tier: arms of tier 1 come first.
    """

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    tier: int = 2

    @property
    def group(self) -> str:
        """The arms that it is compared with."""
        return self.name.partition("/")[0]


def _small(backbone: str) -> tuple[Arm, ...]:
    """Returns the arms of a small network: plain, and with each idea of the papers."""
    pog = "reallocate=orthogonal"
    main = {
        "plain": "",
        "ADR, static": "reallocate=static",
        "ADR with POG": pog,
        "LFPV, paper": "lfpv=paper",
    }
    more = {
        "ADR, dynamic": "reallocate=dynamic",
        "LFPV, released": "lfpv=released",
        "ADR with POG, gain 1": f"{pog},gain=1.0",
        "ADR with POG, gain 64": f"{pog},gain=64.0",
        "ADR with POG, random start": f"{pog},zero_start=false",
    }
    return tuple(
        Arm(
            f"{backbone}/{variant}",
            f"{RECIPE}:backbone={backbone},{arguments}".rstrip(","),
            tier=1 if backbone == "cidnet" and variant in main else 2,
        )
        for variant, arguments in (main | more).items()
    )


def _dawn(variant: str, arguments: str = "") -> Arm:
    return Arm(f"dawn/{variant}", f"dawn:{arguments}".rstrip(":"), DAWN, tier=1)


ARMS = (
    *_small("cidnet"),
    _dawn("whole"),
    _dawn("one curve", "size=one_curve"),
    _dawn("no FFT gate", "size=no_gate"),
    _dawn("static kernels", "size=static"),
    _dawn("with LFPV", "lfpv=true"),
    Arm("dawn/GT-mean loss", "dawn", (*DAWN, *GT_MEAN)),
    *_small("retinexformer"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """An arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """GROUP/VARIANT/SEED."""
        return f"{self.arm.name}/{self.seed}"

    def folder(self, out: pathlib.Path) -> pathlib.Path:
        """Returns the workdir of the run."""
        return out / self.name.replace(", ", "_").replace(" ", "_")

    def train(self, root: str, out: pathlib.Path) -> dict:
        """Trains to the end and returns the held-out score, parameters and time."""
        command = ["train", "--config", self.arm.recipe]
        command += ["--workdir", str(self.folder(out)), *self.arm.changes]
        command += [f"--config.seed={self.seed}", f"--config.data.train.root={root}"]
        _call(*command)
        rows = (self.folder(out) / "log.jsonl").read_text().splitlines()
        rows = [json.loads(row) for row in rows]
        last = [row for row in rows if "validation_psnr" in row][-1]
        steps = [row["seconds_per_step"] for row in rows if "seconds_per_step" in row]
        return {
            "steps": last["step"],
            "psnr": last["validation_psnr"],
            "ssim": last["validation_ssim"],
            "seconds_per_step": statistics.median(steps),
        }

    def test(self, root: str, out: pathlib.Path) -> dict:
        """Returns the scores on eval15."""
        target = self.folder(out) / "eval15.json"
        command = ["eval", "--weights", str(self.folder(out)), "--data", "lol_v1"]
        _call(*command, "--root", root, "--split", "test", "--json", str(target))
        mean = json.loads(target.read_text())["mean"]
        return {"eval15_psnr": mean["psnr"], "eval15_ssim": mean["ssim"]}


def _call(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "llie_jax.cli.main", *arguments], check=True)


def queue(match: str, seeds: int) -> list[Run]:
    """Returns the runs that match, all arms with one seed before the next seed."""
    tiers = sorted({arm.tier for arm in ARMS})
    runs = [
        Run(arm, seed)
        for tier, seed, arm in itertools.product(tiers, range(seeds), ARMS)
        if arm.tier == tier
    ]
    return [run for run in runs if fnmatch.fnmatch(run.arm.name, match)]


def results() -> dict[str, dict]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(name: str, values: dict) -> None:
    """Adds values to the results of a run."""
    found = results()
    found[name] = found.get(name, {}) | values
    with atomic(RESULTS) as temporary:
        temporary.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


COLUMNS = ("psnr", "ssim", "eval15_psnr", "eval15_ssim")


def table() -> str:
    """Returns one table for each group: mean and deviation over the seeds."""
    found = results()
    lines = []
    for group in dict.fromkeys(arm.group for arm in ARMS):
        lines += [
            f"### {group}",
            "",
            "| arm | seeds | held-out PSNR | SSIM | eval15 PSNR | SSIM | s/step |",
            "|---|---|---|---|---|---|---|",
        ]
        for arm in ARMS:
            runs = [found.get(f"{arm.name}/{seed}") for seed in range(SEEDS)]
            runs = [run for run in runs if run]
            if arm.group != group or not runs:
                continue
            cells = [_cell(runs, column) for column in COLUMNS]
            cells += [f"{min(run['seconds_per_step'] for run in runs):.2f}"]
            variant = arm.name.partition("/")[2]
            lines.append(f"| {variant} | {len(runs)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(runs: list[dict], column: str) -> str:
    values = [run[column] for run in runs if column in run]
    if not values:
        return ""
    digits = 4 if "ssim" in column else 2
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "test", "table", "list"))
    parser.add_argument("--root", help="the folder of LOL-v1")
    parser.add_argument("--out", default=os.environ.get("LLIE_RUNS", "~/llie_runs"))
    parser.add_argument("--match", default="*", help="only arms whose name matches")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds")
    args = parser.parse_args()
    if args.action == "table":
        print(table())
        return
    runs = queue(args.match, args.seeds)
    if not runs:
        names = "; ".join(arm.name for arm in ARMS)
        parser.error(
            f"nothing to do for --match {args.match!r} and --seeds {args.seeds}; the "
            f"arms are: {names}."
        )
    done = results()
    if args.action == "list":
        for run in runs:
            print(f"{'done' if run.name in done else 'open'}  {run.name}")
        return
    if not args.root:
        parser.error("--root is needed: the folder of LOL-v1.")
    out = pathlib.Path(args.out).expanduser()
    for run in runs:
        record = done.get(run.name, {})
        if args.action == "run" and not record:
            save(run.name, run.train(args.root, out))
        elif args.action == "test" and record and "eval15_psnr" not in record:
            save(run.name, run.test(args.root, out))


if __name__ == "__main__":
    main()
