"""Score files and the scores of runs, read and checked."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llie_jax import files, messages, metrics, registry
from llie_jax import weights as weight_files
from llie_jax.evaluation import provenance
from llie_jax.evaluation import scores as score_files
from llie_jax.metrics import protocol as protocols

SCORES = "scores.json"
_DEPTHS = ("", "*", "*/*")
"""Where below a given folder score files are looked for."""

_CONVERSION = ("output", "multiple", "pad_mode", "size", "pair_size")
"""The fields of a protocol that change pixels before the metrics see them."""

_NO_TEST_OPTIONS = {
    *("protocol", "pad_multiple", "pad_mode", "batch_size", "tile", "crop_multiple"),
    *("tiled", "self_ensemble", "gt_mean", "inputs", "uses_reference", "overlap"),
    *("selected_on_test", "image", "task", "constants"),
}
"""Entries of a file's `options` that are no test options of the model."""

_GENERIC = {
    *("images", "results", "pred", "predictions", "scores", "eval", "checkpoints"),
    *("out", "output", "outputs", "enhanced"),
}
"""Names of folders and files that tell no model."""

_OUTPUTS = {
    "round": "output rounded to 8 bits",
    "truncate": "output truncated to 8 bits",
    "clip": "output clipped, not rounded",
    "raw": "output neither clipped nor rounded",
}


@dataclasses.dataclass(frozen=True)
class Column:
    """What one kind of number is.

    Attributes:
        name: such as "psnr".
        metric: its definition, such as "rgb_uint8".
        unit: "dB", or "" for none.
        higher_is_better: whether larger values are better.
        uses_reference: whether the metric changes the image by what the reference
            shows (GT mean).
    """

    name: str
    metric: str
    unit: str = ""
    higher_is_better: bool = True
    uses_reference: bool = False

    @property
    def heading(self) -> str:
        """The name and the unit, for a table."""
        name = score_files.title(self.name)
        name += f" ({self.unit})" if self.unit else ""
        return f"{name}, {score_files.USES_REFERENCE}" if self.uses_reference else name

    def text(self, value: float) -> str:
        """Returns a value with the usual digits: two for dB, else four."""
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return f"{value:.2f}" if self.unit == "dB" else f"{value:.4f}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A protocol as a file records it; files of one setting share columns.

    Attributes:
        name: of the protocol.
        conversion: what it does to pixels before the metrics, in words.
    """

    name: str
    conversion: str


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The content of one score file.

    Attributes:
        path: the file.
        label: the model's label, as the user gave it; "" if none was given.
        setting: the protocol.
        columns: column name -> what it is.
        means: the mean of each column; all that there is of columns without values
            for single images.
        images: image name -> column -> value.
        inputs: likewise for the unchanged inputs; empty if not recorded.
        data: name, split, root, references; or the folders `pred` and `gt`.
        spec: the model; None if the file scores saved images.
        weights: what is known about the weights.
        options: how the model was run.
        measured: time and memory; empty if not recorded.
    """

    path: pathlib.Path
    label: str
    setting: Setting
    columns: Mapping[str, Column]
    means: Mapping[str, float]
    images: Mapping[str, Mapping[str, float]]
    inputs: Mapping[str, Mapping[str, float]]
    data: Mapping[str, Any]
    spec: Mapping[str, Any] | None
    weights: Mapping[str, Any]
    options: Mapping[str, Any]
    measured: Mapping[str, Any]

    @property
    def references(self) -> Mapping[str, str]:
        """A hash of each reference; empty if not recorded."""
        return self.data.get("references") or {}

    @property
    def test_options(self) -> dict[str, Any]:
        """The test options of the model that differ from its defaults."""
        given = {k: v for k, v in self.options.items() if k not in _NO_TEST_OPTIONS}
        defaults = _default_options(self.spec)
        return {k: v for k, v in given.items() if defaults.get(k, not v) != v}

    @property
    def marks(self) -> tuple[str, ...]:
        """What makes the scores unlike others."""
        saved = ["from saved files"] if self.options.get("image") == "files" else []
        return tuple(dict.fromkeys([*self.flaws, *self.changes, *saved]))

    @property
    def flaws(self) -> tuple[str, ...]:
        """The marks of scores that cannot be compared with those of other models."""
        return tuple(score_files.marks(self.options))

    @property
    def changes(self) -> tuple[str, ...]:
        """How the model was run, where that is not the usual way."""
        options = self.options
        found = [f"{name} = {value}" for name, value in self.test_options.items()]
        # A list of `gt_mean` names columns, which are marked one by one.
        if options.get("uses_reference") or options.get("gt_mean") is True:
            found.append(score_files.USES_REFERENCE)
        if options.get("tiled"):
            found.append(f"in tiles of {options.get('tile')}")
        if options.get("self_ensemble"):
            found.append("self-ensemble of 8")
        return tuple(found)

    @property
    def seed(self) -> int | None:
        """The seed of the run; None if it is not known."""
        return self.weights.get("seed")

    @property
    def weights_id(self) -> str:
        """What tells one set of weights from another."""
        if digest := self.weights.get("weights_sha256"):
            return digest
        return str(self.data.get("pred") or self.path)

    @property
    def name(self) -> str:
        """The name of the weights, or of the folder of saved images."""
        given = self.weights.get("weights") or self.data.get("pred")
        path = pathlib.Path(str(given)) if given else self.path.parent
        if path.suffix in (".safetensors", ".csv"):
            path = path.with_suffix("")
        if self.weights.get("source") in ("shipped", "published"):
            return str(given)
        named = [each for each in (path, *path.parents) if each.name not in _GENERIC]
        return (named[0].name if named else "") or path.name


def read(inputs: Sequence[str | os.PathLike]) -> list[Result]:
    """Returns the results of score files and of folders that hold some.

    Args:
        inputs: score files; folders with `scores.json` (up to two levels below, as in
            a run); each with `LABEL=` before it if the model is to have that label.

    Raises:
        FileNotFoundError: if a path does not exist or holds no scores.
        ValueError: if a file is not a score file.
    """
    found: dict[pathlib.Path, Result] = {}
    for given in inputs:
        label, path = _split_label(os.fspath(given))
        for file in _score_files(path):
            found.setdefault(file.resolve(), _read(file, label))
    return _without_copies(found.values())


def _split_label(text: str) -> tuple[str, pathlib.Path]:
    """Returns the label and the path of `LABEL=PATH` or `PATH`."""
    label, equals, path = text.partition("=")
    if not equals or files.path(text).exists():
        return "", files.path(text).expanduser()
    if not label.strip() or not path:
        raise ValueError(f"{text!r} is neither a path nor LABEL=PATH.")
    return label.strip(), files.path(path).expanduser()


def _score_files(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the score files that a path stands for."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no file or folder {path}; give a run, a folder that `llie-jax "
            "eval --out` wrote, or a score file."
        )
    found = [
        file
        for depth in _DEPTHS
        for file in sorted(path.glob(f"{depth}/{SCORES}" if depth else SCORES))
    ]
    if found:
        return found
    if weight_files.RunFolder(path).config.is_file():
        raise FileNotFoundError(
            f"The run {path} has not been scored yet; run `llie-jax eval --weights "
            f"{path} --data NAME --out {path}/eval` first."
        )
    raise FileNotFoundError(
        f"{path} holds no {SCORES}; `llie-jax eval --out {path}` writes one."
    )


def _read(path: pathlib.Path, label: str) -> Result:
    """Returns the content of a score file, checked."""

    def wrong(why: str) -> ValueError:
        return ValueError(
            f"{path} is not a score file: {why}. Give what `llie-jax eval` or "
            "`llie-jax score --json` wrote."
        )

    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise wrong("it is not JSON") from None
    if not isinstance(content, dict):
        raise wrong("it holds no JSON object")
    for key, kind in (("protocol", str), ("images", dict), ("mean", dict)):
        if not isinstance(content.get(key), kind):
            raise wrong(f"it has no {key!r}")
    images = _rows(content["images"], wrong)
    if not images:
        raise wrong("it scores no image")
    (means,) = _rows({"mean": content["mean"]}, wrong).values()
    if not means:
        raise wrong("it has no metric")

    def table(key: str, holder: Mapping = content) -> dict[str, Any]:
        value = holder.get(key)
        if value is not None and not isinstance(value, dict):
            raise wrong(f"its {key!r} is no object")
        return value or {}

    options, data = table("options"), table("data")
    recorded = table("protocol", options)
    weights = table("weights") | {"weights_sha256": content.get("weights_sha256")}
    names = dict.fromkeys([*means, *next(iter(images.values()))])
    columns = _columns(list(names), table("columns"), recorded, content["protocol"])
    table("references", data)
    return Result(
        path=path,
        label=label,
        setting=_setting(content["protocol"], recorded),
        columns=columns,
        means=means,
        images=images,
        inputs=_rows(table("images", table("input")), wrong),
        data=data,
        spec=table("model") or None,
        weights=weights | _seed(weights),
        options=options,
        measured=table("measured"),
    )


def _rows(rows: Mapping, wrong) -> dict[str, dict[str, float]]:
    """Returns name -> column -> number; all rows have the same columns."""
    found: dict[str, dict[str, float]] = {}
    columns = None
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise wrong(f"the scores of {name!r} are no object")
        found[name] = {key: files.number(value) for key, value in row.items()}
        for key, value in found[name].items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or math.isnan(value):
                raise wrong(f"{key} of {name!r} is {str(value)[:40]}, no number")
        columns = columns or found[name].keys()
        if found[name].keys() != columns:
            raise wrong(
                f"{name!r} has the columns {messages.listed(found[name])}, others have "
                f"{messages.listed(columns)}"
            )
    return found


def _columns(names, recorded, protocol, protocol_name) -> dict[str, Column]:
    """Returns what each column is; files of older versions record only the metrics."""
    specs = protocol.get("metrics")
    if not isinstance(specs, dict):
        known = protocols.PROTOCOLS.get(protocol_name)
        specs = known.metrics if known else {}
    found = {}
    for name in names:
        facts = recorded.get(name)
        if isinstance(facts, dict):
            found[name] = Column(
                name,
                str(facts.get("metric", name)),
                str(facts.get("unit", "")),
                bool(facts.get("higher_is_better", True)),
                bool(facts.get("uses_reference", False)),
            )
            continue
        spec = specs.get(name, name)
        try:
            card = metrics.card(spec)
        except (ValueError, TypeError):
            found[name] = Column(name, str(name))
        else:
            text = metrics.metric_name(spec)
            found[name] = Column(
                name, text, card.unit, card.higher_is_better, card.uses_reference
            )
    return found


def _setting(name: str, recorded: Mapping[str, Any]) -> Setting:
    """Returns the protocol of a file; its name alone if nothing else is known."""
    if not recorded and name in protocols.PROTOCOLS:
        recorded = protocols.PROTOCOLS[name].to_dict()
    if "output" not in recorded:
        return Setting(name, str(recorded.get("description", "")))
    value = {key: recorded.get(key) for key in _CONVERSION}
    words = [_OUTPUTS.get(str(value["output"]), f"output {value['output']}")]
    if value["multiple"] or value["pad_mode"]:
        multiple = value["multiple"] or "the model's multiple"
        mode = f" ({value['pad_mode']})" if value["pad_mode"] else ""
        words.append(f"padded to {multiple}{mode}")
    for key, text in (("size", "the model gets"), ("pair_size", "pairs at")):
        if value[key]:
            words.append(f"{text} {' x '.join(map(str, value[key]))}")
    return Setting(name, ", ".join(words))


def _seed(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns seed and recipe of weights whose file does not record them.

    The config of their run still tells, where it is at hand and unchanged.
    """
    digest = weights.get("config_sha256")
    if "recipe_sha256" in weights or not digest or not weights.get("path"):
        return {}
    run = weight_files.RunFolder.of_checkpoint(str(weights["path"]))
    try:
        if weight_files.file_sha256(run.config) == digest:
            return provenance.training_facts(run.read_config())
    except (OSError, ValueError):
        pass
    return {}


def _default_options(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the test options of a model, as it has them by default."""
    spec = spec or {}
    while isinstance(spec.get("backbone"), dict):
        spec = spec["backbone"]
    try:
        make = registry.get(str(spec.get("name", ""))).make
    except (ValueError, KeyError):
        return {}
    return {name: getattr(make, name, None) for name in make.test_options}


def _without_copies(results: Iterable[Result]) -> list[Result]:
    """Returns results without copies of others, such as `scores.json` and `--json`."""
    found: list[Result] = []
    for result in results:
        for other in found:
            same = ("label", "weights_id", "setting", "images", "means", "marks")
            if all(getattr(result, key) == getattr(other, key) for key in same):
                messages.note(f"{result.path} is a copy of {other.path}.")
                break
        else:
            found.append(result)
    return found
