"""Damage to the files of a run, and to its data, is said and never passed over."""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest

from llie_jax.data import sources
from llie_jax.image import io
from llie_jax.training import integrity, loop
from llie_jax.weights import record as records
from llie_jax.weights import run as runs
from tests.training import toys


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return toys.write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    """A whole run, and the same run stopped at step 5, after a validation at 4."""
    workdir = tmp_path_factory.mktemp("runs")
    loop.train(toys.config(pairs), workdir / "part", stop_at=5, progress=False)
    return workdir, loop.train(toys.config(pairs), workdir / "whole", progress=False)


@pytest.fixture
def part(finished, tmp_path):
    """A copy of the run that was stopped at step 5, with a report."""
    shutil.copytree(finished[0] / "part", tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("<html>")
    return tmp_path / "run"


def resume(config, workdir, **options):
    """Returns the result, and what was said."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        result = loop.train(config, workdir, progress=False, **options)
    return result, "\n".join(str(each.message) for each in seen)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x40
    path.write_bytes(content)


DAMAGE = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: -len(b"}") - 5]),
    "emptied": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(99)),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_every_file_but_the_state(pairs, finished, part, damage):
    files = [p for p in part.rglob("*") if p.is_file() and p.stat().st_size]
    files = [path for path in files if "state" not in path.parts]
    files = [path for path in files if path.parent.name != "digest"]
    assert len(files) > 8
    for path in files:
        DAMAGE[damage](path)
    result, said = resume(toys.config(pairs), part)
    same(result.state, finished[1].state)
    assert f"{part / 'config.json'} " in said
    if damage != "flipped":  # which can leave a line of the log valid
        assert f"{part / 'log.jsonl'}" in said
    assert "Checkpoint 4: its file of scores is damaged and ignored" in said
    assert "<svg" in (part / "report.html").read_text()
    assert json.loads((part / "config.json").read_text())["model"]["name"] == "toy"


def test_files_where_folders_belong(pairs, finished, part):
    for name in ("events", "samples"):
        shutil.rmtree(part / name, ignore_errors=True)
        (part / name).write_text("in the way")
    for name in ("log.jsonl", "report.html", "config.json"):
        (part / name).unlink()
        (part / name / "inside").mkdir(parents=True)
    result, said = resume(toys.config(pairs), part)
    same(result.state, finished[1].state)
    for name in ("events", "samples", "log.jsonl", "report.html", "config.json"):
        assert f"{part / name} is no " in said
        assert (part / f"{name}.damaged").exists()


@pytest.mark.parametrize("text", [b'{"step": 3, "loss": NaN}\n', b"\xff\n"])
def test_a_damaged_log_of_a_finished_run(pairs, finished, tmp_path, text):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0] / "whole", workdir)
    log = workdir / "log.jsonl"
    log.write_bytes(log.read_bytes() + text)
    (workdir / "report.html").unlink()
    result, _ = resume(toys.config(pairs), workdir)
    assert result.finished
    assert "<svg" in (workdir / "report.html").read_text()


def test_the_config_of_a_checkpoint_counts(pairs, part):
    """A flipped bit can leave `config.json` valid, and wrong."""
    path = part / "config.json"
    config = json.loads(path.read_text())
    config["optimizer"]["learning_rate"] = 0.5
    path.write_text(json.dumps(config))
    other = toys.config(pairs)
    other.optimizer.learning_rate = 0.5
    with pytest.raises(ValueError, match=r"learning_rate: 0.01 there"):
        loop.train(other, part, progress=False)
    result, said = resume(toys.config(pairs), part)
    assert result.finished
    assert "differs from the config in checkpoint 5 and is ignored" in said


def test_weights_are_read_beside_a_damaged_config(part):
    (part / "config.json").write_text("{")
    run = runs.RunFolder(part)
    with pytest.warns(UserWarning, match="the config in checkpoint 5 is used"):
        assert run.spec()["name"] == "toy"


def test_the_facts_of_a_run(pairs, part):
    _, record = records.newest(part / "checkpoints")
    facts = record.facts
    assert facts["config"]["model"]["name"] == "toy"
    assert facts["random"]["seed"] == 0
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["devices"]["processes"] == 1
    assert facts["data"]["training"]["count"] == 4
    assert facts["data"]["held-out"]["count"] == 2


def copied(pairs, tmp_path):
    return shutil.copytree(pairs, tmp_path / "pairs")


def add(root):
    for name in ("low", "high"):
        io.write_image(root / name / "new.png", np.full((24, 20, 3), 9, np.uint8))


def remove(root):
    for name in ("low", "high"):
        (root / name / "1.png").unlink()


def alter(root):
    """Writes other pixels to a file of the same size."""
    path = root / "low" / "1.png"
    size = path.stat().st_size
    io.write_image(path, np.full((24, 20, 3), 9, np.uint8))
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    assert path.stat().st_size == size


def resize(root):
    path = root / "low" / "1.png"
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (add, r"1 added \(new\)"),
        (remove, r"1 removed \(1\)"),
        (alter, r"1 of other content \(1\)"),
        (resize, r"1 of another size \(1\)"),
    ],
)
def test_changed_data_are_refused(pairs, part, tmp_path, change, expected):
    root = copied(pairs, tmp_path)
    change(root)
    before = sorted(part.rglob("*"))
    with pytest.raises(ValueError, match=expected) as error:
        loop.train(toys.config(root), part, progress=False)
    assert "since checkpoint 5 was saved" in str(error.value)
    assert "--accept-changed-data" in str(error.value)
    assert sorted(part.rglob("*")) == before


def test_changed_data_can_be_accepted(pairs, part, tmp_path):
    root = copied(pairs, tmp_path)
    add(root)
    config = toys.config(root)
    result, said = resume(config, part, stop_at=6, accept_changed_data=True)
    assert result.step == 6
    assert "1 added (new)" in said
    result, said = resume(config, part)  # the new data are the run's from now on
    assert result.finished
    assert "data changed" not in said


def test_the_same_data_elsewhere(pairs, finished, part, tmp_path):
    result, said = resume(toys.config(copied(pairs, tmp_path)), part)
    same(result.state, finished[1].state)
    assert said == ""


class Named(sources.Source):
    """Records of one letter, whose files hold that letter."""

    name, split, keys, expected_counts = "letters", "train", ("image",), {}

    def __init__(self, names):
        self.names = self.scenes = tuple(names)

    def _read(self, index, key):
        return self.names[index].encode(), self.names[index]

    def byte_size(self, index, key):
        return 1

    def image(self, index, key):
        return np.full((1, 1, 3), ord(self.names[index]), np.uint8)


def describe(names, held_out=None):
    return integrity.describe_data(Named(names), held_out and Named(held_out))


def test_large_sets_are_compared_by_digests(monkeypatch):
    monkeypatch.setattr(integrity, "_LISTED", 3)
    old = describe("abcd")
    assert old["training"]["records"] == {}
    saved = 7, records.Record({}, {}, {"data": old})
    integrity.check_data(saved, describe("abcd"), accept=False)
    for names, held_out, expected in [
        ("abcde", None, "other names, 4 then and 5 now"),
        ("abcD", None, "other names, 4 then and 4 now"),
        ("dcba", None, "other names"),
        ("abcd", "x", "held-out: absent then"),
    ]:
        with pytest.raises(ValueError, match=expected):
            integrity.check_data(saved, describe(names, held_out), accept=False)


def of_an_older_version(described):
    """Its content was hashed over files, and prepared frames had sizes as PNGs."""
    old = json.loads(json.dumps(described))
    del old["training"]["pixels"]
    return {"training": old["training"] | {"sample": {"a": ["0" * 64]}}}


def test_checkpoints_of_older_versions(monkeypatch):
    for limit in (2000, 3):
        monkeypatch.setattr(integrity, "_LISTED", limit)
        old = of_an_older_version(describe("abcd"))
        saved = 7, records.Record({}, {}, {"data": old})
        integrity.check_data(saved, describe("abcd"), accept=False)
        with pytest.raises(ValueError, match=r"1 added|5 now"):
            integrity.check_data(saved, describe("abcde"), accept=False)
        with pytest.raises(ValueError, match=r"in another order|other names"):
            integrity.check_data(saved, describe("dcba"), accept=False)
        with monkeypatch.context() as patch:
            patch.setattr(Named, "byte_size", lambda *args: 2)
            with pytest.raises(ValueError, match=r"of another size|of other sizes"):
                integrity.check_data(saved, describe("abcd"), accept=False)
            patch.setattr(Named, "byte_size", lambda *args: None)
            integrity.check_data(saved, describe("abcd"), accept=False)


def test_other_devices_are_said():
    now = {"versions": {}, "random": {}, "devices": {"count": 1, "kind": "cpu"}}
    saved = {"devices": {"count": 4, "kind": "cpu"}}
    expected = ["saved on other devices: count 4 then, 1 now"]
    assert integrity.differences(saved, now) == expected
    assert integrity.differences({}, now) == []
