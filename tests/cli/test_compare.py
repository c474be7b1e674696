import pytest

from llie_jax.cli import main
from tests.evaluation.comparison import toys


@pytest.fixture(autouse=True)
def one_subcommand(monkeypatch):
    monkeypatch.setattr(main, "SUBCOMMANDS", ("compare",))


def compare(*arguments):
    return main.main(["compare", *map(str, arguments)])


def test_three_files(tmp_path, capsys):
    a = toys.write(tmp_path / "a.json", {"1": 20.0, "2": 21.0})
    b = toys.write(tmp_path / "b.json", {"1": 20.5, "2": 21.0})
    out = tmp_path / "new" / "out"
    assert compare(f"First={a}", f"Second={b}", "--out", out) == 0
    names = ["compare.html", "compare.md", "compare.tex"]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == names
    assert "First − Second" in (out / "compare.md").read_text()


def test_mistakes(tmp_path, capsys):
    def message(*arguments):
        assert compare(*arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    good = toys.write(tmp_path / "a.json", {"1": 20.0})
    assert "no file or folder" in message(tmp_path / "absent", "--out", tmp_path / "o")
    assert "Cannot write to" in message(good, "--out", good)
    (tmp_path / "x.json").write_text("{}")
    assert "is not a score file" in message(tmp_path / "x.json", "--out", tmp_path)
    assert not (tmp_path / "o").exists()
