"""`llie-jax eval` and `llie-jax score`, from their arguments to their files."""

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from llie_jax import data, files, messages, metrics, parallel
from llie_jax import weights as weight_files
from llie_jax.data import opening, scanning, sources
from llie_jax.evaluation import overlap, provenance, report, showcase, speed
from llie_jax.evaluation import scores as results
from llie_jax.evaluation.evaluator import evaluate, progress_bar, references
from llie_jax.evaluation.scores import Scores
from llie_jax.image import io, reading
from llie_jax.metrics import protocol as protocols

_NAMED = 5  # number of files that an error names


def run(
    weights: str | os.PathLike,
    data_set: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    split: str = "test",
    protocol: str = "default",
    gt_mean: bool = False,
    self_ensemble: bool = False,
    out: str | os.PathLike | None = None,
    save_images: bool = False,
    json: str | os.PathLike | None = None,
    all_protocols: bool = False,
    batch_size: int | None = None,
    tile: int | None = None,
    mapping: str = "shard_map",
    allow_overlap: bool = False,
    test_options: Mapping[str, float] | None = None,
    use_reference: bool = False,
    show_shipped: bool = False,
    measure: bool = False,
    progress: bool = True,
) -> Scores:
    """Scores weights on a data set, and writes the results.

    Args:
        weights: a run's workdir, a checkpoint folder, a `.safetensors` file, or a
            published name; see `llie_jax.load`.
        data_set: a data set's name, or a folder; see `llie_jax.data.open_source`.
        root: the folder of a named data set.
        split: the split; a folder without splits is scored whole.
        protocol: how to score.
        gt_mean: see `evaluate`.
        self_ensemble: see `evaluate`.
        out: a folder for `scores.json`, `scores.csv` and `report.html`.
        save_images: also write the outputs to `out/images`.
        json: a further file for the scores.
        all_protocols: also score the same outputs under every protocol and metric.
        batch_size: see `evaluate`.
        tile: see `evaluate`.
        mapping: see `evaluate`.
        allow_overlap: also score images that the weights were trained on; the results
            say so.
        test_options: options of the model, such as CIDNet's `saturation`; recorded in
            the results.
        use_reference: gives the model the references as inputs, such as those that
            URetinex-Net's ratio comes from; recorded in the results.
        show_shipped: also shows the weights that ship, if any do, in the report.
        measure: also times the model on the first image, see `speed.measure`.
        progress: shows a bar on standard error.

    Raises:
        ValueError: if an argument is wrong, an image cannot be scored, or the weights
            were trained on some of the images.
        OSError: if weights or data are missing, or a folder cannot be written.
    """
    chosen = protocols.get(protocol)
    if save_images and out is None:
        raise ValueError("Saving images needs an output folder (--out).")
    source = data.open_source(data_set, root=root, split=split)
    chosen.check_keys(source.keys, f"{source.name} {source.split}")
    if show_shipped and out is None:
        raise ValueError("Showing the weights that ship needs a report (--out).")
    out = out and files.writable_folder(out)
    json = json and _writable_file(json)
    described = weight_files.describe(weights)
    # A run that is still training may have a different best step by now.
    step = described["step"]
    model, variables = weight_files.load(weights, step="best" if step is None else step)
    model = model.with_options(test_options or {})
    if use_reference and not model.reference_inputs:
        raise ValueError(
            f"{described['spec']['name']} takes no input from references; leave out "
            "--use-reference."
        )
    run_folder = _run_folder(described)
    settings = run_folder and run_folder.read_config()
    if run_folder:
        described["config_sha256"] = weight_files.file_sha256(run_folder.config)
        described |= provenance.training_facts(settings)
    trained_on, trained_root = overlap.training_data(described, settings)
    seen = overlap.find(trained_on, source, trained_root)
    if seen and not allow_overlap:
        raise ValueError(
            f"A score on {source.name} would be too good: the weights were {seen}. "
            "--allow-overlap computes it all the same, and marks it."
        )
    scores = evaluate(
        model,
        variables,
        source,
        protocol=chosen,
        gt_mean=gt_mean,
        self_ensemble=self_ensemble,
        batch_size=batch_size,
        tile=tile,
        mapping=mapping,
        all_protocols=all_protocols,
        save_images=out / "images" if save_images else None,
        max_report_images=12 if out else 0,
        weights=described,
        overlap=str(seen) if seen else "",
        selected_on_test=provenance.selected_on_test(described, source, settings),
        reference_inputs=references(model) if use_reference else None,
        progress=progress,
    )
    _, where = opening.resolve(data_set, root=root)
    here = {"root": str(files.absolute(where))}
    more: dict[str, Any] = {"data": scores.facts["data"] | here}
    if measure:
        more["measured"] = speed.measure(
            model, variables, source[0]["image"], protocol=chosen
        )
    scores = dataclasses.replace(scores, facts={**scores.facts, **more})
    if not parallel.is_first():
        return scores
    if json:
        results.write_json(json, scores)
    if out:
        results.write_json(out / "scores.json", scores)
        results.write_csv(out / "scores.csv", scores)
        report.write(
            out / "report.html",
            title=f"{scores.facts['model']['name']} on {source.name} {source.split}",
            scores=scores,
            log=run_folder and run_folder.log,
            settings=settings,
            shipped=showcase.show_shipped() if show_shipped else (),
        )
    return scores


def compare_folders(
    predictions: str | os.PathLike,
    targets: str | os.PathLike | None = None,
    *,
    protocol: str = "default",
    gt_mean: bool = False,
    json: str | os.PathLike | None = None,
    progress: bool = True,
) -> Scores:
    """Scores saved images of any tool, against references of the same names if given.

    Args:
        predictions: the folder of results.
        targets: the folder of references; suffixes may differ. None for a protocol that
            needs none.
        protocol: how to score. Its optional columns are left out where they cannot be
            computed.
        gt_mean: also computes the protocol's columns with GT mean, which use the
            reference to change the image.
        json: a file for the scores.
        progress: shows a bar on standard error.

    Raises:
        ValueError: if a file has no counterpart, the sizes of a pair differ, or an
            image is damaged (the message names the files); or if the protocol resizes
            pairs, or needs references that are not given.
        OSError: if a folder is missing, or the file cannot be written.
    """
    chosen = protocols.get(protocol)
    chosen = chosen.with_gt_mean() if gt_mean else chosen
    if chosen.pair_size:
        raise ValueError(
            f"Protocol {chosen.name!r} resizes pairs before the model sees them, which "
            "is too late for saved images. Score them at their own size with "
            "another protocol, such as default."
        )
    folders = (predictions,) if targets is None else (predictions, targets)
    where = " and ".join(map(str, folders))
    chosen.check_keys(("image", "target")[: len(folders)], where)
    scan = scanning.scan_folders(*folders)
    problems = [
        f"{what}: {_some(files)}"
        for what, files in (
            ("results without a reference", scan.inputs_alone),
            ("references without a result", scan.targets_alone),
            ("two files of one name", scan.doubles),
        )
        if files
    ]
    if problems:
        problems += [scan.not_read()] if scan.skipped else []
        wrong = "cannot be scored" if targets is None else "do not pair"
        raise ValueError(f"{where} {wrong}; {'; '.join(problems)}.")
    if not scan.files:
        raise ValueError(scanning.no_images(where, scan))
    messages.note("; ".join(scan.notes()) and f"{where}: {'; '.join(scan.notes())}.")
    json = json and _writable_file(json)
    places = [str(files.absolute(folder)) for folder in folders]

    constants: dict[metrics.Metric, dict] = {}
    smallest = _smallest([image for image, *_ in scan.files.values()])
    chosen = chosen.available(constants, size=smallest)
    scorer = chosen.scorer(constants)

    def score(pair: Sequence[pathlib.Path]) -> tuple[dict[str, float], str]:
        image, *target = ([io.read_rgb(path)] for path in pair)
        row = scorer(image, *target, names=pair[:1])[0]
        return row, results.pixels_hash(*target[0]) if target else ""

    with (
        progress_bar(len(scan.files), progress) as advance,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        rows, references = {}, {}
        for name, (row, reference) in zip(
            scan.files, pool.map(score, scan.files.values()), strict=True
        ):
            rows[name], references[name] = row, reference
            advance()
    scores = Scores(
        protocol=chosen,
        images=rows,
        facts={
            "data": {
                **dict(zip(("pred", "gt"), places, strict=False)),
                **({"references": references} if targets is not None else {}),
            },
            "device": "host",
            # What made the files is not known: null.
            "options": {
                "image": "files",
                "self_ensemble": None,
                "tile": None,
                "gt_mean": chosen.uses_reference,
                "constants": scorer.origins,
            },
        },
    )
    if json:
        results.write_json(json, scores)
    return scores


def _smallest(paths: Sequence[pathlib.Path]) -> tuple[int, int]:
    """Returns the least height and the least width of image files."""
    headers = sources.parallel_map(reading.read_header, paths)
    return min(x.height for x in headers), min(x.width for x in headers)


def _run_folder(described: dict[str, Any]) -> weight_files.RunFolder | None:
    """Returns the run that the weights come from, None if they are from a file."""
    if described["source"] != "run":
        return None
    return weight_files.RunFolder.of_checkpoint(described["path"])


def _writable_file(path: str | os.PathLike) -> pathlib.Path:
    """Returns the path of a file to write; its folder exists and is writable."""
    path = files.path(path)
    return files.writable_folder(path.parent) / path.name


def _some(files: Sequence[pathlib.Path | str]) -> str:
    return messages.listed((pathlib.Path(file).name for file in files), limit=_NAMED)
