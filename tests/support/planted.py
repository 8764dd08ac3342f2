"""A small report, planted as score files: no network, no dataset, numbers made by hand."""

from itertools import product

import numpy as np
import pandas as pd

from dfnb.results.detectors import split
from dfnb.store import scores
from dfnb.store.reports import score_path
from dfnb.store.runs import TrainingRecord
from dfnb.store.scores import About, Condition, StoredSet
from facesets.files import report_folder
from facesets.manifests import domain_of
from facesets.seeds import rng

SETS = ["synth-a", "synth-b"]  # trained on the first
CROP = "face box × 1.3, 300 pixels"
TITLES = {
    "xception": "Baseline",
    "lae": "LAE",
    "locate_and_verify": "Locate and Verify",
    "left": "A paper that has left",
}
SIZES = {"locate_and_verify": 128}  # of the input, where it is not 96 pixels
MAPS = {"Grad-CAM": [0.6, 0.1], "shape": [0.7, 0.9], "edges": [0.9, 0.1]}  # energy, sameness


def table(test_set, strength=1.5, key="", clusters=15):
    """A real video and two fakes per cluster, two frames each; detectors share most errors."""
    made = pd.DataFrame({"cluster": np.arange(clusters).repeat(6).astype(str), "track": 0})
    made["method"] = ["real", "real", "swap", "swap", "warp", "warp"] * clusters
    made["frame"] = [0, 5] * (3 * clusters)
    made["video"] = made["method"] + "/" + made["cluster"]
    made["label"] = (made["method"] != "real").astype(int)
    shared = rng("videos", test_set).normal(size=3 * clusters).repeat(2)
    own = rng("seed", key, test_set).normal(size=len(made))
    made["log_odds"] = strength * made["label"] + shared + own / 2
    return made


def measured(test_set, key="", **means):
    """The forged frames of a test set, with measures that vary a little."""
    frames = table(test_set, key=key).query("label == 1").drop(columns="log_odds")
    for name, mean in means.items():
        frames[name] = mean + 0.02 * rng("measures", key).normal(size=len(frames))
    return frames


def record(paper, seed=0, settings=None, train_set=SETS[0], **facts):
    """The record of a training; ``facts`` replace entries."""
    size = SIZES.get(paper, 96)
    values = {
        "paper": paper,
        "train_set": train_set,
        "data": "",
        "settings": settings or {"backbone": "small", "lr": 0.01, "image_size": size},
        "seed": seed,
        "seen_methods": ["swap"] if paper == "lae" else None,
        "frames_per_video": None,
        "start_weights": "",
        "version": 1,
        "numbers": 1,
    }
    title = TITLES[paper]
    entries = {
        "parameters": values,
        "faces": {"size": 96, "drawn": True},
        "detector": {
            "title": title,
            "published": title,
            "notebook": f"{list(TITLES).index(paper)}_{paper}",
            "defaults": {"backbone": "large", "pretrained": True, "lr": 0.01, "image_size": size},
        },
        "rule": "best epoch",
        "chosen": {"epoch": 1, "auc": 0.8},
        "validation_threshold": {
            "threshold": 0.9,
            "threshold_clusters": 9,
            "threshold_replicates": [],
        },
        "weights_from": "random weights",
        "weights_sha256": "",
        "log": [{"epoch": epoch, "loss_cls": 1 / epoch, "validation_auc": 0.8} for epoch in (1, 2)],
        "n": {"train": 100},
        "collapsed": False,
        "start": None,
        "images_seen": 200,
        "wall_s": 1.0,
        "environment": {"device": "cpu"},
        "outputs": {},
    }
    return TrainingRecord.check({**entries, **facts}, "planted")


def about(record, tables, shared=None, **versions):
    """The metadata of a score file with these tables, by condition.

    ``shared``: how many frames of a test set have a crop of the training. ``versions`` replace the
    fingerprint of a test set, which is its name.
    """
    test_sets = {}
    for name in {condition.test_set for condition in tables}:
        domain, apart = domain_of(name)
        test_sets[name] = StoredSet(
            fingerprint=versions.get(name, name),
            domain=domain,
            apart=apart,
            compression="JPEG",
            crop=CROP,
            n=90,
            shared_crops=(shared or {}).get(name),
        )
    domain = domain_of(record.parameters.train_set)[0]
    return About(record=record, train_domain=domain, test_sets=test_sets)


def rows(tables):
    """The rows of a score file with these tables, by condition."""
    parts = [table.assign(**condition._asdict()) for condition, table in tables.items()]
    return pd.concat(parts)


def add(run, tables, shared=None, **versions):
    """Add tables to the scores of a run in ``runs/``, as made today; see :func:`about`."""
    for condition, of_condition in tables.items():
        known = about(run.record, [condition], shared, **versions)
        fingerprint = known.test_sets[condition.test_set].fingerprint
        run.versions[condition.test_set] = fingerprint
        path = scores.own_path(run.id, condition, fingerprint)
        scores.write(path, rows({condition: of_condition}), known)


def write(
    profile, paper, seed=0, variant="main", strength=1.5, more=None, shared=None, name="", **facts
):
    """Write the scores of a run on all sets, and ``more`` tables; ``facts`` change its record.

    ``shared`` is that of :func:`about`, ``name`` the id of the run. An empty ``variant`` is none.
    """
    ablation, of_ablation = split(variant)
    run_id = name or f"{paper}-{ablation}-{of_ablation}-{seed}".replace(" ", "")
    tables = {Condition(name): table(name, strength, run_id) for name in SETS}
    tables.update(more or {})
    metadata = about(record(paper, seed, **facts), tables, shared)
    path = score_path(report_folder(profile), run_id)
    update = {"variants": [variant] if variant else []}
    scores.write(path, rows(tables), metadata.model_copy(update=update))
    return run_id


def write_all(profile):
    """Two detectors on two seeds, of which one has all there is; ablations; one run collapsed."""
    for seed in (0, 1):
        more = {}
        for name, severity in product(SETS, (1, 5)):
            more[Condition(name, "JPEG", severity)] = table(name, 3 / severity, seed)
        for name, (energy, sameness) in MAPS.items():
            means = {"energy": energy, "constant energy": 0.4}
            more[Condition(SETS[0], map=name)] = measured(SETS[0], seed, **means)
            networks = {f"random {draw}": sameness for draw in (1, 2, 3)}
            same = measured(SETS[0], seed, **networks).assign(blank=0.0, grey=0.2)
            more[Condition(SETS[0], map=name, sanity=True)] = same
        write(profile, "xception", seed, strength=3, more=more)
        write(profile, "locate_and_verify", seed, collapsed=seed == 1)
        write(profile, "lae", seed, "face swap: main")
    write(profile, "lae", 0, "face swap: 0 %", 1)
    write(profile, "locate_and_verify", 0, "quirks: update", 2)
