"""One run from its config to its report; rerunning in the same folder resumes it."""

import contextlib
import dataclasses
import os
import socket

import jax

from llie_jax import evaluation, files, messages, parallel, weights
from llie_jax.configs import base
from llie_jax.data import sources
from llie_jax.evaluation import report
from llie_jax.training import integrity
from llie_jax.training import log as logs
from llie_jax.training.experiment import Experiment
from llie_jax.training.initial import begin, initial_variables, template
from llie_jax.training.inputs import open_data, open_pipeline
from llie_jax.training.interrupts import Signals
from llie_jax.training.lock import Lock
from llie_jax.training.meter import DivergedError as DivergedError
from llie_jax.training.meter import LossSpikeError, Meter
from llie_jax.training.meter import NonFiniteError as NonFiniteError
from llie_jax.training.state import TrainState
from llie_jax.training.utilisation import peak_flops, step_flops
from llie_jax.training.validation import Validation
from llie_jax.training.wandb_log import WandbLog, check_installed
from llie_jax.training.watch import Profile, Watchdog
from llie_jax.weights import record as records
from llie_jax.weights.run import RunFolder
from llie_jax.weights.store import Store

MAY_CHANGE = (
    "data.train.root",
    "data.mixture.*.root",
    "data.residence",
    "data.device_limit_mb",
    "data.workers",
    "parallel",
    "remat",
    "shard_optimizer",
    "nonfinite",
    "max_skipped",
    "log.every_steps",
    "log.wandb",
    "log.watchdog_seconds",
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
    profile: int = 0,
    progress: bool = True,
    accept_changed_data: bool = False,
) -> Result:
    """Trains as the config says, and writes everything to `workdir`.

    Rerunning with the same folder and config resumes from the newest checkpoint and
    reaches the same parameters as an uninterrupted run.

    Args:
        config: an experiment, see `llie_jax.configs.base`.
        workdir: the run's folder, created if missing: `config.json`, `checkpoints/`,
            `log.jsonl`, `events/` (TensorBoard), `samples/`, `report.html`, and
            `profile/` if steps are profiled.
        stop_at: saves and stops after this step, as if interrupted.
        profile: number of steps of which JAX's profiler writes a trace, to `profile/`.
        progress: shows a bar or lines on standard error.
        accept_changed_data: resumes although the data are not those that the run was
            started with.

    Raises:
        ValueError: if the config, the data and the folder do not match; raised before
            anything is compiled.
        FileNotFoundError: if data or weights are missing.
        OSError: if the folder cannot be written, or another run is writing there.
        ImportError: if `config.log.wandb` is set, and the package is not installed.
        DivergedError: if the loss is not finite (`config.nonfinite`), or rises
            suddenly, too often (`config.spike`).
    """
    run = RunFolder.at(workdir)
    config = base.check(config)
    experiment = Experiment.from_config(config)
    mesh = parallel.make_mesh()
    experiment.check_batches(mesh)
    check_installed(config.log.wandb)  # in all processes, before anything is written
    with contextlib.ExitStack() as stack:
        # Locked before the data are read, which takes time. A new folder is created
        # after that: mistakes leave none behind.
        existed = parallel.any_process(run.path.is_dir())
        lock = _lock(run, stack) if existed else None
        saved = records.newest(run.checkpoints)
        integrity.check_config(run, config, saved, may_change=MAY_CHANGE)
        training, held_out = open_data(config)
        described = integrity.describe_data(training, held_out)
        integrity.check_data(saved, described, accept=accept_changed_data)
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
        if not existed:
            lock = _lock(run, stack)
            # Another start may have made the folder meanwhile, and ended.
            saved = records.newest(run.checkpoints)
            integrity.check_config(run, config, saved, may_change=MAY_CHANGE)
            integrity.check_data(saved, described, accept=accept_changed_data)
        _warn_of_hosts(run, mesh)
        facts = integrity.facts(config, described, mesh)
        checkpoints = stack.enter_context(
            Store(run.checkpoints, writing=True, hint=_HINT, facts=facts)
        )
        state, step = begin(experiment, checkpoints, mesh, initial)
        state = experiment.spread(state, mesh)
        # After the checkpoints are read: they hold a copy of a damaged one.
        if parallel.is_first():
            run.set_obstacles_aside()
            _write_config(run, config)
        notes = []
        if step:
            notes.append(f"resuming at step {step}")
            found = checkpoints.record(step)
            notes += integrity.differences(found.facts if found else {}, facts)
        if held_out is None:
            notes.append("no validation: the newest weights count as the best")
        elif config.data.validation.select_on == "test":
            notes.append(
                "the test split selects the best checkpoint; its scores there are "
                "marked, because they are better than those on unseen images"
            )
        if held_out and "target" not in held_out.keys:
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
            lock=lock,
            signals=signals,
            stop_at=stop_at,
            profile=profile,
            progress=progress,
            notes=notes,
        )


def _warn_of_hosts(run: RunFolder, mesh) -> None:
    """Warns if several hosts write to a path that may be another folder on each."""
    hosts = sorted(set(parallel.gather_objects(socket.gethostname(), mesh)))
    if len(hosts) > 1 and files.is_local(run.path) and parallel.is_first():
        messages.note(
            f"{run.path} is a local path, and the run has {len(hosts)} hosts "
            f"({messages.listed(hosts, limit=4)}). All must find the same folder "
            "there, on a shared disk, or no checkpoint is complete; a bucket "
            "(gs://...) is the same everywhere."
        )


def _lock(run: RunFolder, stack: contextlib.ExitStack) -> Lock | None:
    """Creates the folder, and locks it until the stack exits.

    Returns:
        The lock; None in processes but the first.

    The first process takes the lock for all, and all fail together if it cannot.

    Raises:
        OSError: if the folder cannot be written, or another run holds it.
    """
    files.writable_folder(run.path, hint=_HINT)
    refused = found = None
    if parallel.is_first():
        try:
            found = stack.enter_context(Lock(run.lock, hint=_HINT))
        except OSError as error:
            refused = error
    if parallel.any_process(refused is not None):
        raise refused or OSError(f"{run.path} is in use; process 0 names the holder.")
    return found


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
    lock: Lock | None,
    signals: Signals,
    stop_at: int | None,
    profile: int,
    progress: bool,
    notes: list[str],
) -> Result:
    config, total = experiment.config, base.total_steps(experiment.config)
    first_process = parallel.is_first()
    validation = held_out and Validation(
        experiment.model, held_out, mesh, mapping=config.parallel
    )
    log = _open_log(run, config, step=step, mesh=mesh) if first_process else None
    line = logs.ProgressLine(first=step, total=total, shown=progress and first_process)
    for note in notes:
        line.note(note)
    mapped = experiment.mapped_step(pipeline.expand, mesh, mapping=config.parallel)
    rng = parallel.replicate_key(jax.random.key(config.seed + 1), mesh)
    peak = peak_flops()
    flops = step_flops(config) if peak else lambda step: 0.0
    meter = Meter(
        config, skipped=int(state.skipped), devices=mesh.size, peak_flops=peak
    )
    trace = Profile(run.profile, first=step, steps=profile if first_process else 0)
    scores, stopped, rollbacks = None, False, 0

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

    def roll_back():
        """Returns the newest checkpoint's state, as one of the step reached."""
        nonlocal rollbacks
        rollbacks += 1
        where, loss = meter.spike
        what = f"step {where}: the loss rose to {loss:.4g}"
        if rollbacks > config.spike.max_rollbacks:
            raise LossSpikeError(
                f"{what}, after {config.spike.max_rollbacks} rollbacks. Try a lower "
                "config.optimizer.learning_rate or config.optimizer.clip_norm, or a "
                "higher config.spike.factor."
            )
        with meter.paused():
            checkpoints.wait()
            found = checkpoints.restore(template(state, mesh))
        if found is None:
            line.note(f"{what}, but there is no checkpoint to go back to")
            return state
        restored, since = found
        line.note(f"{what}; going on from step {since}, without those since then")
        if log:
            log.write(step, {"rolled_back_to": since, "spike": loss})
        # The data go on, so the batches that led to the spike do not come again.
        return experiment.spread(restored.replace(step=state.step), mesh)

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
    watchdog = Watchdog(config.log.watchdog_seconds)
    try:
        watchdog.start()
        while step < total and not stopped:
            with meter.waiting():
                batch = parallel.shard_batch(next(batches), mesh)
            state, terms = mapped(state, constants, batch, rng)
            meter.add(step + 1, terms, images=len(batch["index"]), flops=flops(step))
            step += 1
            watchdog.step()
            if trace.step(step, terms):
                line.note(f"see the trace: tensorboard --logdir {trace.folder}")
            line.advance(step)

            at_end = step == total
            logs_now = step % config.log.every_steps == 0
            stopped = signals.stop(step) or step == stop_at
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
                if meter.spike:
                    state, saves = roll_back(), True
            if validates:
                validate()
            if saves:
                with meter.paused():
                    if lock:
                        lock.check()
                    if log:
                        log.sync()
                    psnr = scores.get("psnr") if validates else None
                    whole = experiment.gathered(state, mesh)
                    checkpoints.save(whole, step=step, psnr=psnr)
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
        watchdog.stop()
        trace.close()
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


def _open_log(run: RunFolder, config, *, step: int, mesh) -> logs.RunLog:
    """Returns the log, with a line that says on what the run goes on."""
    project = config.log.wandb
    wandb = WandbLog(project, run, config.to_dict()) if project else None
    log = logs.RunLog(run, step=step, wandb=wandb)
    log.write(step, _place(mesh))
    return log


def _place(mesh) -> dict[str, int | str]:
    """Returns what a run runs on."""
    return {
        "devices": mesh.size,
        "processes": parallel.process_count(),
        "device_kind": parallel.device_kind(),
    }


def _write_report(config, run: RunFolder, held_out) -> None:
    """Writes the report, with scores of the best weights on the validation pairs."""
    scores = None
    if held_out is not None and "target" in held_out.keys:
        model, variables = weights.load(run.path)
        scores = evaluation.evaluate(
            model,
            variables,
            held_out,
            weights=weights.describe(run.path),
            selected_on_test=config.data.validation.select_on == "test",
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
    with files.atomic(run.config, durable=True) as path:
        path.write_text(base.to_json(config))
