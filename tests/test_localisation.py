"""Localisation: AUC and AP are scikit-learn's, and a map without a preference is chance."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from dfnb.training.localisation import LOCALISATION, auc_and_ap, localisation
from facesets.checks import DfnbError
from facesets.seeds import rng

LEVELS = [2, 7, 10**6]  # distinct values of a map: many ties, some, almost none


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_one_sort_gives_the_auc_and_ap_of_scikit_learn(levels, share):
    draw = rng("pixels", levels, share)
    for n in (2, 97, 5000):
        values = np.float32(draw.integers(0, levels, n) / levels)
        forged = draw.random(n) < share
        forged[:2] = True, False  # both classes
        auc, ap = auc_and_ap(values, forged)
        assert auc == pytest.approx(roc_auc_score(forged, values), abs=1e-12)
        assert ap == pytest.approx(average_precision_score(forged, values), abs=1e-12)


def test_a_constant_map_is_chance_and_a_full_mask_has_no_auc():
    mask = np.zeros((12, 10), bool)
    mask[:3] = True
    for level in (0, 0.25, 1):
        measures = localisation(np.full((4, 4), level), mask)
        assert measures["pixel_auc"] == 0.5
        for name in ("pixel_ap", "pointing", "energy"):
            assert measures[name] == pytest.approx(0.25)
    measures = localisation(rng("map").random((4, 4)), np.ones((12, 10)))
    assert math.isnan(measures["pixel_auc"])
    assert measures["pixel_ap"] == measures["pointing"] == measures["energy"] == 1


def test_an_empty_mask_gives_nan_and_an_impossible_map_is_refused():
    empty = np.zeros((12, 10), bool)
    measures = localisation(np.full((4, 4), 0.5), empty)
    assert tuple(measures) == LOCALISATION and np.isnan([*measures.values()]).all()
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(DfnbError, match="outside"):
            localisation(np.full((4, 4), value), empty)
