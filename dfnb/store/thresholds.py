"""The score above which a detector calls a frame fake, chosen on its own validation frames."""

import numpy as np
import pandas as pd

from dfnb.statistics import THRESHOLD_REPLICATES, cluster_weights
from facesets.checks import Closed

FALSE_ALARM_RATE = 0.05  # the share of real validation frames above a detector's threshold
# Clusters of the validation split, for an interval at its threshold. With fewer, the bootstrap of
# the threshold is too narrow.
FEWEST_VALIDATION = 100


class Threshold(Closed):
    """The lowest score that at most FALSE_ALARM_RATE of the real validation frames exceed.

    Attributes:
        threshold: A score in [0, 1].
        threshold_clusters: How many clusters (people, mostly) the real frames come from.
        threshold_replicates: The threshold in each bootstrap replicate of these clusters.
    """

    threshold: float
    threshold_clusters: int
    threshold_replicates: list[float]

    def with_replicates(self) -> np.ndarray:
        """The threshold, then its value in each replicate: (1 + THRESHOLD_REPLICATES,).

        Where the threshold was chosen on fewer than FEWEST_VALIDATION clusters, it is returned
        alone, (1,): a metric at this threshold has no interval.
        """
        has_interval = self.threshold_clusters >= FEWEST_VALIDATION
        return np.append(self.threshold, self.threshold_replicates if has_interval else [])


def threshold_of(frames: pd.DataFrame) -> Threshold:
    """The threshold on the real ones of these frames, a table with label, score and cluster.

    In each replicate it is the weighted quantile of the scores at 1 - FALSE_ALARM_RATE.
    """
    real = frames[frames["label"] == 0]
    cluster_of_frame, names = pd.factorize(real["cluster"].astype(str))
    one_stratum = np.zeros(len(names), int)
    weights = cluster_weights(names, one_stratum)[: 1 + THRESHOLD_REPLICATES]
    order = np.argsort(real["score"].to_numpy(), kind="stable")
    # (1 + THRESHOLD_REPLICATES, n): the weight of each score and all below it, in ascending order.
    up_to = weights[:, cluster_of_frame[order]].cumsum(axis=1)
    # A share of the total weight, which is the last column; 1e-9 less, because sums are rounded.
    limit = (1 - FALSE_ALARM_RATE - 1e-9) * up_to[:, -1:]
    place = (up_to < limit).sum(axis=1)  # of the first score that reaches the limit
    threshold, *replicates = real["score"].to_numpy()[order][place].tolist()
    return Threshold(
        threshold=threshold,
        threshold_clusters=len(names),
        threshold_replicates=replicates,
    )
