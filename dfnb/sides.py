"""All that is measured of one detector on one test set, under one condition: a :class:`Side`.

:mod:`dfnb.results` makes rows of sides, and of the differences of two sides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from dfnb.metrics import (
    AT_THRESHOLD,
    CALLED,
    CONSTANT,
    FALSE_ALARMS,
    METRICS,
    RANKED,
    Estimates,
    Level,
    Units,
    align,
    check_same_units,
    mean,
    measure,
)
from dfnb.store import Condition, Detector

ALL_METHODS = "all"
ROBUSTNESS = "robustness"  # the mean AUC over the severities of one or of all corruptions
ROBUSTNESS_KEPT = "robustness kept"  # the same minus the AUC without corruption
VERSUS = " − "  # between two methods that are compared
SHOWN_ONLY = ("EER", "Brier")  # only main detectors have them; never compared
Measured = dict[tuple[str, str], Estimates | None]  # by method and metric; None: no value


def is_compared(metric: str) -> bool:
    """Whether a metric is also measured of differences and of single manipulation methods.

    Variants have only such metrics of :data:`dfnb.metrics.METRICS`. A name that begins with
    CONSTANT is a measure of the mean training mask in place of the detector's map: it says nothing
    about the detector.
    """
    return metric not in SHOWN_ONLY and not metric.startswith(CONSTANT)


@dataclass(frozen=True, eq=False)
class Side:
    """A detector's scores under a condition, and what is measured of them; a side of a comparison.

    Attributes:
        read: Reads the tables of a detector under a condition, one per seed, see
            :meth:`dfnb.store.Report.read`.
        facts: About the test set: its :data:`dfnb.store.TEST_SET_METADATA`, such as ``contrasts``,
            the pairs of methods to compare (empty for most sets); ``frames_per_video``, the mean;
            and ``within``, whether the profile counts it as like the training set.
        parts: For a mean over severities, the side of each severity (for the mean of all
            corruptions, of each of their severities); else empty.
        clean: For such a mean, the same side without corruption; else None.
    """

    read: Callable[[Detector, Condition], list[pd.DataFrame]]
    detector: Detector
    level: Level
    facts: Mapping[str, Any]
    condition: Condition
    parts: Sequence["Side"] = ()
    clean: "Side | None" = None

    @cached_property
    def units(self) -> Units:
        """The tables of all seeds, on the same units.

        For a mean over severities, those of the first severity: only their ``index`` and ``seeds``
        may be used, because all severities share the index (:meth:`_robustness` checks it), but not
        the scores.
        """
        if self.parts:
            return self.parts[0].units
        tables = self.read(self.detector, self.condition)
        return align(tables, self.level)

    @cached_property
    def seeds(self) -> list[int | None]:
        """The seeds of the estimates, which all parts have; None for another tool."""
        seeds = self.units.seeds
        for part in self.parts:
            seeds = [seed for seed in seeds if seed in part.seeds]
        return seeds

    def at(self, seeds: Sequence[int | None], estimates: Estimates) -> Estimates:
        """Estimates of this side at the given seeds, in their order; their first axis is the seeds.

        The None of another tool may be given several times, once per seed of the other side.
        """
        places = [self.seeds.index(seed) for seed in seeds]
        values = estimates.values[places]
        return replace(estimates, values=values, spread=estimates.spread[places])

    @cached_property
    def estimates(self) -> Measured:
        """Everything that is measured, over all methods and, of clean scores, for each method.

        At frame level, single methods are measured for variants only, whose trainings may have left
        out some of the methods. A test set with contrasts has what :func:`_contrasted` measures
        instead, and a mean over severities what :meth:`_robustness` measures.
        """
        if self.facts["contrasts"] and not self.condition.map:
            return _contrasted(self.units, self.facts["contrasts"])
        if self.parts:
            return self._robustness()
        metrics = self._metrics()
        estimates = {}
        for metric in metrics:
            estimates[ALL_METHODS, metric] = measure(self.units, metric)
        of_methods = self.level == "video" or self.detector.ablation
        if of_methods and not self.condition.corruption and not self.condition.map:
            methods = self.units.index["method"]
            # The fakes of each method against all real units.
            for method in sorted(set(methods) - {"real"}):
                units = self.units.rows(methods.isin(["real", method]))
                for metric in filter(is_compared, metrics):
                    estimates[method, metric] = measure(units, metric)
        return estimates

    def _metrics(self) -> list[str]:
        """The names of what is measured.

        - of corrupted scores: AUC alone;
        - of a map: its columns;
        - of other scores of videos: those of METRICS that apply, and the columns of localisation;
        - of other scores of frames: those of METRICS that apply, AT_THRESHOLD and FALSE_ALARMS.
        """
        if self.condition.corruption:
            return ["AUC"]
        columns = []
        for name in self.units.columns:
            # A name such as "deletion 10" is a point of the deletion curve. Only the mean of the
            # curve and its fall are reported.
            is_place_on_curve = name[-1].isdigit()
            if name != "score" and not is_place_on_curve:
                columns.append(name)
        if self.condition.map:
            return columns
        if self.level == "frame":  # localisation is reported for videos, the threshold for frames
            columns = [AT_THRESHOLD, FALSE_ALARMS]
        score = self.units.columns["score"]
        # Another tool's scores may be no probabilities: then one half means nothing.
        names = METRICS if score.min() >= 0 and score.max() <= 1 else RANKED
        if self.detector.ablation:  # a variant
            names = filter(is_compared, names)
        return [*names, *columns]

    def _robustness(self) -> Measured:
        """The mean AUC over severities, and its difference from the AUC of the same units clean."""
        of_severities = []
        for part in self.parts:  # one per severity, of one corruption or of all
            check_same_units(self.units.index, part.units.index)
            estimates = part.estimates[ALL_METHODS, "AUC"]
            of_severities.append(part.at(self.seeds, estimates))
        robust = mean(of_severities)  # seed by seed
        # Perhaps only some videos were corrupted: the clean AUC is measured on the same ones.
        clean = self.clean.units  # of the detector without corruption
        is_corrupted = clean.index["video"].isin(self.units.index["video"])
        uncorrupted = measure(clean.rows(is_corrupted), "AUC")
        return {
            (ALL_METHODS, ROBUSTNESS): robust,
            (ALL_METHODS, ROBUSTNESS_KEPT): robust.minus(self.clean.at(self.seeds, uncorrupted)),
        }


def _contrasted(units: Units, contrasts: Sequence[Sequence[str]]) -> Measured:
    """Each method's AUC and share called fake, and the AUC differences of contrasted methods.

    Every AUC is against the same real frames; the share of these called fake is measured, too. Two
    methods are subtracted only where their units have the same clusters in the same order: then the
    difference is paired, within people.
    """
    places = units.index.groupby("method").indices  # method -> its units, as iloc counts
    real = places["real"]
    estimates = {}
    for method in dict.fromkeys(chain(*contrasts)):
        if method in places:
            fakes = places[method]
            # All methods have the same real units first. So if two methods forged the same people,
            # unit i of both is of the same cluster, which a paired difference needs.
            with_real = units.rows(np.append(real, fakes))
            estimates[method, "AUC"] = measure(with_real, "AUC")
            estimates[method, CALLED] = measure(units.rows(fakes), CALLED)
    estimates["real", CALLED] = measure(units.rows(real), CALLED)
    for first, second in contrasts:
        minuend = estimates.get((first, "AUC"))
        subtrahend = estimates.get((second, "AUC"))
        if minuend and subtrahend and minuend.has_clusters_of(subtrahend):
            estimates[f"{first}{VERSUS}{second}", "AUC"] = minuend.minus(subtrahend)
    return estimates
