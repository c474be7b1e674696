"""Scores of a user's own classifier or segmentation network on enhanced images.

Papers feed enhanced photos of labelled night sets (CODaN, Dark Zurich, Nighttime
Driving) to a fixed network. What it predicts is scored here; the network is the user's.

* Classification: a CSV file with the columns `name` and `label`. The true labels have
  the same form, or are the names of folders (`cat/001.png`). An image's name is its
  path below the folder; its suffix does not matter.
* Segmentation: a folder of PNG files with one class number per pixel, the 19 train ids
  of Cityscapes; 255 is not labelled. Files pair by their names, whatever folders they
  are in, without the endings that Cityscapes and Dark Zurich append.
"""

import csv
import dataclasses
import io
import os
import pathlib
import re
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from llie_jax import files, messages
from llie_jax.evaluation import scores as score_files
from llie_jax.image import formats

TASKS = ("classification", "segmentation")

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light"),
    *("traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car"),
    *("truck", "bus", "train", "motorcycle", "bicycle"),
)
"""The classes of Cityscapes by their train id."""

IGNORED = 255
"""The class number of pixels without a label."""

_TRAIN_IDS = "labelTrainIds"
_ENDINGS = re.compile(
    r"_(rgb_anon|leftImg8bit|gt(Fine|Coarse)?_labelTrainIds|labelTrainIds)$"
)
_NAMED = 5  # names that an error lists


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """The scores of predictions, shaped like those of images.

    Attributes:
        task: one of `TASKS`.
        mean: column -> value over the whole set.
        images: image name -> column -> value.
        classes: class -> top-1 accuracy, or IoU; without classes that neither occur
            nor are predicted.
        columns: column -> definition.
        facts: what the file also records.
    """

    task: str
    mean: Mapping[str, float]
    images: Mapping[str, Mapping[str, float]]
    classes: Mapping[str, float]
    columns: Mapping[str, str]
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the result file."""
        description = "; ".join(f"{key}: {text}" for key, text in self.columns.items())
        return {
            "protocol": self.task,
            "mean": dict(self.mean),
            "images": {name: dict(row) for name, row in self.images.items()},
            "count": len(self.images),
            "model": None,
            "weights_sha256": None,
            "device": "host",
            "columns": {
                key: {"metric": key, "unit": "", "higher_is_better": True}
                for key in self.columns
            },
            "options": {
                "task": self.task,
                "protocol": {"name": self.task, "description": description},
            },
            "classes": dict(self.classes),
            **self.facts,
        }


def score(
    task: str, predictions: str | os.PathLike, labels: str | os.PathLike
) -> TaskScores:
    """Scores predictions against labels.

    Args:
        task: one of `TASKS`.
        predictions: a CSV file, or a folder of class numbers; see the module.
        labels: a CSV file or a folder of classes, or a folder of class numbers.

    Raises:
        ValueError: if the task is unknown, a file has another form, or an image has a
            label or a prediction only.
        OSError: if a file or folder is missing.
    """
    if task not in TASKS:
        raise ValueError(
            f"There is no task {task!r}.{messages.suggest(task, TASKS)} Tasks: "
            f"{', '.join(TASKS)}."
        )
    make = _classification if task == "classification" else _segmentation
    return make(files.local(predictions), files.local(labels))


def _classification(predictions: pathlib.Path, labels: pathlib.Path) -> TaskScores:
    predicted = _read_labels(predictions)
    true = _class_folders(labels) if labels.is_dir() else _read_labels(labels)
    _check_names(predicted, true, predictions, labels)
    images = {n: {"top1": float(predicted[n] == true[n])} for n in true}
    by_class: dict[str, list[float]] = {}
    for name, label in true.items():
        by_class.setdefault(label, []).append(images[name]["top1"])
    return TaskScores(
        task="classification",
        mean=score_files.mean_columns(images.values()),
        images=images,
        classes={k: statistics.fmean(v) for k, v in sorted(by_class.items())},
        columns={"top1": "share of images whose predicted class is the true one"},
        facts=_facts(predictions, labels, true),
    )


def _facts(predictions, labels, references: Mapping[str, str]) -> dict[str, Any]:
    return {
        "data": {
            "pred": str(files.absolute(predictions)),
            "gt": str(files.absolute(labels)),
            "references": dict(references),
        }
    }


def _read_labels(path: pathlib.Path) -> dict[str, str]:
    """Returns name without suffix -> label, of a CSV file."""
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; predictions of a classifier are a CSV file with the "
            "columns name and label."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a CSV file in UTF-8.") from None
    lines = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    if not {"name", "label"} <= set(lines.fieldnames or ()):
        raise ValueError(
            f"{path} has the columns {messages.listed(lines.fieldnames or ())}; "
            "expected a first line with name and label."
        )
    found: dict[str, str] = {}
    try:
        for line in lines:
            name, label = (line["name"] or "").strip(), (line["label"] or "").strip()
            if not name or not label:
                raise ValueError(f"{path}, line {lines.line_num}: no name or no label.")
            name = _without_suffix(name)
            if name in found:
                raise ValueError(f"{path}, line {lines.line_num}: {name!r} again.")
            found[name] = label
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}.") from None
    if not found:
        raise ValueError(f"{path} has no line below its first.")
    return found


def _without_suffix(name: str) -> str:
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    return str(path.with_suffix("") if formats.is_read(path) else path)


def _class_folders(folder: pathlib.Path) -> dict[str, str]:
    """Returns CLASS/NAME -> CLASS for the images in folders of classes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if formats.is_read(path) and path.is_file() and len(below.parts) > 1:
            found[below.with_suffix("").as_posix()] = below.parts[0]
    if not found:
        raise ValueError(
            f"{folder} has no images in folders of classes, such as cat/001.png."
        )
    return found


def _segmentation(predictions: pathlib.Path, labels: pathlib.Path) -> TaskScores:
    predicted, true = _label_maps(predictions), _label_maps(labels)
    _check_names(predicted, true, predictions, labels)
    count = len(CLASSES)
    whole = np.zeros((count, count + 1), np.int64)
    images, hashes = {}, {}
    for name, path in true.items():
        reference = _read_map(path)
        confusion = _confusion(_read_map(predicted[name]), reference, predicted[name])
        if not confusion.sum():
            raise ValueError(f"{path} has no labelled pixel.")
        whole += confusion
        images[name] = {"image_miou": float(np.nanmean(_iou(confusion)))}
        hashes[name] = score_files.pixels_hash(reference)
    iou = _iou(whole)
    return TaskScores(
        task="segmentation",
        mean={
            "miou": float(np.nanmean(iou)),
            **score_files.mean_columns(images.values()),
        },
        images=images,
        classes={
            name: float(value)
            for name, value in zip(CLASSES, iou, strict=True)
            if not np.isnan(value)
        },
        columns={
            "miou": "mean over the 19 Cityscapes classes of the IoU over all pixels",
            "image_miou": "the same for each image alone",
        },
        facts=_facts(predictions, labels, hashes),
    )


def _label_maps(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns name -> PNG file below a folder; of label folders only the train ids."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}; segmentation needs PNG files of class "
            "numbers."
        )
    paths = sorted(folder.rglob("*.png"))
    if any(path.stem.endswith(_TRAIN_IDS) for path in paths):
        paths = [path for path in paths if path.stem.endswith(_TRAIN_IDS)]
    if not paths:
        raise ValueError(f"{folder} holds no PNG files.")
    found: dict[str, pathlib.Path] = {}
    for path in paths:
        name = _ENDINGS.sub("", path.stem)
        if name in found:
            raise ValueError(f"{found[name]} and {path} have one name.")
        found[name] = path
    return found


def _read_map(path: pathlib.Path) -> np.ndarray:
    """Returns the class numbers of a PNG file, uint8 [H, W]."""
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from None
    if mode not in ("L", "P"):
        raise ValueError(
            f"{path} is a picture of mode {mode}; expected one class number per pixel, "
            "8 bits, grey or with a palette."
        )
    wrong = values[(values >= len(CLASSES)) & (values != IGNORED)]
    if wrong.size:
        raise ValueError(
            f"{path} holds the class number {wrong.flat[0]}; expected the train ids 0 "
            f"to {len(CLASSES) - 1} of Cityscapes, and {IGNORED} without a label."
        )
    return values


def _confusion(predicted: np.ndarray, true: np.ndarray, path) -> np.ndarray:
    """Returns pixel counts [true class, predicted class]; the last column: no class."""
    if predicted.shape != true.shape:
        raise ValueError(
            f"{path} is {predicted.shape[0]} x {predicted.shape[1]} but its label is "
            f"{true.shape[0]} x {true.shape[1]} (height x width)."
        )
    count = len(CLASSES)
    labelled = true != IGNORED
    columns = np.minimum(predicted[labelled], count).astype(np.int64)
    flat = true[labelled].astype(np.int64) * (count + 1) + columns
    counts = np.bincount(flat, minlength=count * (count + 1))
    return counts.reshape(count, count + 1)


def _iou(confusion: np.ndarray) -> np.ndarray:
    """Returns the IoU of each class; NaN where it neither occurs nor is predicted."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(1) + confusion[:, :-1].sum(0) - hits
    with np.errstate(invalid="ignore"):
        return hits / union


def _check_names(predicted, true, predictions, labels) -> None:
    """Raises ValueError if an image has only a prediction, or only a label."""
    problems = [
        f"{what}: {messages.listed(sorted(names), limit=_NAMED)}"
        for what, names in (
            ("predictions without a label", predicted.keys() - true.keys()),
            ("labels without a prediction", true.keys() - predicted.keys()),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"{predictions} and {labels} do not pair; {'; '.join(problems)}."
        )
