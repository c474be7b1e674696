"""One run from its config to its report; rerunning in the same folder resumes it."""

import contextlib
import dataclasses
import os
import re

import jax

from llie_jax import evaluation, files, parallel, weights
from llie_jax.configs import base
from llie_jax.data import sources
from llie_jax.evaluation import report
from llie_jax.training import log as logs
from llie_jax.training.experiment import Experiment
from llie_jax.training.initial import begin, initial_variables
from llie_jax.training.inputs import open_data, open_pipeline
from llie_jax.training.interrupts import Signals
from llie_jax.training.meter import Meter
from llie_jax.training.meter import NonFiniteError as NonFiniteError
from llie_jax.training.state import TrainState
from llie_jax.training.validation import Validation
from llie_jax.weights.run import RunFolder
from llie_jax.weights.store import Store

MAY_CHANGE = (
    "data.train.root",
    "data.residence",
    "data.device_limit_mb",
    "data.workers",
    "parallel",
    "nonfinite",
    "max_skipped",
    "log.every_steps",
    "evaluate.every_steps",
    "evaluate.strip_images",
    "checkpoint.every_steps",
)
"""Keys that may differ when a run is resumed: they do not affect its numbers."""

_HINT = "choose another --workdir"


@dataclasses.dataclass(frozen=True)
class Result:
    """How a call of `train` ended.

    Attributes:
        state: the state reached, on all devices.
        step: its step.
        finished: False if the run was interrupted.
        signal: the number of the signal that interrupted it, or None.
        validation: PSNR in dB and SSIM of the last validation of this call, {} without
            references, or None without validation.
    """

    state: TrainState
    step: int
    finished: bool
    signal: int | None
    validation: dict[str, float] | None


def train(
    config,
    workdir: str | os.PathLike,
    *,
    stop_at: int | None = None,
    progress: bool = True,
) -> Result:
    """Trains as the config says, and writes everything to `workdir`.

    Rerunning with the same folder and config resumes from the newest checkpoint and
    reaches the same parameters as an uninterrupted run.

    Args:
        config: an experiment, see `llie_jax.configs.base`.
        workdir: the run's folder, created if missing: `config.json`, `checkpoints/`,
            `log.jsonl`, `events/` (TensorBoard), `samples/`, `report.html`.
        stop_at: saves and stops after this step, as if interrupted.
        progress: shows a bar or lines on standard error.

    Raises:
        ValueError: if the config, the data and the folder do not match; raised before
            anything is compiled.
        FileNotFoundError: if data or weights are missing.
        OSError: if the folder cannot be written, or another run is writing there.
        NonFiniteError: if the loss is not finite (`config.nonfinite`).
    """
    config = base.check(config)
    experiment = Experiment.from_config(config)
    mesh = parallel.make_mesh()
    for name, stage in config.stages.items():
        parallel.check_batch_size(
            stage.batch_size, mesh, f"config.stages.{name}.batch_size"
        )
    run = RunFolder.at(workdir)
    _check_config(run, config)
    training, held_out = open_data(config)
    where = f"{training.name} {training.split}"
    sources.check_keys(
        training, experiment.model.record_inputs, base.title(config.model)
    )
    experiment.loss.check_keys(training.keys, where)
    pipeline = open_pipeline(config, training, overview=experiment.model.overview)
    constants = {
        "loss": experiment.loss.load_constants(),
        "data": pipeline.resident,
    }
    initial = initial_variables(experiment)
    files.writable_folder(run.path, hint=_HINT)
    with contextlib.ExitStack() as stack:
        notes = _lock(run, stack)
        if parallel.is_first():
            _write_config(run, config)
        checkpoints = stack.enter_context(
            Store(run.checkpoints, writing=True, hint=_HINT)
        )
        state, step = begin(experiment, checkpoints, mesh, initial)
        if step:
            notes.append(f"resuming at step {step}")
        if held_out is None:
            notes.append("no validation: the newest weights count as the best")
        elif "target" not in held_out.keys:
            notes.append(
                "no references: validation shows pictures without scores, and the "
                "newest weights count as the best"
            )
        signals = stack.enter_context(Signals())
        return _run(
            experiment,
            run=run,
            mesh=mesh,
            state=state,
            step=step,
            constants=parallel.replicate(constants, mesh),
            pipeline=pipeline,
            held_out=held_out,
            checkpoints=checkpoints,
            signals=signals,
            stop_at=stop_at,
            progress=progress,
            notes=notes,
        )


def _lock(run: RunFolder, stack: contextlib.ExitStack) -> list[str]:
    """Locks the folder until the stack exits; returns notes for the user.

    The first process takes the lock for all, and all fail together if it cannot.

    Raises:
        OSError: if another run holds it.
    """
    refused = missing = None
    if parallel.is_first():
        try:
            missing = stack.enter_context(files.lock(run.lock, hint=_HINT))
        except OSError as error:
            refused = error
    if parallel.any_process(refused is not None):
        raise refused or OSError(f"{run.path} is in use; process 0 names the holder.")
    return [f"{missing}: do not start a second run there"] if missing else []


def _run(
    experiment: Experiment,
    *,
    run: RunFolder,
    mesh,
    state: TrainState,
    step: int,
    constants,
    pipeline,
    held_out,
    checkpoints: Store,
    signals: Signals,
    stop_at: int | None,
    progress: bool,
    notes: list[str],
) -> Result:
    config, total = experiment.config, base.total_steps(experiment.config)
    first_process = parallel.is_first()
    validation = held_out and Validation(
        experiment.model, held_out, mesh, mapping=config.parallel
    )
    log = logs.RunLog(run, step=step) if first_process else None
    line = logs.ProgressLine(first=step, total=total, shown=progress and first_process)
    for note in notes:
        line.note(note)
    mapped = parallel.map_step(
        lambda axis: experiment.train_step(pipeline.expand, axis),
        mesh,
        mapping=config.parallel,
    )
    rng = parallel.replicate_key(jax.random.key(config.seed + 1), mesh)
    meter = Meter(config, skipped=int(state.skipped))
    scores, stopped = None, False

    shown = step

    def show():
        """Reads the terms of the steps since the last call; the only host sync."""
        nonlocal shown
        terms = meter.read()
        if len(pipeline.plan.groups) > 1 and step > shown:
            shares = pipeline.plan.shares(range(shown, step))
            terms |= {f"share_{label}": share for label, share in shares.items()}
        shown = step
        if terms and log:
            log.write(step, terms)
            line.update(step, terms)

    def validate():
        nonlocal scores
        with meter.paused():
            scores, rows = validation.scores(
                state.variables(), pictures=config.evaluate.strip_images
            )
        if log:
            if scores:
                log.write(step, {f"validation_{k}": v for k, v in scores.items()})
                line.note(
                    f"step {step}: validation PSNR {scores['psnr']:.2f} dB, "
                    f"SSIM {scores['ssim']:.4f} ({validation.count} images)"
                )
            if rows:
                name = "_".join(("input", "output", "target")[: len(rows[0])])
                log.picture(step, name, logs.write_strip(run.sample(step), rows))

    batches = pipeline.batches(first_step=step)
    try:
        while step < total and not stopped:
            with meter.waiting():
                batch = parallel.shard_batch(next(batches), mesh)
            state, terms = mapped(state, constants, batch, rng)
            step += 1
            meter.add(step, terms, images=len(batch["index"]))
            line.advance(step)

            at_end = step == total
            logs_now = step % config.log.every_steps == 0
            stopped = step == stop_at
            if parallel.process_count() == 1 or logs_now:
                stopped |= parallel.any_process(signals.received is not None)
            validates = validation and (
                at_end or (step % config.evaluate.every_steps == 0 and not stopped)
            )
            saves = (
                at_end
                or stopped
                or validates
                or step % config.checkpoint.every_steps == 0
            )
            if logs_now or saves:
                show()
            if validates:
                validate()
            if saves:
                with meter.paused():
                    psnr = scores.get("psnr") if validates else None
                    checkpoints.save(state, step=step, psnr=psnr)
        checkpoints.wait()
        if step == total:
            line.note(f"finished: {step} steps, saved in {run.path}")
            if first_process:
                _write_report(config, run, held_out)
                line.note(f"see {run.report}")
            parallel.any_process(False)  # all wait for the report
        else:
            line.note(
                f"stopped at step {step} of {total}, saved in {run.path}; the same "
                "command resumes from here"
            )
    finally:
        line.close()
        if log:
            log.close()
    return Result(
        state=state,
        step=step,
        finished=step == total,
        signal=signals.received,
        validation=scores,
    )


def _check_config(run: RunFolder, config) -> None:
    """Raises ValueError if the folder holds a run of a different config."""
    path = run.config
    if not path.exists():
        return
    try:
        old = base.flatten(base.from_json(path.read_text()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is from an older version of llie_jax, or damaged ({error}). Use "
            "another --workdir."
        ) from error
    new = base.flatten(config)
    differing = [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ...) != new.get(key, ...)
        and key not in MAY_CHANGE
        and not re.fullmatch(r"data\.mixture\.\w+\.root", key)
    ]
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ValueError(
            f"{run.path} holds a run of a different config ({'; '.join(differing[:4])}"
            f"{more}). Use another --workdir, or the old values to resume it."
        )


def _write_report(config, run: RunFolder, held_out) -> None:
    """Writes the report, with scores of the run's best weights on held-out pairs."""
    scores = None
    if held_out is not None and "target" in held_out.keys:
        model, variables = weights.load(run.path)
        scores = evaluation.evaluate(
            model,
            variables,
            held_out,
            weights=weights.describe(run.path),
            mesh=parallel.local_mesh(),  # the first process alone
            mapping=config.parallel,
            progress=False,
        )
    report.write(
        run.report,
        title=f"Training of {config.model.name} on {config.data.train.name}",
        scores=scores,
        log=run.log,
        settings=config.to_dict(),
    )


def _write_config(run: RunFolder, config) -> None:
    with files.atomic(run.config) as path:
        path.write_text(base.to_json(config))
