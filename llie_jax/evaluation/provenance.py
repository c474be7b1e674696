"""Where scored weights come from: their run's seed and recipe, how they were chosen."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from llie_jax import weights as weight_files
from llie_jax.data.sources import Source
from llie_jax.evaluation import overlap


def training_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `seed` of a run, and `recipe_sha256`, a hash of its other settings.

    Runs of one recipe differ in their seed only; where their data lie does not matter.

    Args:
        config: the run's config, nested.
    """
    recipe = {key: value for key, value in config.items() if key != "seed"}
    if data := recipe.get("data"):
        recipe["data"] = data = dict(data)
        if train := data.get("train"):
            data["train"] = {**train, "root": ""}
        if parts := data.get("mixture"):
            data["mixture"] = {k: {**part, "root": ""} for k, part in parts.items()}
    text = json.dumps(recipe, sort_keys=True)
    return {
        "seed": config.get("seed"),
        "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def selected_on_test(described: Mapping[str, Any], source: Source) -> bool:
    """Returns whether the weights were chosen on the images that are scored.

    Published checkpoints are known by their name or hash; other files say it in their
    metadata, see `llie-jax convert --selected-on`.

    Args:
        described: from `llie_jax.weights.describe`.
        source: the scored images.
    """
    record = weight_files.published().get(described["weights"])
    if record is None:
        hashes = described["metadata"].get("source_sha256", "")
        record = weight_files.recognise(hashes)
    selected_on = record.selected_on if record else ()
    if source.split == "test" and source.name in selected_on:
        return True
    stated = described["metadata"].get("selected_on", "")
    return overlap.was_selected_on(stated, source)
