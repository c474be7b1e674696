"""The scores of a set of images, and the files and tables that present them."""

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llie_jax import files, metrics, registry
from llie_jax.files import plain as plain
from llie_jax.messages import printable
from llie_jax.metrics.niqe import ORIGINAL
from llie_jax.metrics.protocol import Protocol

_ROWS_ON_SCREEN = 40

USES_REFERENCE = "uses the reference"
"""The mark of scores whose outputs depend on the reference."""

Columns = Mapping[str, float]
"""Column ("psnr", "ssim") -> value."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One example for the report, scaled down: uint8 arrays [H, W, 3] of one size.

    Attributes:
        name: of the record.
        image: the input.
        output: the model's output.
        target: the reference, None if there is none.
    """

    name: str
    image: np.ndarray
    output: np.ndarray
    target: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of every image, and everything that they depend on.

    Attributes:
        protocol: how they were computed.
        images: image name -> columns.
        inputs: likewise for the unchanged inputs, a baseline for any model; empty if
            there are none.
        facts: what the result file also records: model, data, device, options.
        pictures: examples for the report.
        other: "protocols" and "metrics" -> name -> mean columns or value, computed from
            the same outputs; empty unless requested.
    """

    protocol: Protocol
    images: Mapping[str, Columns]
    inputs: Mapping[str, Columns] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    other: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> dict[str, registry.Spec]:
        """The protocol's columns that were computed -> their metrics."""
        rows = list(self.images.values())
        return {
            column: metric
            for column, metric in self.protocol.metrics.items()
            if all(column in row for row in rows)
        }

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each column over the images."""
        return mean_columns(self.images.values())

    @property
    def input_mean(self) -> dict[str, float]:
        """The mean over the unchanged inputs; empty if there are none."""
        return mean_columns(self.inputs.values())

    @property
    def marks(self) -> list[str]:
        """What makes the scores unlike others: shown in every table, at the number."""
        return marks(self.facts.get("options", {}))

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the result file; infinity is the string "inf"."""
        facts = dict(self.facts)
        options = {"protocol": self.protocol.to_dict(), **facts.pop("options", {})}
        content = {
            "protocol": self.protocol.name,
            "mean": self.mean,
            "images": self.images,
            "count": self.count,
            "model": facts.pop("model", None),
            "weights_sha256": facts.pop("weights_sha256", None),
            "device": facts.pop("device", None),
            "columns": {
                column: {
                    "metric": metrics.metric_name(metric),
                    "unit": unit(metric),
                    "higher_is_better": metrics.card(metric).higher_is_better,
                    "uses_reference": uses_reference(metric),
                }
                for column, metric in self.columns.items()
            },
            "options": options,
            **facts,
        }
        if self.inputs:
            content["input"] = {"mean": self.input_mean, "images": self.inputs}
        if self.other:
            content["other"] = self.other
        return plain(content)


def marks(options: Mapping[str, Any]) -> list[str]:
    """Returns what makes scores unlike others, from the options of their file."""
    found = []
    # A list of `gt_mean` names columns, which are marked one by one.
    if options.get("uses_reference") or options.get("gt_mean") is True:
        found.append(USES_REFERENCE)
    if options.get("overlap"):
        found.append(options["overlap"])
    if options.get("selected_on_test"):
        found.append("selected on the test split")
    if options.get("self_ensemble"):
        found.append("self-ensemble of 8")
    if options.get("constants", {}).get("niqe", ORIGINAL) != ORIGINAL:
        found.append("NIQE with other pristine parameters than papers")
    if options.get("crop_multiple", 1) > 1:
        found.append(f"on crops to multiples of {options['crop_multiple']}")
    return found


def pixels_hash(image: np.ndarray) -> str:
    """Returns a hash of an image's size, depth and pixels, 16 hex digits."""
    head = f"{image.shape} {image.dtype}".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()[:16]


def mean_columns(rows) -> dict[str, float]:
    """Returns the mean of each column; infinite if any value is."""
    rows = list(rows)
    if not rows:
        return {}
    return {column: statistics.fmean(row[column] for row in rows) for column in rows[0]}


def unit(metric: registry.Spec) -> str:
    """Returns the unit of a metric, "" if it has none."""
    return metrics.card(metric).unit


def text(value: float, metric: registry.Spec) -> str:
    """Returns a value with the usual digits of its metric: two for dB, else four."""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.2f}" if unit(metric) == "dB" else f"{value:.4f}"


def heading(column: str, metric: registry.Spec) -> str:
    """Returns the heading of a column: "PSNR (dB)", "SSIM, uses the reference"."""
    name = title(column) + (f" ({unit(metric)})" if unit(metric) else "")
    return f"{name}, uses the reference" if uses_reference(metric) else name


def definitions(protocol: Protocol) -> str:
    """Returns what each column is: "PSNR is rgb_uint8, SSIM is gauss11"."""
    text = ", ".join(
        f"{title(column)} is {metrics.metric_name(metric)}"
        for column, metric in protocol.metrics.items()
    )
    if protocol.not_computed:
        missing = ", ".join(map(title, protocol.not_computed))
        text += f"; not computed: {missing} (`llie-jax features list` says why)"
    return text


def title(column: str) -> str:
    """Returns "PSNR GT mean" for "psnr_gt_mean"."""
    return column.upper().replace("_GT_MEAN", " GT mean")


def protocol_text(row: Columns, protocol: Protocol) -> str:
    """Returns the columns of a protocol in one cell; those with GT mean are marked."""
    return " / ".join(
        text(value, metric) + (" (GT mean)" if uses_reference(metric) else "")
        for column, value in row.items()
        for metric in [protocol.metrics[column]]
    )


def marked(metric: str) -> str:
    """Returns a metric's name, with a mark if it uses the reference."""
    return f"{metric}, uses the reference" if uses_reference(metric) else metric


def uses_reference(metric: registry.Spec) -> bool:
    """Returns whether a metric changes the image by what the reference shows."""
    return metrics.card(metric).uses_reference


def write_json(path: str | os.PathLike, scores: Scores) -> None:
    """Writes the result file, completely or not at all."""
    content = json.dumps(scores.to_dict(), indent=2, allow_nan=False)
    with files.atomic(path) as temporary:
        temporary.write_text(content + "\n")


def write_csv(path: str | os.PathLike, scores: Scores) -> None:
    """Writes one line per image: its scores, and those of its input if known."""
    columns = list(scores.columns)
    beside = [f"input_{column}" for column in columns] if scores.inputs else []
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", *columns, *beside])
    for name, row in scores.images.items():
        floor = scores.inputs.get(name, {})
        writer.writerow(
            [_cell(name), *(row[c] for c in columns), *(floor[c] for c in floor)]
        )
    with files.atomic(path) as temporary:
        temporary.write_bytes(text.getvalue().encode())


def _cell(name: str) -> str:
    """Returns a name for a table program, which would compute "=1+1"."""
    name = printable(name)
    return f"'{name}" if name[:1] in "=+-@" else name


def show(scores: Scores, console: Console) -> None:
    """Prints the table of scores, and those of other protocols if there are any."""
    columns = scores.columns
    console.print(f"Protocol {scores.protocol.name}: {definitions(scores.protocol)}")
    if seen := scores.facts.get("options", {}).get("uses_reference"):
        console.print(
            f"The model saw the references ({', '.join(seen)}): these scores are not "
            "comparable with those of models that see only the image."
        )
    table = Table("image", box=box.SIMPLE_HEAD)
    for column, metric in columns.items():
        table.add_column(heading(column, metric), justify="right")

    def add(name, row, **options):
        cells = (text(row[column], metric) for column, metric in columns.items())
        # As text: in a string, rich reads [names in brackets] as styles.
        table.add_row(Text(printable(name)), *cells, **options)

    if scores.count <= _ROWS_ON_SCREEN:
        for name, row in scores.images.items():
            add(name, row)
        table.add_section()
    label = ", ".join([f"mean of {scores.count}", *scores.marks])
    add(label, scores.mean, style="bold")
    if scores.inputs:
        add("unchanged input", scores.input_mean, style="dim")
    console.print(table)
    if scores.other:
        console.print("The same outputs under other definitions:")
        console.print(_other_table(scores))


def _other_table(scores: Scores) -> Table:
    """Returns the means of the same outputs under every protocol and metric."""
    from llie_jax.metrics import protocol as protocols

    table = Table("protocol or metric", box=box.SIMPLE_HEAD)
    table.add_column("value", justify="right")
    table.add_column("whose numbers")
    for name, row in scores.other["protocols"].items():
        protocol = protocols.get(name)
        table.add_row(name, protocol_text(row, protocol), protocol.description)
    table.add_section()
    for name, value in scores.other["metrics"].items():
        table.add_row(marked(name), text(value, name), metrics.card(name).used_by)
    return table
