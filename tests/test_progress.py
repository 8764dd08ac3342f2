"""The line that says how far a training is: rarely in a log, renewed on a terminal."""

import io
from itertools import pairwise

import pytest

from dfnb.training.progress import bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def test_a_log_gets_a_line_twice_a_minute_with_speed_and_time_left(clock, capsys):
    written_at = []
    with bar(total=12_000, unit=" images") as line:
        for _ in range(5_900):  # ten minutes but ten seconds
            clock.now += 0.1
            if line.update(2):
                written_at.append(clock.now)
        first, *_, last = capsys.readouterr().out.split("\r")[1:]
    assert 18 <= len(written_at) <= 20
    assert min(later - earlier for earlier, later in pairwise(written_at)) >= 30
    assert "0/12000" in first and "<00:" in last and "20.00 images/s" in last


def test_a_resumed_training_counts_on_with_the_speed_of_this_process(clock, capsys):
    with bar(total=100, initial=50, unit=" images") as line:
        clock.now += 10
        line.update(10)
    last = capsys.readouterr().out.split("\r")[-1]
    assert "60%" in last and "60/100 [00:10<00:40" in last and " 1.00 images/s" in last
    assert last.endswith("\n")


def test_on_a_terminal_one_line_is_renewed_and_a_validation_takes_its_place(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    with bar(total=20, desc="epoch 1") as line:
        for _ in range(20):
            clock.now += 0.3
            line.update()
        with bar(total=9, desc="scored", leave=False) as inner:
            clock.now += 1
            inner.update()
    written = terminal.getvalue()
    assert 10 <= written.count("epoch 1: ") <= 12
    assert written.count("\n") == 1 and written.endswith("\n")  # the last form stays
    assert "scored" not in written.split("\r")[-1] and "\x1b" not in written
