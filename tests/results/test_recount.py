"""A committed study counted again by code that shares nothing with dfnb: pandas and sklearn."""

import json

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from sklearn.metrics import roc_auc_score

STUDY = "study-ff-like"
WITHIN = "ff-like"  # on which its detectors are trained; the mean across is over all other sets
KEYS = ["detector", "seed", "test_set"]


def frames_of(path):
    """The rows of a score file with the detector's name, seed and threshold."""
    metadata = json.loads(parquet.read_metadata(path).metadata[b"dfnb"])
    record = metadata["record"]
    (variant,) = metadata["variants"]
    title = record["detector"]["title"]
    name = title if variant == "main" else f"{title}, {variant}" if ":" in variant else variant
    columns = ["test_set", "corruption", "map", "video", "cluster", "label", "log_odds"]
    rows = pd.read_parquet(path, columns=columns)
    rows = rows[(rows["corruption"] == "") & (rows["map"] == "")]
    return rows.drop(columns=["corruption", "map"]).assign(
        detector=name,
        seed=record["parameters"]["seed"],
        threshold=record["validation_threshold"]["threshold"],
        score=(1 / (1 + np.exp(-rows["log_odds"].astype(float)))).round(12),
    )


def aucs(units, ranked="score"):
    """The AUC of each detector at each seed on each test set."""
    return units.groupby(KEYS, observed=True).apply(
        lambda rows: roc_auc_score(rows["label"], rows[ranked]), include_groups=False
    )


def by_place(values):
    """Means over test sets and seeds, by detector, within and across, and those of each seed."""
    places = values.index.get_level_values("test_set") == WITHIN
    place = np.where(places, "in-dataset", "cross-dataset")
    of_seed = values.groupby([values.index.get_level_values(name) for name in KEYS[:2]] + [place])
    of_seed = of_seed.mean().rename_axis(["detector", "seed", "place"])
    return of_seed.groupby(["detector", "place"]).mean(), of_seed


def shown(value, sign=""):
    """The number as the beginning of a cell, with two or three decimals."""
    return f"{value:{sign}.3f}", f"{value:{sign}.2f}"


def table_of(path):
    """The rows of a committed table."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return pd.DataFrame(rows, columns=header)


@pytest.fixture(scope="module")
def frames(checkout):
    """All frames of the study."""
    frames = pd.concat(map(frames_of, sorted((checkout / "reports" / STUDY / "scores").iterdir())))
    texts = ["detector", "test_set", "video"]
    return frames.astype(dict.fromkeys(texts, "category"))  # grouped faster


@pytest.fixture(scope="module")
def results(checkout):
    """Its committed numbers before they are rounded."""
    return pd.read_parquet(checkout / "reports" / STUDY / "results.parquet")


def test_a_committed_study_counted_again(checkout, frames, results):
    tables = checkout / "reports" / STUDY / "tables"
    videos = frames.groupby([*KEYS, "video", "label"], as_index=False, observed=True)[
        "score"
    ].mean()
    mean, of_seed = by_place(aucs(videos.round({"score": 12})))
    main = results[(results["table"] == "cross_dataset") & ~results["detector"].str.contains("×")]
    assert len(main) == 10 and len(of_seed) == 60
    for row in main.itertuples():
        assert mean[row.detector, row.place] == pytest.approx(row.value, abs=1e-9)
        again = [of_seed[row.detector, seed, row.place] for seed in row.of_seeds]
        assert again == pytest.approx(list(row.seed_values), abs=1e-9)
    for row in table_of(tables / "cross_dataset.md").to_dict("records"):
        for place in ("in-dataset", "cross-dataset"):
            if "×" not in row["detector"]:
                assert row[place].startswith(shown(mean[row["detector"], place]))
    differences = results[results["table"].isin(["differences", "variants"])]
    assert len(differences) == 22
    for row in differences.itertuples():
        again = mean[row.detector, row.place] - mean[row.minus, row.place]
        assert again == pytest.approx(row.value, abs=1e-9)
    for name in ("differences", "variants"):
        for row in table_of(tables / f"{name}.md").to_dict("records"):
            again = mean[row["detector"], row["place"]] - mean[row["minus"], row["place"]]
            assert row["difference"].startswith(shown(again, "+"))


def test_the_frames_of_a_committed_study_counted_again(checkout, frames, results, monkeypatch):
    """The share of real frames above the threshold, and the AUC of frames, which no table has."""
    from dfnb.results import measure, scores  # what is tested here

    monkeypatch.setenv("DFNB_HOME", str(checkout))
    real = frames[frames["label"] == 0]
    mean, _ = by_place(
        (real["score"] > real["threshold"]).groupby([real[key] for key in KEYS]).mean()
    )
    alarms = results[results["table"] == "false_positive_rate"]
    assert len(alarms) == 10
    for row in alarms.itertuples():
        assert mean[row.detector, row.place] == pytest.approx(row.value, abs=1e-9)
    again = aucs(frames, "log_odds")  # of which some give the same P, rounded
    numbers = measure(scores(STUDY, level="frame"), "AUC", KEYS, replicates=2)
    assert len(numbers) == len(again) == 30 * 13
    for row in numbers.itertuples():
        assert again[row.detector, row.seed, row.test_set] == pytest.approx(row.value, abs=1e-9)


def won(rows):
    """How many comparisons of a fake with a real the fake wins, of how many.

    In a fold, which has few people, none is of two videos of one cluster.
    """
    fake, real = rows[rows["label"] == 1], rows[rows["label"] == 0]
    margin = np.subtract.outer(fake["score"].to_numpy(), real["score"].to_numpy())
    counts = np.full(margin.shape, True)
    if "-fold-" in rows["test_set"].iloc[0]:
        counts = fake["cluster"].to_numpy()[:, None] != real["cluster"].to_numpy()
    wins = (margin > 0) + 0.5 * (margin == 0)
    return pd.Series({"wins": wins[counts].sum(), "pairs": counts.sum()})


@pytest.mark.parametrize("study", ["study-portraits"])
def test_what_training_sets_make_of_an_auc_counted_again(checkout, study):
    files = sorted((checkout / "reports" / study / "scores").iterdir())
    frames = pd.concat(map(frames_of, files))
    name, _, trained = frames["detector"].str.partition(", training set: ").T.to_numpy()
    frames = frames.assign(detector=name, trained=trained)
    frames["place"] = frames["test_set"].replace(
        {"portraits-world-..": "mean of 12 others", "hidf-sample-fold-.": "hidf-sample"}, regex=True
    )
    of_video = ["trained", "detector", "seed", "place", "test_set", "video", "label", "cluster"]
    videos = frames.groupby(of_video, as_index=False)["score"].mean().round({"score": 12})
    counted = videos.groupby(of_video[:5])[videos.columns].apply(won)
    of_seed = counted.groupby(level=of_video[:4]).sum()  # all worlds have as many pairs
    mean = (of_seed["wins"] / of_seed["pairs"]).groupby(["trained", "detector", "place"]).mean()
    table = pd.read_csv(checkout / "reports" / study / "tables/by_training.csv")
    main = table["trained"].iloc[0]
    for row in table.itertuples():
        again = mean["" if row.trained == main else row.trained, row.detector, row.place]
        assert again == pytest.approx(row.value, abs=1e-9)
