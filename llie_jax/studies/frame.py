"""The frame of all studies: what is studied, how, and the report.

A `Study` is a question about a trained model. Its `subject` is the model with the
images; `run` gives `Findings`; a `Report` adds the facts they depend on and turns them
into JSON, lines of text, and a page.
"""

import abc
import dataclasses
import html
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

import llie_jax
from llie_jax import metrics, parallel, weights
from llie_jax.data import sources
from llie_jax.evaluation import scores as results
from llie_jax.inference.enhancer import Enhancer, check_finite
from llie_jax.models.base import Model
from llie_jax.report import page
from llie_jax.types import Record

PSNR = "rgb_uint8"
"""The PSNR of all studies, that of the default protocol."""


def no_progress() -> None:
    """Reports no progress."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained model and the images on which it is studied.

    Attributes:
        model: the model.
        variables: its variables, without the collection `cache`, which depends on the
            others.
        source: the images, see `llie_jax.data.open_source`.
        count: number of images; the first ones of the source.
    """

    model: Model
    variables: Mapping[str, Any]
    source: sources.Source
    count: int

    def __iter__(self) -> Iterator[Record]:
        """Yields the records of the images."""
        return (self.source[index] for index in range(self.count))


@dataclasses.dataclass(frozen=True)
class Findings:
    """The outcome of a study.

    Attributes:
        numbers: everything that a JSON file can hold.
        pictures: arrays that only the page shows; their structure is the study's own.
    """

    numbers: Mapping[str, Any]
    pictures: Any = None


class Study(abc.ABC):
    """A question about a trained model.

    Subclasses are frozen dataclasses. Their fields are the options of the study, and
    are checked when it is made.

    Attributes:
        topic: completes "The study" in messages, such as " of a bank".
        needs: keys that every record must have.
    """

    topic: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ("image", "target")

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """The short name of the study."""

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the JSON file records."""
        return {}

    @abc.abstractmethod
    def check(self, model: Model) -> None:
        """Checks that a model has what the study is about.

        Raises:
            ValueError: if it does not.
        """

    def subject(
        self,
        model: Model,
        variables: Mapping[str, Any],
        source: sources.Source,
        *,
        max_images: int | None = None,
    ) -> Subject:
        """Returns what is studied, after all checks.

        Args:
            model: the model.
            variables: its variables.
            source: the images.
            max_images: studies only the first `max_images` images.

        Raises:
            ValueError: if the model does not suit the study, or the source has no
                images or lacks keys that the study needs.
        """
        self.check(model)
        sources.check_keys(source, self.needs, f"The study{self.topic}")
        count = len(source) if max_images is None else min(max_images, len(source))
        if count < 1:
            raise ValueError(f"{source.name} {source.split} holds no images to study.")
        kept = {name: tree for name, tree in variables.items() if name != "cache"}
        return Subject(model, kept, source, count)

    @abc.abstractmethod
    def steps(self, subject: Subject) -> int:
        """Returns how often `run` calls `advance`."""

    @abc.abstractmethod
    def run(
        self, subject: Subject, advance: Callable[[], None] = no_progress
    ) -> Findings:
        """Runs the study.

        Args:
            subject: from `subject`.
            advance: called after each image.

        Raises:
            ValueError: if an enhanced image is not finite.
        """

    @abc.abstractmethod
    def title(self, numbers: Mapping[str, Any]) -> str:
        """Returns the heading of the page."""

    @abc.abstractmethod
    def lines(self, numbers: Mapping[str, Any]) -> list[str]:
        """Returns the numbers as text. The page leaves indented lines to its charts."""

    def sections(self, numbers: Mapping[str, Any], pictures: Any) -> list[str]:
        """Returns charts and tables as HTML."""
        del numbers, pictures
        return []

    def rows(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Returns rows for the page's table of settings."""
        del numbers
        return {}


@dataclasses.dataclass(frozen=True)
class Report:
    """Findings with the facts they depend on.

    Attributes:
        study: the study.
        numbers: facts and numbers of the findings.
        pictures: as in `Findings`.
    """

    study: Study
    numbers: Mapping[str, Any]
    pictures: Any

    def json(self) -> dict[str, Any]:
        """Returns all numbers as JSON can hold them."""
        return results.plain(self.numbers)

    def lines(self) -> list[str]:
        """Returns the numbers as text."""
        return self.study.lines(self.numbers)

    def write_page(self, path: str | os.PathLike) -> None:
        """Writes the page to an HTML file; it is complete or absent."""
        numbers = self.numbers
        facts = {
            "model": numbers["model"],
            "weights SHA-256": numbers["weights_sha256"],
            "data": numbers["data"],
            **self.study.rows(numbers),
            "device": numbers["device"],
            "versions": numbers["versions"],
        }
        text = [line for line in self.lines() if not line.startswith(" ")]
        sections = [
            "".join(f"<p>{html.escape(line)}</p>" for line in text),
            *self.study.sections(numbers, self.pictures),
            page.settings_table(facts),
        ]
        page.write_page(path, self.study.title(numbers), sections)


def report(
    study: Study, subject: Subject, findings: Findings, path: str | os.PathLike
) -> Report:
    """Returns the report of a study.

    Args:
        study: the study.
        subject: what was studied.
        findings: the outcome.
        path: the weights of the model, as for `llie_jax.weights.load`.
    """
    described, source = weights.describe(path), subject.source
    numbers = {
        **study.settings,
        "model": described["spec"],
        "weights_sha256": described["weights_sha256"],
        "data": {"name": source.name, "split": source.split, "images": subject.count},
        "device": parallel.device_kind(),
        "versions": {"llie_jax": llie_jax.__version__, "jax": jax.__version__},
        **findings.numbers,
    }
    return Report(study, numbers, findings.pictures)


def enhancer(model: Model, variables: Mapping[str, Any]) -> Enhancer:
    """Returns the enhancer of a study, which enhances any image in one piece."""
    return Enhancer(model, variables, limit=math.inf)


def enhanced(run: Enhancer, image: np.ndarray, name: str) -> np.ndarray:
    """Returns an enhanced image [H, W, 3] in [0, 1], float32, of the image's size.

    Args:
        run: from `enhancer`.
        image: [H, W, 3], as deep as its file.
        name: of the image, for the error.

    Raises:
        ValueError: if the result is not finite.
    """
    output = run(image, raw=True)  # rounding would hide small differences
    check_finite(output, name)
    return np.clip(output, 0, 1)


class Baseline:
    """The images and scores of a model as trained, to compare changed models with.

    Attributes:
        subject: the model and the images.
        names: of the images.
        outputs: enhanced images [H, W, 3] in [0, 1].
        psnr: PSNR of each image, in dB.

    Args:
        subject: the model and the images.
        advance: called after each image, of this and of all later passes.
        run: enhances the images; by default the model as it is.

    Raises:
        ValueError: if an enhanced image is not finite.
    """

    def __init__(
        self,
        subject: Subject,
        advance: Callable[[], None] = no_progress,
        run: Enhancer | None = None,
    ):
        self.subject, self._advance = subject, advance
        self._records = list(subject)
        self.names = [record["name"] for record in self._records]
        self._enhancer = run or enhancer(subject.model, subject.variables)
        self.outputs, self.psnr = self.changed(self._enhancer)

    def changed(self, run: Enhancer) -> tuple[list[np.ndarray], list[float]]:
        """Returns the images of another model and their PSNR in dB.

        Args:
            run: from `enhancer`.

        Raises:
            ValueError: if an enhanced image is not finite.
        """
        outputs = []
        for record in self._records:
            outputs.append(enhanced(run, record["image"], record["name"]))
            self._advance()
        return outputs, self._scores(outputs)

    def with_params(
        self, params: Mapping[str, Any]
    ) -> tuple[list[np.ndarray], list[float]]:
        """Returns the images with other parameters, and their PSNR in dB."""
        variables = {**self.subject.variables, "params": params}
        return self.changed(self._enhancer.with_variables(variables))

    def _scores(self, outputs: Sequence[np.ndarray]) -> list[float]:
        return [
            metrics.compute(PSNR, output, record["target"])
            for output, record in zip(outputs, self._records, strict=True)
        ]
