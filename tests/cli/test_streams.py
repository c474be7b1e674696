"""Names, terminals and pipes that people have."""

import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import llie_jax.weights
from llie_jax import messages
from llie_jax.cli import main, streams
from llie_jax.data import opening, scanning
from llie_jax.evaluation import scores as results
from tests.conftest import ROOT
from tests.data import trees
from tests.image import files
from tests.inference import toys

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
EMOJI = "night \U0001f303"
BYTES = os.fsdecode(b"caf\xff")


@pytest.fixture
def bright(monkeypatch):
    monkeypatch.setattr(llie_jax.weights, "load", lambda weights: (toys.Gain(), {}))


def photo(path: pathlib.Path) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files.png(files.colours(8, 8), bits=8))
    return path


def command(*arguments, **options):
    code = "import sys; from llie_jax.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        **options,
    )


def test_names_pair_in_either_unicode_form(tmp_path):
    photo(tmp_path / "low" / f"{COMPOSED}.png")
    photo(tmp_path / "high" / f"{DECOMPOSED}.png")
    photo(tmp_path / "low" / "b.png")
    photo(tmp_path / "high" / "b.png")
    with pytest.warns(messages.Note, match="1 names pair although.*NFC and NFD"):
        source = opening.open_source(tmp_path)
    assert list(source.names) == ["b", COMPOSED]
    found = scanning.scan_folders(tmp_path / "low", tmp_path / "high")
    assert found.respelt == 1


def test_names_that_are_no_utf_8(tmp_path, bright, capsys):
    for place in ("low", "high"):
        photo(tmp_path / place / f"{BYTES}.png")
        photo(tmp_path / place / f"{EMOJI}.png")
    assert main.main(["data", "check", str(tmp_path)]) == 0
    assert "pairs    2" in capsys.readouterr().out
    out = tmp_path / "out"
    arguments = [str(tmp_path / "low"), "--out", str(out), "--weights", "toy"]
    assert main.main(["enhance", *arguments]) == 0
    assert sorted(os.listdir(os.fsencode(out))) == sorted(
        os.fsencode(f"{name}.png") for name in (BYTES, EMOJI)
    )
    result = tmp_path / "scores.json"
    folders = ["--pred", str(tmp_path / "low"), "--gt", str(tmp_path / "high")]
    options = ["--json", str(result), "--protocol", "retinexformer"]
    photos = [*tmp_path.glob("low/*"), *tmp_path.glob("high/*")]
    for each in photos:  # SSIM needs 11 pixels
        each.write_bytes(files.png(files.colours(12, 12), bits=8))
    assert main.main(["score", *folders, *options]) == 0
    assert set(json.loads(result.read_text())["images"]) == {BYTES, EMOJI}


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_that_cannot_print_a_name(tmp_path, encoding):
    photo(tmp_path / f"{EMOJI}.png")
    photo(tmp_path / f"{BYTES}.png").write_bytes(b"broken")
    process = command(
        "data", "check", tmp_path, env={"PYTHONIOENCODING": f"{encoding}:strict"}
    )
    out, err = process.communicate()
    assert process.returncode == 2
    assert b"Traceback" not in err
    assert b"images   1" in out
    assert b"caf\\udcff.png" in out


def test_a_closed_pipe_ends_quietly(tmp_path):
    process = command("data", "list")
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 0
    assert error == b""


def test_work_goes_on_when_the_reader_has_gone():
    reading, writing = os.pipe()
    stream = streams._Surviving(io.TextIOWrapper(os.fdopen(writing, "wb")))
    print("one", file=stream, flush=True)
    os.close(reading)
    for _ in range(3):
        print("two", file=stream, flush=True)
    stream.close()


def test_control_characters_of_names_do_not_reach_terminals(tmp_path, capsys):
    name = "a\x1b[2J\nb"
    photo(tmp_path / f"{name}.png").write_bytes(b"broken")
    assert main.main(["data", "check", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert r"a\x1b[2J\nb.png" in captured.out


def test_names_in_tables_and_lists(tmp_path):
    rows = {
        '=HYPERLINK("http://a")': {"psnr": 1.0, "ssim": 1.0},
        "[red]a[/blue]\x1b": {"psnr": 2.0, "ssim": 1.0},
    }
    from rich.console import Console

    from llie_jax.metrics import protocol

    scores = results.Scores(protocol.get("default"), rows)
    buffer = io.StringIO()
    results.show(scores, Console(file=buffer, width=100))
    assert "[red]a[/blue]\\x1b" in buffer.getvalue()
    results.write_csv(tmp_path / "a.csv", scores)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[1].startswith("\"'=HYPERLINK")
    assert "\\x1b" in lines[2]


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../x", "..", ""])
def test_names_of_prepared_sets_stay_inside(tmp_path, name):
    from llie_jax.data import preparing

    written = preparing.prepare(
        "lol_v1", root=trees.lol(tmp_path / "raw"), data_dir=tmp_path / "tfds"
    )
    path = written / "metadata.json"
    content = json.loads(path.read_text())
    content["names"]["test"][0] = name
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not stay inside"):
        opening.open_source(written, split="test")


def test_links_are_photos_of_their_own(tmp_path, bright, capsys):
    first = photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to(first)
    (tmp_path / "in" / "c.png").symlink_to(tmp_path / "absent.png")
    out = tmp_path / "out"
    status = main.main(
        ["enhance", str(first.parent), "--out", str(out), "--weights", "toy"]
    )
    assert status == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]
    assert "c.png" in capsys.readouterr().err


def test_a_folder_says_what_is_not_read(tmp_path, bright, capsys):
    photo(tmp_path / "in" / "a.png")
    for name in ("b.mov", "c.psd", "d.MOV"):
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "more").mkdir()
    expected = "3 files not read: 2 .mov, 1 .psd; 1 folder not read"
    out = ["--out", str(tmp_path / "out"), "--weights", "toy"]
    assert main.main(["enhance", str(tmp_path / "in"), *out]) == 0
    assert capsys.readouterr().err == f"note: {expected}\n"
    assert main.main(["data", "check", str(tmp_path / "in")]) == 0
    assert f"note     {expected}" in capsys.readouterr().out
    pairs = tmp_path / "pairs"
    for place in ("low", "high"):
        photo(pairs / place / "a.png").write_bytes(files.png(np.zeros((12, 12, 3))))
        (pairs / place / "b.mov").touch()
    folders = ["--pred", str(pairs / "low"), "--gt", str(pairs / "high")]
    assert main.main(["score", *folders]) == 0
    assert "2 files not read: 2 .mov" in capsys.readouterr().err
    with pytest.warns(messages.Note, match=r"2 files not read: 2 \.mov"):
        opening.open_source(pairs)
    (pairs / "low" / "a.png").rename(pairs / "low" / "a.heif2")
    with pytest.raises(ValueError, match=r"without an input.*3 files not read: 2 "):
        opening.open_source(pairs)
    assert main.main(["score", *folders]) == 2
    assert "3 files not read: 2 .mov, 1 .heif2" in capsys.readouterr().err
    (pairs / "low" / "a.heif2").unlink()
    (pairs / "high" / "a.png").unlink()
    assert main.main(["data", "check", str(pairs)]) == 2
    darken = ["data", "darken", str(tmp_path / "in"), str(tmp_path / "dark")]
    assert main.main(darken) == 0
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("bright.gif", "unknown image ending '.gif'"),
        ("bright.psd", "unknown image ending '.psd'"),
        ("bright.mp4", "unknown image ending '.mp4'"),
        ("bright.heic", "unknown image ending '.heic'"),
    ],
)
def test_endings_that_are_no_formats(tmp_path, bright, capsys, out, words):
    first = photo(tmp_path / "a.png")
    target = tmp_path / out
    arguments = [str(first), "--out", str(target), "--weights", "toy"]
    assert main.main(["enhance", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize(
    ("size", "name"), [((30, 20_000), "a.webp"), ((10, 70_000), "a.jpg")]
)
def test_sizes_that_a_format_cannot_hold(tmp_path, monkeypatch, capsys, size, name):
    def load(weights):
        raise AssertionError("the network is not needed")

    monkeypatch.setattr(llie_jax.weights, "load", load)
    source = tmp_path / "in.png"
    source.write_bytes(files.png(np.zeros((*size, 3), np.uint8), bits=8))
    arguments = [str(source), "--out", str(tmp_path / name), "--weights", "toy"]
    assert main.main(["enhance", *arguments]) == 2
    error = capsys.readouterr().err
    assert f"{size[1]} x {size[0]}" in error
    assert not (tmp_path / name).exists()


def test_a_gif_becomes_a_png(tmp_path, bright):
    from PIL import Image

    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "a.gif")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "a.gif"), "--out", str(out), "--weights", "toy"]
    assert main.main(["enhance", *arguments]) == 0
    assert [path.name for path in out.iterdir()] == ["a.png"]


def test_outputs_do_not_replace_inputs(tmp_path, capsys):
    import safetensors.numpy

    picture = photo(tmp_path / "pred" / "a.png")
    before = picture.read_bytes()
    for option in (["score", "--pred", "x", "--gt", "y"], ["data", "check", "x"]):
        assert main.main([*option, "--json", str(picture)]) == 2
        assert "is not JSON" in capsys.readouterr().err
    assert picture.read_bytes() == before
    weights = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, weights)
    before = weights.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(weights)
    for out in (weights, tmp_path / "link.safetensors"):
        assert main.main(["convert", str(weights), str(out)]) == 2
        assert "is an input and would be replaced" in capsys.readouterr().err
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_two_thousand_photos_of_which_twenty_are_broken(tmp_path, bright, capsys):
    import resource

    folder = tmp_path / "in"
    content = files.png(files.colours(64, 64), bits=8)
    photo(folder / "0000.png")
    for number in range(2000):
        broken = number % 100 == 50
        path = folder / f"{number:04}.png"
        path.write_bytes(content[: len(content) // 2] if broken else content)
    peaks = []

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB

    for out in ("warm", "out"):
        status = main.main(
            ["enhance", str(folder), "--out", str(tmp_path / out), "--weights", "toy"]
        )
        captured = capsys.readouterr()
        assert status == 1
        lines = captured.err.splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 20
        assert lines[-1] == "20 of 2000 photos failed."
        assert len(captured.out.splitlines()) == 1980
        peaks.append(peak())
    assert peaks[1] - peaks[0] < 50
