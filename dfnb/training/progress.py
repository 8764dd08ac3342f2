"""How far a training is, and how long it will still take: one line, where people wait for it."""

import math
import sys
import time
from collections.abc import Callable
from typing import ClassVar, Self

from tqdm import tqdm

RENEWED_S = 0.5  # seconds between two forms of a line on a terminal
PRINTED_S = 60.0  # seconds between two lines in a log or a notebook
WARM_UP = 2  # steps of a process that are not timed: they choose kernels and make memory


class Line:
    """A line that is renewed on a terminal; elsewhere one is printed, at most each minute.

    The minute counts for all lines of the process together: an executed notebook keeps them all.
    Leave the context to remove the line from a terminal.

    Args:
        due: When a line may first be printed where it is not renewed, by ``time.monotonic``; None:
            in a minute.
    """

    printed_at: ClassVar[float] = -math.inf  # the last line of this process, by time.monotonic

    def __init__(self, due: float | None = None) -> None:
        self.is_renewed = sys.stdout.isatty()
        if self.is_renewed:
            self.due = time.monotonic() + RENEWED_S
        else:
            self.due = time.monotonic() + PRINTED_S if due is None else due
        self.bar = tqdm(
            bar_format="{desc}{bar}",  # with {bar}, here empty, it is cut to the terminal's width
            file=sys.stdout,
            leave=False,
            dynamic_ncols=True,
            disable=not self.is_renewed,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, text: Callable[[], str]) -> None:
        """Show the line that ``text`` makes, if it is due."""
        now = time.monotonic()
        if now < self.due:
            return
        if self.is_renewed:
            self.due = now + RENEWED_S
            self.bar.set_description_str(text())
        elif now < Line.printed_at + PRINTED_S:
            self.due = Line.printed_at + PRINTED_S
        else:
            self.due = now + PRINTED_S
            say(text())


def say(text: str) -> None:
    """Print a line at once; other lines then wait for a minute."""
    Line.printed_at = time.monotonic()
    print(text, flush=True)


def in_words(seconds: float) -> str:
    """A time such as 05:07 (minutes and seconds) or 2:05:07."""
    return tqdm.format_interval(seconds)


class Pace:
    """The mean time of a training's steps in this process, and of its last validation.

    Attributes:
        steps: those that were timed.
        seconds: that they took, with the loading of their batches.
        validation_s: seconds of the last validation; None before the first.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.validation_s: float | None = None
        self._warm_up = WARM_UP
        self._last = 0.0

    def start(self) -> None:
        """Begin to time steps: before the first of an epoch."""
        self._last = time.monotonic()

    def step(self) -> None:
        """Note that a step has ended."""
        now = time.monotonic()
        if self._warm_up:
            self._warm_up -= 1
        else:
            self.steps += 1
            self.seconds += now - self._last
        self._last = now

    @property
    def seconds_per_step(self) -> float:
        """The mean; NaN before a step was timed."""
        return self.seconds / self.steps if self.steps else math.nan

    def left(self, steps: int, validations: int) -> float:
        """The seconds that so many steps and validations will take.

        Validations count from the first one on that was timed.
        """
        return steps * self.seconds_per_step + validations * (self.validation_s or 0.0)
