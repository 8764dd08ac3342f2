"""A small report, planted through the store: no network, no dataset, numbers made by hand."""

import numpy as np
import pandas as pd

from dfnb.seeds import rng
from dfnb.store import Condition, write_scores

SETS = ["synth-a", "synth-b", "synth-c"]  # trained on the first
KINDS = "kinds"
TITLES = {"xception": "Baseline", "lae": "LAE", "locate_and_verify": "Locate and Verify"}
NOTEBOOKS = {"xception": "02_baseline", "lae": "03_lae", "locate_and_verify": "04_locate"}


def table(test_set, strength, key, clusters=30):
    """Per cluster a real video and two fakes, two frames each; all detectors share most errors."""
    rows = []
    for cluster in range(clusters):
        for method in ("real", "swap", "warp"):
            for frame in (0, 5):
                label = int(method != "real")
                rows.append([f"{method}/{cluster:03d}", 0, frame, str(cluster), label, method])
    columns = ["video", "track", "frame", "cluster", "label", "method"]
    made = pd.DataFrame(rows, columns=columns)
    shared = rng("videos", test_set).normal(size=len(made) // 2).repeat(2)
    own = rng("seed", key, test_set).normal(size=len(made))
    made["log_odds"] = strength * made["label"] + shared + own / 2
    contrasts = [["swap", "warp"]] if test_set == KINDS else []
    made.attrs = {"fingerprint": test_set, "compression": "JPEG", "contrasts": contrasts}
    return made


def measured(test_set, key, **means):
    """Forged frames of a test set with measures of regions or maps, which vary a little."""
    frames = table(test_set, 2, key)
    noise = 0.02 * rng("measures", key).normal(size=len(frames))
    for name, mean in means.items():
        frames[name] = np.where(frames["label"] == 1, mean + noise, np.nan)
    return frames


def of_map(test_set, key, **means):
    """Measures of a map, of the forged frames alone."""
    frames = measured(test_set, key, **means)
    return frames[frames["label"] == 1].drop(columns="log_odds")


def write(profile, paper, seed=0, role=("", ""), tables=None, train_set=SETS[0], **facts):
    """Write the scores of a run; returns its id. ``facts`` change its record."""
    run_id = f"{paper}-{'-'.join(role).replace(' ', '')}-s{seed}"
    detector = {"title": TITLES[paper], "notebook": NOTEBOOKS[paper], "colour": "#0072b2"}
    record = {
        "parameters": {
            "paper": paper,
            "train_set": train_set,
            "seed": seed,
            "seen_methods": ["swap"] if paper == "lae" else None,
            "settings": {"backbone": "small", "lr": 0.01, "epochs": 2},
        },
        "detector": {
            **detector,
            "marker": "o",
            "published": TITLES[paper],
            "defaults": {"backbone": "large", "lr": 0.01, "epochs": 9},
        },
        "rule": "best epoch on validation",
        "weights_from": "random weights",
        "weights_sha256": "",
        "start": None,
        "collapsed": False,
        "images_seen": 200,
        "n": {"train": 100},
        "chosen": {"epoch": 1, "auc": 0.8},
        "validation_threshold": {"threshold": 0.9, "threshold_clusters": 9},
        "log": [{"epoch": epoch, "loss_cls": 1 / epoch, "validation_auc": 0.8} for epoch in (1, 2)],
        **facts,
    }
    if tables is None:
        strength = {"xception": 1.5, "lae": 1, "locate_and_verify": 3}[paper]
        tables = {Condition(name): table(name, strength, run_id) for name in SETS}
    write_scores(profile, record, run_id, [role], tables)
    return run_id


def write_all(profile):
    """Three detectors with ablations, regions, corruptions, epochs, maps and kinds of images."""
    for seed in (0, 1):
        tables = {Condition(name): table(name, 1.5, f"x{seed}") for name in SETS}
        for severity in (1, 5):
            tables[Condition(SETS[0], "JPEG", severity)] = table(SETS[0], 1 / severity, severity)
        tables[Condition(SETS[0], epoch=2)] = table(SETS[0], 3, f"x{seed}")
        tables[Condition(KINDS)] = table(KINDS, 1.5, f"x{seed}")
        for name, energy, alike in (("Grad-CAM", 0.6, 0.1), ("shape", 0.7, 0.9), ("edges", 0.9, 0)):
            means = {"energy": energy, "chance": 0.2, "constant energy": 0.4}
            tables[Condition(SETS[0], map=name)] = of_map(SETS[0], seed, **means)
            sanity = of_map(SETS[0], seed, all=alike, empty=0)
            tables[Condition(SETS[0], map=name, sanity=True)] = sanity
        write(profile, "xception", seed, tables=tables)
        located = {Condition(name): measured(name, seed, energy=0.6) for name in SETS}
        for frames in located.values():
            frames["constant energy"] = 0.4 * frames["label"].replace(0, np.nan)
        write(profile, "locate_and_verify", seed, tables=located)
        fewer = {Condition(name): table(name, 0.5, f"0 {seed}") for name in SETS[:2]}
        write(profile, "locate_and_verify", seed, ("annotation", "0 %"), fewer)
        for variant in ("main", "0 %"):
            write(profile, "lae", seed, ("face swap", variant))
    write(profile, "locate_and_verify", 0, ("quirks", "update"))
