"""From the scores of a report to its tables, figures, claims and page. Nothing here needs torch.

Example::

    from dfnb import report

    scores = report.scores("study-bed")
    report.measure(scores, "AUC", by=["detector", "test_set"])
"""

from dfnb.report.detectors import detectors
from dfnb.report.metrics import measure
from dfnb.report.reading import ablations, maps, scores, thresholds
from dfnb.store.scores import check_scores

__all__ = ["ablations", "check_scores", "detectors", "maps", "measure", "scores", "thresholds"]
