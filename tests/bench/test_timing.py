import json

import pytest

from bench import timing


class Clock:
    """A clock that functions advance themselves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def takes(self, *seconds):
        """Returns a function that takes so long, one value for each run."""
        left = list(seconds)

        def run():
            self.now += left.pop(0)

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setitem(timing.CLOCKS, "wall", clock)
    return clock


def test_the_first_run_is_not_counted(clock):
    functions = {"a": clock.takes(9, 1, 2), "b": clock.takes(8, 4, 3)}
    assert timing.in_turns(functions, 2) == {"a": [1000, 2000], "b": [4000, 3000]}


def test_of_runs_in_a_row_all_but_the_first_count(clock):
    functions = {"a": clock.takes(9, 9, 9, 7, 1, 3), "b": clock.takes(8, 8, 8, 6, 5, 5)}
    found = timing.in_turns(functions, 1, in_a_row=3)
    assert found == {"a": [2000], "b": [5000]}


def test_a_slow_function_is_not_repeated(clock):
    functions = {"slow": clock.takes(9), "fast": clock.takes(1, 1, 1, 1)}
    found = timing.in_turns(functions, 3, seconds=5)
    assert found == {"slow": [9000], "fast": [1000] * 3}


def test_ratio_of_neighbouring_runs():
    ratio = timing.Ratio.of([1, 4, 3, 8, 5], [1, 2, 1, 2, 1])
    assert (ratio.low, ratio.median, ratio.high) == (2, 3, 4)
    assert str(ratio) == "3.000 (2.000 to 4.000)"
    assert timing.Ratio.of([3], [2]) == timing.Ratio(1.5, 1.5, 1.5)


def test_result_file(tmp_path):
    path = tmp_path / "new" / "result.json"
    timing.write(path, {"ratio": float("nan"), "quartiles": (1.0, 2.0)})
    assert json.loads(path.read_text()) == {"ratio": "nan", "quartiles": [1.0, 2.0]}
    assert [each.name for each in path.parent.iterdir()] == ["result.json"]
