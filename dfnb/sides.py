"""What is measured of one detector on one test set, under one condition.

:mod:`dfnb.results` makes rows of it, and of the differences of two sides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from dfnb.metrics import (
    AT_THRESHOLD,
    CALLED,
    CONSTANT,
    METRICS,
    Estimates,
    Level,
    Units,
    align,
    measure,
)
from dfnb.store import Condition, Detector

ALL_METHODS = "all"
ROBUSTNESS = "robustness"  # the mean AUC over the severities of one or of all corruptions
ROBUSTNESS_KEPT = "robustness kept"  # the same minus the AUC without corruption
VERSUS = " − "  # between two methods that are compared


@dataclass(frozen=True, eq=False)
class Side:
    """The scores of a detector under a condition, at one level; one side of a comparison.

    Attributes:
        read: Reads tables, see :meth:`dfnb.store.Report.read`.
        facts: The :data:`dfnb.store.TEST_SET_FACTS` of the test set.
        condition: It is made of the ``stored`` ones: of all severities.
        clean: The same detector's scores without corruption, if this side has a condition that is
            compared with it.
    """

    read: Callable[[Detector, Condition], list[pd.DataFrame]]
    detector: Detector
    level: Level
    facts: Mapping[str, Any]
    condition: Condition
    stored: Sequence[Condition]
    clean: "Side | None" = None

    @cached_property
    def units(self) -> Units:
        """The tables of the seeds that have all stored conditions."""
        tables = []
        for condition in self.stored:
            tables += self.read(self.detector, condition)
        units = align(tables, self.level)
        seeds = units.seeds
        has_all = [seeds.count(seed) == len(self.stored) for seed in seeds]
        return units.tables(np.flatnonzero(has_all))

    @cached_property
    def seeds(self) -> list[int | None]:
        """The seeds of the estimates; None for another tool."""
        return list(dict.fromkeys(self.units.seeds))

    @cached_property
    def metrics(self) -> tuple[list[str], list[str]]:
        """The metrics that are compared with other detectors, and those that are not."""
        if self.condition.corruption:
            return ["AUC"], []
        measures = []
        constants = []
        for name in self.units.columns:
            is_place_on_curve = name[-1].isdigit()  # such as "deletion 10"
            if name.startswith(CONSTANT):
                constants.append(name)
            elif name not in ("score", CALLED) and not is_place_on_curve:
                measures.append(name)
        if self.condition.map:
            return measures, constants
        if self.level == "frame":  # localisation is averaged over videos
            measures = ["balanced accuracy", AT_THRESHOLD]
            constants = []
        compared = ["AUC", *measures]
        if self.detector.ablation:
            return compared, constants
        return compared, constants + [metric for metric in METRICS if metric not in compared]

    @cached_property
    def estimates(self) -> dict[tuple[str, str], Estimates | None]:
        """Everything that is measured, by method and metric; None where no unit has a value."""
        if self.facts["contrasts"]:
            return _contrasted(self.units, self.facts["contrasts"])
        if self.condition.corruption and not self.condition.severity:
            return self._robustness()
        compared, others = self.metrics
        estimates = {}
        for metric in [*compared, *others]:
            estimates[ALL_METHODS, metric] = measure(self.units, metric)
        if self.clean is None:
            of_unit = self.units.index["method"]
            for method in sorted(set(of_unit) - {"real"}):
                units = self.units.rows(of_unit.isin(["real", method]).to_numpy())
                for metric in compared:
                    estimates[method, metric] = measure(units, metric)
        return estimates

    def _robustness(self) -> dict[tuple[str, str], Estimates]:
        """The mean AUC over severities, and that minus the AUC of the same units uncorrupted."""
        robust = measure(self.units, "AUC").over_conditions(len(self.stored))
        clean = self.clean.units.only(self.units.index)
        clean = clean.tables([clean.seeds.index(seed) for seed in self.seeds])
        return {
            (ALL_METHODS, ROBUSTNESS): robust,
            (ALL_METHODS, ROBUSTNESS_KEPT): robust.minus(measure(clean, "AUC")),
        }


def _contrasted(
    units: Units, contrasts: Sequence[Sequence[str]]
) -> dict[tuple[str, str], Estimates | None]:
    """AUC and share called fake of each method, and the differences of contrasted methods.

    The AUC is against the same real frames. A share is also that of the real frames. The units of
    two methods follow one another alike, so that the variance over clusters of a difference is that
    of differences within people.
    """
    places = units.index.groupby("method").indices
    clusters = units.index["cluster"].to_numpy()
    methods = [name for name in dict.fromkeys(chain(*contrasts)) if name in places]
    estimates = {}
    for metric, beside in (("AUC", places["real"]), (CALLED, places["real"][:0])):
        for method in methods:
            chosen = units.rows(np.append(beside, places[method]))
            estimates[method, metric] = measure(chosen, metric)
        for first, second in contrasts:
            is_measured = estimates.get((first, metric)) and estimates.get((second, metric))
            if is_measured and np.array_equal(clusters[places[first]], clusters[places[second]]):
                difference = estimates[first, metric].minus(estimates[second, metric])
                estimates[f"{first}{VERSUS}{second}", metric] = difference
    estimates["real", CALLED] = measure(units.rows(places["real"]), CALLED)
    return estimates
