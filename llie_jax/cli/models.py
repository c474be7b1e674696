"""`llie-jax models`: models, weights that ship, published ones, and their status."""

import argparse
import dataclasses
import json

from llie_jax import messages

HELP = "Models, their sizes, weights that ship, published weights, and their status."
EXAMPLES = """
  llie-jax models
  llie-jax models 'darkir*'
  llie-jax models --json models.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="part of a name, or a pattern with * and ?",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="also write the tables to this file"
    )


def run(args: argparse.Namespace) -> None:
    """Prints the tables of models, of weights that ship and of published ones."""
    from llie_jax.cli import output

    found = list_models(args.pattern)
    if args.json:
        output.write_json(args.json, found)
    _show(output.console(), found)


def list_models(pattern: str = "*") -> dict:
    """Returns the models and weights whose name matches.

    Raises:
        ValueError: if nothing matches.
    """
    import fnmatch

    from llie_jax import registry, weights
    from llie_jax.models import base

    glob = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    models, published = {}, {}
    shipped = {key: _shipped(key) for key in weights.shipped.names()}
    for name in registry.list_models():
        card = base.card(name)
        records = {
            key: record
            for key, record in weights.published().items()
            if key.startswith(f"{name}.")
        }
        own = [key for key in shipped if shipped[key]["spec"]["name"] == name]
        matching = [key for key in records if fnmatch.fnmatch(key, glob)]
        if fnmatch.fnmatch(name, glob):
            matching = list(records)
        elif not matching and not any(fnmatch.fnmatch(key, glob) for key in own):
            continue
        sizes = card.sizes or {"": {}}
        models[name] = {
            "sizes": {
                size: dict(card.costs.get(size) or _count({"name": name, **fields}))
                for size, fields in sizes.items()
            },
            "parity_tested": card.verified,
            "official_weights": _verified(records.values()),
            "options": list(registry.get(name).make.test_options),
            "trained": {
                size: dataclasses.asdict(result)
                for size, result in card.trained.items()
            },
        }
        for key in matching:
            path = weights.locate(key)
            published[key] = {
                "spec": dict(records[key].spec),
                "trained_on": records[key].trained_on,
                "published_score": dict(records[key].score),
                "measured_score": dict(records[key].measured),
                "protocol": records[key].protocol,
                "licence": records[key].licence,
                "file": ", ".join((records[key].file, *records[key].parts)),
                "origin": records[key].origin,
                "path": str(path) if path else None,
            }
    if not models:
        known = [*registry.list_models(), *shipped, *weights.published()]
        raise ValueError(
            f"No model matches {pattern!r}.{messages.suggest(pattern, known)} "
            f"Models: {', '.join(registry.list_models())}."
        )
    shipped = {
        key: facts for key, facts in shipped.items() if facts["spec"]["name"] in models
    }
    return {"models": models, "shipped": shipped, "weights": published}


def _shipped(name: str) -> dict:
    """Returns the facts of weights that come with the package."""
    from llie_jax import weights

    facts = weights.describe(name)
    metadata = facts["metadata"]
    return {
        "default": name == weights.shipped.DEFAULT,
        "spec": facts["spec"],
        "trained_on": metadata["trained_on"],
        "score": json.loads(metadata["score"]),
        "protocol": metadata["protocol"],
        "licence": metadata["licence"],
        "path": facts["path"],
    }


def _count(spec: dict) -> dict[str, int]:
    """Returns what a card states of the costs of a size; takes about a second."""
    from llie_jax import costs

    found = costs.count(spec, (256, 256))
    return {
        "params": found.params,
        "inference_params": found.inference_params,
        "macs_256": found.macs,
    }


def _verified(records) -> str:
    """Returns e.g. "2 of 3 verified": how many score what the official code does."""
    records = list(records)
    verified = sum(each.verified for each in records)
    return f"{verified} of {len(records)} verified" if records else "none exist"


def _scores(score: dict[str, float]) -> str:
    return ", ".join(f"{metric} {value:#.4g}" for metric, value in score.items())


def _trained(facts: dict) -> str:
    """Returns e.g. "CONFIG on DATA: psnr 21.00, ssim 0.8000 (PROTOCOL)"."""
    if not facts:
        return "no"
    return "{config} on {data}: {scores} ({protocol})".format(
        **facts, scores=_scores(facts["score"])
    )


def _show(console, found: dict) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("model")
    for header in ("parameters", "at inference", "10^9 MACs at 256x256"):
        table.add_column(header, justify="right")
    table.add_column("parity tested")
    table.add_column("official weights")
    table.add_column("--option")
    table.add_column("trained with this package")
    for name, model in found["models"].items():
        for size, costs in model["sizes"].items():
            table.add_row(
                f"{name}-{size}" if size else name,
                f"{costs['params']:,}",
                f"{costs['inference_params']:,}",
                f"{costs['macs_256'] / 1e9:.2f}",
                model["parity_tested"] or "no",
                model["official_weights"],
                ", ".join(model["options"]),
                _trained(model["trained"].get(size, {})),
            )
    console.print(table)

    table = Table(box=box.SIMPLE)
    headers = ("model", "trained on", "score", "protocol", "licence", "file")
    for header in ("weights that ship", *headers):
        table.add_column(header)
    for name, facts in found["shipped"].items():
        table.add_row(
            f"{name} (default)" if facts["default"] else name,
            facts["spec"]["name"],
            facts["trained_on"],
            _scores(facts["score"]),
            facts["protocol"],
            facts["licence"],
            facts["path"],
        )
    if found["shipped"]:
        console.print(table)

    table = Table(box=box.SIMPLE)
    headers = ("trained on", "published score", "measured here")
    headers += ("licence", "official file", "local file")
    for header in ("published weights", *headers):
        table.add_column(header)
    for name, record in found["weights"].items():
        table.add_row(
            name,
            record["trained_on"],
            _scores(record["published_score"]),
            _scores(record["measured_score"]) or "no",
            record["licence"],
            record["file"],
            record["path"] or "no",
        )
    if found["weights"]:
        console.print(table)
