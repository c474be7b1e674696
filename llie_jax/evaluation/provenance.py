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


def selected_on(config: Mapping[str, Any]) -> str:
    """Returns the set and the split that select a run's checkpoint, "" if held out.

    Args:
        config: the run's config, nested.
    """
    # Configs of older versions lack the key.
    if config["data"]["validation"].get("select_on") == "test":
        return f"{config['data']['train']['name']} test"
    return ""


def selected_on_test(
    described: Mapping[str, Any],
    source: Source,
    config: Mapping[str, Any] | None = None,
) -> bool:
    """Returns whether the weights were chosen on the images that are scored.

    Published checkpoints are known by their name or hash; runs say it in their config,
    other files in their metadata, see `llie-jax convert --selected-on`.

    Args:
        described: from `llie_jax.weights.describe`.
        source: the scored images.
        config: the run's config, if they come from a run.
    """
    record = weight_files.published().get(described["weights"])
    if record is None:
        hashes = described["metadata"].get("source_sha256", "")
        record = weight_files.recognise(hashes)
    if record and source.split == "test" and source.name in record.selected_on:
        return True
    stated = (
        selected_on(config) if config else described["metadata"].get("selected_on", "")
    )
    return overlap.was_selected_on(stated, source)
