"""What the record of a training says, where a test needs a run and no training."""

SAID = {
    "rule": "highest frame AUC on the validation split",
    "weights_from": "random weights",
    "start": None,
    "collapsed": False,
    "images_seen": 200,
    "n": {"train": 100, "val": 50},
    "chosen": {"epoch": 1, "auc": 0.8},
    "validation_threshold": {"threshold": 0.75, "threshold_clusters": 9},
    "environment": {},
    "log": [{"epoch": 1, "loss_total": 0.7, "validation_auc": 0.7, "images_per_s": 10.0}],
}
