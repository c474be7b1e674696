"""How much a model's layers matter: layers are reset, and the images compared.

Source: Li et al., Rethinking Model Redundancy for Low-light Image Enhancement,
arXiv 2412.16459, Sections 3 and 5.2.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llie_jax import messages
from llie_jax.metrics import dmr
from llie_jax.models.base import Model
from llie_jax.studies import frame, redundancy_report
from llie_jax.studies import layers as layers_of

MEASURES = ("reset", "dmr", "poi")


class RedundancyStudy(frame.Study):
    """What the studies of redundancy have in common."""

    topic = " of redundancy"

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the JSON file records."""
        return {"study": self.label, "backbone_only": False}

    def title(self, numbers: Mapping[str, Any]) -> str:
        """Returns the heading of the page."""
        return f"Redundancy of {numbers['model']['name']} on {numbers['data']['name']}"

    def rows(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Returns rows for the page's table of settings."""
        return {
            "study": numbers["study"],
            "reset leaves ADR as it is": numbers["backbone_only"],
        }


@dataclasses.dataclass(frozen=True)
class Change:
    """The effect of resetting some layers, image by image.

    Attributes:
        layers: the layers that were reset.
        seed: of the initial values.
        psnr: PSNR of each image after the reset, in dB.
        degeneration: `metrics.dmr.degeneration` of each image, in dB.
    """

    layers: tuple[str, ...]
    seed: int
    psnr: tuple[float, ...]
    degeneration: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ResetStudy(RedundancyStudy):
    """Resets layers one at a time (DMR), and all layers of a kind together (POI).

    Attributes:
        measure: "dmr" only resets single layers, "poi" only all together, "reset" does
            both.
        kinds: the layers to reset, of `layers.KINDS`. A kind of which the model has no
            layers is skipped.
        pattern: resets only layers whose path matches.
        seeds: number of draws.
        backbone_only: keeps the parameters of ADR in attention layers.

    Raises:
        ValueError: if `measure` is unknown.
    """

    measure: str = "reset"
    kinds: tuple[str, ...] = layers_of.KINDS
    pattern: str | None = None
    seeds: int = 3
    backbone_only: bool = False

    def __post_init__(self):
        if self.measure not in MEASURES:
            raise ValueError(
                f"Unknown measure {self.measure!r}."
                f"{messages.suggest(self.measure, MEASURES)} Use one of {MEASURES}."
            )

    @property
    def label(self) -> str:
        """The short name of the study."""
        return self.measure

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the JSON file records."""
        return {**super().settings, "backbone_only": self.backbone_only}

    def check(self, model: Model) -> None:
        """Raises ValueError if no layer of the model is to be reset."""
        self.layers(model)

    def layers(self, model: Model) -> dict[str, list[str]]:
        """Returns the layers to reset: kind -> paths.

        Raises:
            ValueError: if there are none.
        """
        found, errors = {}, []
        for kind in self.kinds:
            try:
                found[kind] = layers_of.layers(model, kind, self.pattern)
            except ValueError as error:
                errors.append(error)
        if not found:
            raise errors[0]
        return found

    def steps(self, subject: frame.Subject) -> int:
        """Returns how often `run` calls `advance`."""
        kinds = self.layers(subject.model)
        singles = sum(map(len, kinds.values())) * (self.measure != "poi")
        groups = len(kinds) * (self.measure != "dmr")
        return subject.count * (1 + self.seeds * (singles + groups))

    def run(
        self, subject: frame.Subject, advance: Callable[[], None] = frame.no_progress
    ) -> frame.Findings:
        """Resets the layers with every seed; see `frame.Study.run`."""
        baseline = frame.Baseline(subject, advance)
        singles, groups = {}, {}
        for kind, chosen in self.layers(subject.model).items():
            seeds = range(self.seeds)
            if self.measure != "poi":
                singles[kind] = [
                    self.change(baseline, [layer], seed=seed)
                    for seed in seeds
                    for layer in chosen
                ]
            if self.measure != "dmr":
                groups[kind] = [
                    self.change(baseline, chosen, seed=seed) for seed in seeds
                ]
        return frame.Findings(_summary(baseline, singles, groups))

    def change(
        self, baseline: frame.Baseline, chosen: Sequence[str], *, seed: int
    ) -> Change:
        """Returns the effect of resetting some layers with one seed."""
        subject = baseline.subject
        params = layers_of.reset(
            subject.model,
            subject.variables["params"],
            chosen,
            seed=seed,
            backbone_only=self.backbone_only,
        )
        outputs, psnr = baseline.with_params(params)
        return Change(
            tuple(chosen),
            seed,
            tuple(psnr),
            tuple(map(dmr.degeneration, baseline.outputs, outputs)),
        )

    def lines(self, numbers: Mapping[str, Any]) -> list[str]:
        """Returns the numbers as text."""
        return redundancy_report.lines(numbers)

    def sections(self, numbers: Mapping[str, Any], pictures: Any) -> list[str]:
        """Returns the charts as HTML."""
        del pictures
        return redundancy_report.sections(numbers)


def _summary(
    baseline: frame.Baseline,
    singles: Mapping[str, Sequence[Change]],
    groups: Mapping[str, Sequence[Change]],
) -> dict[str, Any]:
    """Returns all numbers, as a JSON file holds them.

    Args:
        baseline: the model as trained.
        singles: changes by one layer at a time, all seeds: kind -> changes.
        groups: changes by all layers of a kind at once, all seeds: kind -> changes.
    """
    return {
        "definitions": {"dmr": dmr.DMR, "poi": dmr.POI, "psnr": frame.PSNR},
        "images": dict(zip(baseline.names, baseline.psnr, strict=True)),
        "psnr": float(np.mean(baseline.psnr)),
        "dmr": {kind: _dmr(changes) for kind, changes in singles.items()},
        "layers": {
            kind: {
                layer: _effect(baseline, [c for c in changes if c.layers == (layer,)])
                for layer in dict.fromkeys(c.layers[0] for c in changes)
            }
            for kind, changes in singles.items()
        },
        "reset": {
            kind: {
                **_effect(baseline, changes),
                "poi": [dmr.poi(baseline.psnr, change.psnr) for change in changes],
                "layers": len(changes[0].layers),
                "images": {
                    name: values
                    for name, *values in zip(
                        baseline.names, *(c.psnr for c in changes), strict=True
                    )
                },
            }
            for kind, changes in groups.items()
        },
    }


def _effect(baseline: frame.Baseline, changes: Sequence[Change]) -> dict[str, Any]:
    """Returns the change of the mean PSNR and the degeneration, by seed."""
    mean = np.mean(baseline.psnr)
    return {
        "psnr_change": [float(np.mean(c.psnr) - mean) for c in changes],
        "degeneration": [float(np.mean(c.degeneration)) for c in changes],
        "seeds": [c.seed for c in changes],
    }


def _dmr(changes: Sequence[Change]) -> dict[str, Any]:
    """Returns DMR, and its values by seed."""
    seeds = sorted({change.seed for change in changes})
    by_seed = [
        float(np.mean([c.degeneration for c in changes if c.seed == seed]))
        for seed in seeds
    ]
    return {
        "value": float(np.mean(by_seed)),
        "by_seed": by_seed,
        "deviation": float(np.std(by_seed, ddof=1)) if len(seeds) > 1 else None,
        "layers": len({change.layers for change in changes}),
    }
