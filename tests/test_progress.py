"""The line that says how far a training is: rarely in a log, renewed on a terminal."""

import io
from itertools import pairwise

import pytest

from dfnb.training import progress
from dfnb.training.progress import Line, Pace, say


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets; nothing has been printed yet."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(Line, "printed_at", float("-inf"))
    return clock


def test_all_lines_of_a_process_together_print_once_a_minute(clock, capsys):
    for _ in range(120):  # ten minutes, with a line of its own every five seconds
        with Line(due=1010) as line:
            for _ in range(50):
                clock.now += 0.1
                line.show(lambda: f"at {clock.now:.0f}")
    times = [float(text.removeprefix("at ")) for text in capsys.readouterr().out.splitlines()]
    assert 9 <= len(times) <= 10 and times[0] == 1010
    assert min(later - earlier for earlier, later in pairwise(times)) >= 59.5


def test_a_line_that_was_printed_at_once_counts(clock, capsys):
    say("the last epoch")
    with Line(due=1010) as line:
        for seconds in (30, 59, 61):
            clock.now = 1000 + seconds
            line.show(lambda: "scored")
    assert capsys.readouterr().out == "the last epoch\nscored\n"


def test_on_a_terminal_one_line_is_renewed_and_removed(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    with Line() as line:
        for number in range(20):
            clock.now += 0.3
            line.show(lambda number=number: f"step {number}")
    written = terminal.getvalue()
    assert "\n" not in written and 9 <= written.count("step ") <= 11
    assert written.rpartition("step ")[2].endswith("\r")  # nothing stays


def test_a_pace_times_steps_without_the_first_and_what_is_between_epochs(clock):
    pace = Pace()
    for epoch in range(2):
        pace.start()
        for step in range(4):
            clock.now += 100 if epoch == 0 and step < progress.WARM_UP else 2
            pace.step()
        clock.now += 50  # the validation
    assert (pace.steps, pace.seconds_per_step) == (6, 2)
    assert pace.left(10, 3) == 20
    pace.validation_s = 50
    assert pace.left(10, 3) == 170
