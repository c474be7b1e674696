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

MEASURES = ("reset", "dmr", "poi", "together")


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
        degeneration_8bit: the same of the images rounded to 8 bits.
    """

    layers: tuple[str, ...]
    seed: int
    psnr: tuple[float, ...]
    degeneration: tuple[float, ...]
    degeneration_8bit: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ResetStudy(RedundancyStudy):
    """Resets layers one at a time (DMR, POI), and all layers of a kind together.

    Attributes:
        measure: "dmr" and "poi" only reset single layers, "together" only all layers
            of a kind at once, "reset" does both.
        kinds: the layers to reset, of `layers.KINDS`. A kind of which the model has no
            layers is skipped.
        pattern: resets only layers whose path matches; if none does, all modules whose
            path matches, as the kind `layers.MODULE`.
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
        if found:
            return found
        if self.pattern is None or layers_of.fits_layers(model, self.pattern):
            raise errors[0]
        if self.backbone_only:
            raise ValueError(
                f"backbone_only is for attention layers; {self.pattern!r} names none."
            )
        return {layers_of.MODULE: layers_of.modules(model, self.pattern)}

    def steps(self, subject: frame.Subject) -> int:
        """Returns how often `run` calls `advance`."""
        kinds = self.layers(subject.model)
        singles = sum(map(len, kinds.values())) * self._one_at_a_time
        groups = len(kinds) * self._together
        return subject.count * (1 + self.seeds * (singles + groups))

    @property
    def _one_at_a_time(self) -> bool:
        return self.measure != "together"

    @property
    def _together(self) -> bool:
        return self.measure in ("reset", "together")

    def run(
        self, subject: frame.Subject, advance: Callable[[], None] = frame.no_progress
    ) -> frame.Findings:
        """Resets the layers with every seed; see `frame.Study.run`."""
        return frame.Findings(self.effects(frame.Baseline(subject, advance)))

    def effects(self, baseline: frame.Baseline) -> dict[str, Any]:
        """Resets the layers with every seed, and returns all numbers."""
        singles, groups = {}, {}
        for kind, chosen in self.layers(baseline.subject.model).items():
            seeds = range(self.seeds)
            if self._one_at_a_time:
                singles[kind] = [
                    self.change(baseline, [layer], seed=seed)
                    for seed in seeds
                    for layer in chosen
                ]
            if self._together:
                groups[kind] = [
                    self.change(baseline, chosen, seed=seed) for seed in seeds
                ]
        return _summary(baseline, singles, groups)

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
            *(
                tuple(
                    dmr.degeneration(before, after, rounded=rounded)
                    for before, after in zip(baseline.outputs, outputs, strict=True)
                )
                for rounded in (False, True)
            ),
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
        "poi": {kind: _poi(baseline, changes) for kind, changes in singles.items()},
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
    """Returns the effects of one choice of layers on all images, by seed."""
    mean = np.mean(baseline.psnr)
    return {
        "psnr_change": [float(np.mean(c.psnr) - mean) for c in changes],
        "degeneration": [float(np.mean(c.degeneration)) for c in changes],
        "degeneration_8bit": [float(np.mean(c.degeneration_8bit)) for c in changes],
        "poi": [dmr.poi(baseline.psnr, c.psnr) for c in changes],
        "seeds": [c.seed for c in changes],
    }


def _dmr(changes: Sequence[Change]) -> dict[str, Any]:
    """Returns DMR, in floats and in 8 bits."""
    return {
        **_over_seeds(changes, lambda c: np.mean(c.degeneration)),
        "in_8_bits": _over_seeds(changes, lambda c: np.mean(c.degeneration_8bit)),
        "layers": len({change.layers for change in changes}),
    }


def _poi(baseline: frame.Baseline, changes: Sequence[Change]) -> dict[str, Any]:
    """Returns POI, the mean over single layers."""
    return _over_seeds(changes, lambda c: dmr.poi(baseline.psnr, c.psnr))


def _over_seeds(
    changes: Sequence[Change], measure: Callable[[Change], float]
) -> dict[str, Any]:
    """Returns the mean of a measure over layers, by seed and over seeds."""
    seeds = sorted({change.seed for change in changes})
    by_seed = [
        float(np.mean([measure(c) for c in changes if c.seed == seed]))
        for seed in seeds
    ]
    return {
        "value": float(np.mean(by_seed)),
        "by_seed": by_seed,
        "deviation": float(np.std(by_seed, ddof=1)) if len(seeds) > 1 else None,
    }
