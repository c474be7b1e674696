"""The numbers that papers print."""

import json
import re

import pytest

from llie_jax import registry
from llie_jax.evaluation.comparison import published
from llie_jax.metrics import protocol as protocols
from tests.conftest import ROOT


def test_entries_and_protocols_fit():
    used = set()
    for entry in published.entries():
        protocol = published.protocols()[entry.protocol]
        used.add(entry.protocol)
        assert set(entry.values) <= set(protocol.metrics), entry
        assert protocol.uses_reference == (entry.gt_mean or entry.uses_reference), entry
        assert entry.source, entry
        assert (not entry.spec) or entry.spec["name"] in registry.list_models()
    assert used == set(published.protocols())


def test_nothing_is_printed_twice():
    keys = [(e.model, e.variant, e.data, e.protocol) for e in published.entries()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", ["retinexformer", "cidnet", "darkir"])
def test_protocols_with_our_names_have_our_metrics(name):
    ours = protocols.get(name).to_dict()["metrics"]
    printed = published.protocols()[name].metrics
    assert printed["psnr"].startswith(
        ours["psnr"] if isinstance(ours["psnr"], str) else ours["psnr"]["name"]
    )


def test_which_models_are_meant():
    restormer = registry.complete_spec({"name": "restormer"})
    adr = registry.complete_spec(
        {"name": "restormer", "reallocate": {"name": "adr", "width": 4}}
    )
    found = {
        name: {e.model for e in published.entries() if e.fits(spec)}
        for name, spec in (("plain", restormer), ("adr", adr))
    }
    assert found == {"plain": {"Restormer"}, "adr": {"Restormer + ADR"}}
    assert not any(e.fits(None) for e in published.entries())


def test_the_documentation_links_to_the_file_that_ships():
    shown = json.loads((ROOT / "docs" / "published.json").read_text())
    assert len(shown["entries"]) == len(published.entries())


def test_each_number_is_in_a_specification(shared):
    """Or in a model's card, for those that the specifications do not print."""
    texts = [p.read_text() for p in sorted((shared / "specs").glob("*.md"))]
    cards = (ROOT / "llie_jax" / "models").glob("*.py")
    texts += [path.read_text() for path in cards]
    numbers = set(map(float, re.findall(r"(?<![\w.])\d*\.\d+(?!\w)", " ".join(texts))))
    missing = [
        (entry.model, value)
        for entry in published.entries()
        for value in entry.values.values()
        if value not in numbers
    ]
    assert not missing
