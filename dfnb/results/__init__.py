"""From the scores of a report to its tables, figures, claims and page. Nothing here needs torch.

Example::

    from dfnb import results

    scores = results.scores("study-ff-like")
    results.measure(scores, "AUC", by=["detector", "test_set"])
"""

from dfnb.results.detectors import detectors
from dfnb.results.metrics import measure
from dfnb.results.reading import ablations, made, maps, scores, stored, thresholds
from dfnb.store.scores import check_scores

__all__ = [
    "ablations",
    "check_scores",
    "detectors",
    "made",
    "maps",
    "measure",
    "scores",
    "stored",
    "thresholds",
]
