"""The intervals of simulated studies have the true value in them as often as they promise."""

import sys

import pytest

from dfnb import statistics

CASES = ["one set", "difference on one set", "mean over sets", "mean, same people"]


@pytest.mark.parametrize("case", CASES)
def test_intervals_have_the_truth_in_them(checkout, monkeypatch, case):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    import coverage

    for module in (statistics, sys.modules["dfnb.report.metrics"]):  # for speed
        monkeypatch.setattr(module, "REPLICATES", 150)
    # The share of 1000 studies has a standard error of 0.007.
    assert 0.93 <= coverage.coverage(case, repetitions=1000, people=25) <= 0.97
