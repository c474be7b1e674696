"""One run from its config to its report; started again, it goes on where it was."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import time
from collections import deque
from typing import Any

import jax
import numpy as np

from llie_jax import data, evaluation, files, parallel, weights
from llie_jax.configs import base
from llie_jax.evaluation import report
from llie_jax.models.base import Wrapper
from llie_jax.training import log as logs
from llie_jax.training.checkpoint import HINT, Checkpoints
from llie_jax.training.experiment import Experiment
from llie_jax.training.state import TrainState
from llie_jax.training.validation import Validation

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
"""Keys that may differ when a run is resumed, since they do not change its numbers."""

_IN_FLIGHT = 2
"""Steps that may be under way at once: enough to hide the host, few enough to stop."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a call of `train` ended.

    Attributes:
        state: the state reached, on all devices.
        step: its step.
        finished: False if the run was interrupted.
        signal: the number of the signal that interrupted it, or None.
        validation: PSNR in dB and SSIM of the last validation of this call, or None.
    """

    state: TrainState
    step: int
    finished: bool
    signal: int | None
    validation: dict[str, float] | None


class NonFiniteError(ArithmeticError):
    """The loss or its gradient was not finite."""


class Signals:
    """Remembers SIGINT and SIGTERM while it is entered; a second one interrupts."""

    def __init__(self):
        self.received: int | None = None
        self._old = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._handle)
            except ValueError:
                break  # not in the main thread: signals belong to the caller
        return self

    def __exit__(self, *error):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


def train(
    config,
    workdir: str | os.PathLike,
    *,
    stop_at: int | None = None,
    progress: bool = True,
) -> Result:
    """Trains as the config says, and leaves everything in `workdir`.

    Started again with the same folder and config, it goes on from the newest
    checkpoint and reaches the same parameters as an unbroken run.

    Args:
        config: an experiment, see `llie_jax.configs.base`.
        workdir: the run's folder, made if missing: `config.json`, `checkpoints/`,
            `log.jsonl`, `events/` (TensorBoard), `samples/`, `report.html`.
        stop_at: saves and stops after this step, as if interrupted.
        progress: shows a bar or lines on standard error.

    Raises:
        ValueError: if the config, the data and the folder do not fit together, before
            anything is compiled.
        FileNotFoundError: if data or weights are missing.
        OSError: if the folder cannot be written.
        NonFiniteError: if the loss is not finite (`config.nonfinite`).
    """
    config = base.check(config)
    experiment = Experiment.from_config(config)
    mesh = parallel.make_mesh()
    for name, stage in config.stages.items():
        parallel.check_batch_size(
            stage.batch_size, mesh, f"config.stages.{name}.batch_size"
        )
    workdir = pathlib.Path(workdir)
    _check_workdir(workdir, config)
    training, held_out = open_data(config)
    pipeline = open_pipeline(config, training)
    frozen = {"loss": experiment.loss.load_frozen(), "data": pipeline.resident}
    initial = _initial_variables(experiment)
    files.writable_folder(workdir, hint=HINT)
    if jax.process_index() == 0:
        _write_config(workdir, config)

    checkpoints = Checkpoints(workdir / weights.CHECKPOINTS)
    try:
        state, step, notes = _begin(experiment, checkpoints, mesh, initial)
        if held_out is None:
            notes.append("no validation: the newest weights count as the best ones")
        with Signals() as signals:
            return _run(
                experiment,
                workdir=workdir,
                mesh=mesh,
                state=state,
                step=step,
                frozen=parallel.replicate(frozen, mesh),
                pipeline=pipeline,
                held_out=held_out,
                checkpoints=checkpoints,
                signals=signals,
                stop_at=stop_at,
                progress=progress,
                notes=notes,
            )
    finally:
        checkpoints.close()


def _run(
    experiment: Experiment,
    *,
    workdir: pathlib.Path,
    mesh,
    state: TrainState,
    step: int,
    frozen,
    pipeline,
    held_out,
    checkpoints: Checkpoints,
    signals: Signals,
    stop_at: int | None,
    progress: bool,
    notes: list[str],
) -> Result:
    config, total = experiment.config, base.total_steps(experiment.config)
    first_process = jax.process_index() == 0
    validation = held_out and Validation(
        experiment.model, held_out, mesh, mapping=config.parallel
    )
    log = logs.RunLog(workdir, step=step) if first_process else None
    line = logs.ProgressLine(first=step, total=total, shown=progress and first_process)
    for note in notes:
        line.note(note)
    mapped = parallel.map_step(
        lambda axis: experiment.train_step(pipeline.expand, axis),
        mesh,
        mapping=config.parallel,
    )
    rng = parallel.replicate_key(jax.random.key(config.seed + 1), mesh)
    meter = _Meter(config, skipped=int(state.skipped))
    scores, stopped = None, False

    def show():
        """Reads the terms of the steps since the last call, the only host sync."""
        terms = meter.read()
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
            log.write(step, {f"validation_{k}": v for k, v in scores.items()})
            line.note(
                f"step {step}: validation PSNR {scores['psnr']:.2f} dB, "
                f"SSIM {scores['ssim']:.4f} ({validation.count} images)"
            )
            if rows:
                path = workdir / "samples" / f"step_{step:07d}.png"
                log.picture(step, "input_output_target", logs.write_strip(path, rows))

    batches = pipeline.batches(first_step=step)
    try:
        while step < total and not stopped:
            with meter.waiting():
                batch = parallel.shard_batch(next(batches), mesh)
            state, terms = mapped(state, frozen, batch, rng)
            step += 1
            meter.add(step, terms, images=len(batch["index"]))
            line.advance(step)

            at_end = step == total
            logs_now = step % config.log.every_steps == 0
            stopped = step == stop_at
            if jax.process_count() == 1 or logs_now:
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
                    checkpoints.save(
                        state, step=step, psnr=scores["psnr"] if validates else None
                    )
        checkpoints.wait()
        if step == total:
            line.note(f"finished: {step} steps, saved in {workdir}")
            if first_process:
                _write_report(config, workdir, held_out)
                line.note(f"see {workdir / 'report.html'}")
            parallel.any_process(False)  # nobody leaves before the report is written
        else:
            line.note(
                f"stopped at step {step} of {total}, saved in {workdir}; the same "
                "command goes on from here"
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


class _Meter:
    """Keeps the terms of the steps on the device until somebody looks at them."""

    def __init__(self, config, *, skipped: int):
        self._config = config
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []
        self._flight: deque = deque()
        self._images = 0
        self._waited = 0.0
        self._skipped = skipped
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self):
        """Counts the time inside as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self):
        """Leaves out the time inside: it is not spent on training."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def add(self, step: int, terms: dict[str, jax.Array], *, images: int):
        """Keeps the terms of a step; waits if too many steps are under way."""
        self._pending.append((step, terms))
        self._images += images
        self._flight.append(terms["loss"])
        if len(self._flight) > _IN_FLIGHT:
            self._flight.popleft().block_until_ready()

    def read(self) -> dict[str, float]:
        """Returns the means since the last call, with speed and waiting.

        Raises:
            NonFiniteError: as `config.nonfinite` says, naming the step.
        """
        if not self._pending:
            return {}
        steps, terms = zip(*jax.device_get(self._pending), strict=True)
        self._pending.clear()
        seconds = time.perf_counter() - self._start
        for step, values in zip(steps, terms, strict=True):
            if not values["finite"]:
                self._not_finite(step, values)
        used = [values for values in terms if values["finite"]] or list(terms)
        means = {
            key: float(np.mean([values[key] for values in used]))
            for key in used[0]
            if key != "finite"
        }
        means["rate"] = float(terms[-1]["rate"])
        if self._skipped:
            means["skipped"] = self._skipped
        means["images_per_second"] = self._images / seconds
        means["seconds_per_step"] = seconds / len(steps)
        means["data_wait"] = self._waited / seconds
        means["host_ms"] = 1000 * self._waited / len(steps)
        self._images, self._waited = 0, 0.0
        self._start = time.perf_counter()
        return means

    def _not_finite(self, step: int, values: dict[str, np.ndarray]):
        self._skipped += 1
        if self._config.nonfinite == "skip":
            if self._skipped <= self._config.max_skipped:
                return
            limit = f"; {self._config.max_skipped} skipped steps are the limit"
        else:
            limit = ""
        found = ", ".join(
            f"{key} {float(value):.4g}"
            for key, value in values.items()
            if key not in ("finite", "rate", "psnr")
        )
        raise NonFiniteError(
            f"Step {step}: the loss or its gradient is not finite ({found}){limit}. "
            "The last checkpoint is intact. Try a lower "
            "config.optimizer.learning_rate, config.optimizer.clip_norm, or "
            "config.nonfinite=skip."
        )


def open_data(config):
    """Returns the training pairs and the held-out pairs (or None) of a config.

    Raises:
        ValueError, FileNotFoundError: if the data are missing or unfit.
    """
    where = config.data.train
    source = data.open_source(
        where.name, root=where.root or None, split=where.split or None
    )
    fraction = config.data.validation.fraction
    if not fraction:
        return source, None
    return data.split_by_reference(
        source, fraction=fraction, seed=config.data.validation.seed
    )


def open_pipeline(config, source):
    """Returns the pipeline that feeds the training step of a config."""
    return data.make_pipeline(
        source,
        [data.Stage(**stage.to_dict()) for stage in config.stages.values()],
        size=config.data.train.size,
        seed=config.seed,
        augment=data.Augment(**config.data.augment.to_dict()),
        residence=config.data.residence,
        device_limit_bytes=config.data.device_limit_mb * 2**20,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.data.workers,
    )


def _begin(experiment: Experiment, checkpoints: Checkpoints, mesh, initial):
    """Returns the state to go on from, its step, and what the user should know."""
    sharding = parallel.replicated(mesh)
    # The initial values come as an argument: as constants they would be compiled in.
    init = jax.jit(experiment.init, out_shardings=sharding)
    shapes = jax.eval_shape(init, initial)
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
    )
    restored = checkpoints.restore(template)
    if restored is None:
        return init(initial), 0, []
    state, step, notes = restored
    return state, step, [*(f"warning: {n}" for n in notes), f"resuming at step {step}"]


def _initial_variables(experiment: Experiment) -> dict[str, Any] | None:
    """Returns the weights named by `config.init_from`, which must fit the model.

    Parameters that `config.init_missing` names may be missing. Weights of a backbone
    are grafted into a wrapper's.
    """
    path = experiment.config.init_from
    if not path:
        return None
    source, variables = weights.load(path)
    model = experiment.model
    grafted = isinstance(model, Wrapper) and not isinstance(source, Wrapper)
    weights.check_fit(
        variables,
        model.backbone if grafted else model,
        f"The arrays of {path}, for {experiment.config.model.name},",
        missing=experiment.config.init_missing,
    )
    if grafted:
        return {name: {"backbone": tree} for name, tree in variables.items()}
    return variables


def _check_workdir(workdir: pathlib.Path, config) -> None:
    """Raises ValueError if the folder holds a run of another config."""
    path = workdir / weights.CONFIG
    if not path.exists():
        return
    try:
        old = base.flatten(base.from_json(path.read_text()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read as a config of this version ({error}). Use another "
            "--workdir."
        ) from error
    new = base.flatten(config)
    differing = [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ...) != new.get(key, ...) and key not in MAY_CHANGE
    ]
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ValueError(
            f"{workdir} holds a run of another config ({'; '.join(differing[:4])}"
            f"{more}). Use another --workdir, or the old values to go on with it."
        )


def _write_report(config, workdir: pathlib.Path, held_out) -> None:
    """Scores the weights that the run offers on the held-out pairs, and shows all."""
    scores = None
    if held_out is not None:
        model, variables = weights.load(workdir)
        scores = evaluation.evaluate(
            model,
            variables,
            held_out,
            weights=weights.describe(workdir),
            mesh=parallel.make_mesh(jax.local_devices()),  # the first process alone
            mapping=config.parallel,
            progress=False,
        )
    report.write(
        workdir / "report.html",
        title=f"Training of {config.model.name} on {config.data.train.name}",
        scores=scores,
        log=workdir / "log.jsonl",
        settings=config.to_dict(),
    )


def _write_config(workdir: pathlib.Path, config) -> None:
    with files.atomic(workdir / weights.CONFIG) as path:
        path.write_text(base.to_json(config))
