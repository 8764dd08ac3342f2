"""The intervals of simulated studies have the true value in them as often as they promise."""

import pytest

CASES = ["one set", "difference on one set", "mean over sets", "mean, same people"]


@pytest.mark.parametrize("case", CASES)
def test_intervals_have_the_truth_in_them(checkout, monkeypatch, case):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    import coverage

    # The share of 1000 studies has a standard error of 0.007. Few replicates, for speed.
    assert 0.93 <= coverage.coverage(case, 1000, people=25, replicates=150) <= 0.97
