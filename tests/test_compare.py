"""One comparison against hand-computed cases and simulation; the long table and the claims of a report made by hand."""

import importlib.util
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import expit
from scipy.stats import t
from sklearn.metrics import brier_score_loss, roc_auc_score

from dfnb import compare, core, metrics, papers, scores, train
from dfnb.compare import ALL_CORRUPTIONS, ON_TEST
from dfnb.core import DfnbError, rng


def table(key, strength, clusters=40, frames=2, videos="videos", spread=0.4) -> pd.DataFrame:
    """A real and a fake video per cluster, so each holds both classes; fakes are swap and warp in turn."""
    n = clusters * frames
    label, cluster = np.tile(np.repeat([0, 1], frames), clusters), np.repeat(np.arange(clusters), 2 * frames)
    method = np.where(label == 0, "real", np.where(cluster % 2 == 0, "swap", "warp"))
    video = [f"{kind}/{number:03d}" for kind, number in zip(method, cluster)]
    noise = rng(videos).normal(size=2 * clusters).repeat(frames) + spread * rng("seed", key).normal(size=2 * n)
    made = pd.DataFrame({"video": video, "track": 0, "frame": np.tile(np.arange(frames), 2 * clusters)})
    made = made.assign(cluster=cluster.astype(str), label=label, method=method)
    return made.assign(score=expit(noise + strength * label - strength / 2))


def perfect(key, clusters=40) -> pd.DataFrame:
    made = table(key, 1.0, clusters)
    return made.assign(score=made.label * 0.5 + made.score / 2)


def video_auc(scored: pd.DataFrame) -> float:
    videos = scored.groupby("video")[["label", "score"]].mean()
    return roc_auc_score(videos["label"], videos["score"])


# ---------------------------------------------------------------------------------------------------------- one comparison


def test_the_interval_over_videos_and_seeds_by_hand():
    seeds = [table(key, strength) for key, strength in enumerate((1.0, 1.6, 2.4))]
    found = compare.compare(seeds, level="video", metric="AUC")
    aucs = np.array([video_auc(scored) for scored in seeds])
    value, logistic = aucs.mean(), aucs.mean() * (1 - aucs.mean())
    assert (found["value"], found["sd"], found["seeds"]) == pytest.approx((value, aucs.std(ddof=1), 3))
    of_seeds = aucs.var(ddof=1) / 3
    half = t.ppf(0.975, 2) * of_seeds**0.5 / logistic
    assert found["low_seeds"] == pytest.approx(expit(np.log(value / (1 - value)) - half))
    of_videos = (
        (np.log(found["high_videos"] / (1 - found["high_videos"])) - np.log(value / (1 - value))) * logistic
    ) ** 2
    of_videos /= t.ppf(0.975, 39) ** 2
    degrees = (of_videos + of_seeds) ** 2 / (of_videos**2 / 39 + of_seeds**2 / 2)
    half = t.ppf(0.975, degrees) * (of_videos + of_seeds) ** 0.5 / logistic
    assert found["high"] == pytest.approx(expit(np.log(value / (1 - value)) + half))
    assert found["low"] < found["low_videos"]
    assert (found["n"], found["n_real"], found["n_fake"], found["clusters"]) == (80, 40, 40, 40)
    assert found["left_chance"] == 3 and np.isnan(found["p"]) and found["interval_method"] == "delong"
    one = compare.compare(seeds[:1], level="video", metric="AUC")
    assert (one["low"], one["high"]) == (one["low_videos"], one["high_videos"]) and np.isnan(
        [one["low_seeds"], one["sd"]]
    ).all()


def test_a_difference_over_videos_and_seeds_by_hand():
    a, b = ([table(f"{name}{key}", 1.5 + gain) for key in range(4)] for name, gain in (("a", 0.5), ("b", 0)))
    found = compare.compare(a, b, level="video", metric="AUC")
    differences = np.array([video_auc(x) - video_auc(y) for x, y in zip(a, b)])
    assert found["value"] == pytest.approx(differences.mean())
    of_seeds = differences.var(ddof=1) / 4
    assert found["high_seeds"] == pytest.approx(differences.mean() + t.ppf(0.975, 3) * of_seeds**0.5)
    of_videos = ((found["high_videos"] - found["value"]) / t.ppf(0.975, 39)) ** 2
    degrees = (of_videos + of_seeds) ** 2 / (of_videos**2 / 39 + of_seeds**2 / 3)
    error = (of_videos + of_seeds) ** 0.5
    assert (found["value"] - found["low"]) == pytest.approx(t.ppf(0.975, degrees) * error)
    assert found["p"] == pytest.approx(2 * t.sf(found["value"] / error, degrees))
    turned = compare.compare(b, a, level="video", metric="AUC")
    assert (turned["low"], turned["p"]) == pytest.approx((-found["high"], found["p"]))
    against_one = compare.compare(a, b[:1], level="video", metric="AUC")
    assert against_one["value"] == pytest.approx(np.mean([video_auc(x) for x in a]) - video_auc(b[0]))
    with pytest.raises(DfnbError, match="4 score tables cannot be paired with 2"):
        compare.compare(a, b[:2], level="video", metric="AUC")


def test_a_difference_against_a_brute_force_bootstrap():
    a, b = table("a", 1.5, 60, 3), table("b", 1.0, 60, 3)
    found = compare.compare([a], [b], level="frame", metric="AUC")
    label, rows_of = a.label.to_numpy(), np.arange(len(a)).reshape(60, -1)
    draws = []
    for key in range(400):
        rows = rows_of[rng(11, key).integers(0, 60, 60)].ravel()
        draws.append(roc_auc_score(label[rows], a.score[rows]) - roc_auc_score(label[rows], b.score[rows]))
    assert found["value"] == pytest.approx(roc_auc_score(label, a.score) - roc_auc_score(label, b.score))
    assert found["high"] - found["low"] == pytest.approx(4 * np.std(draws), rel=0.12)
    assert (found["p"] < 0.05) == (found["low"] > 0)
    apart = [compare.compare([x], level="frame", metric="AUC") for x in (a, b)]
    assert found["high"] - found["low"] < 0.8 * np.hypot(
        *[row["high"] - row["low"] for row in apart]
    )  # pairing matters


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_equal_and_perfect_detectors(metric):
    scored = table(1, 1.5)
    same = compare.compare([scored], [scored], level="frame", metric=metric)
    assert same["value"] == 0
    if metric in ("ECE", "TPR at 1% FPR"):
        assert np.isnan(same["p"]) and same["interval_method"] == "none"
        return
    assert (same["low"], same["high"], same["p"]) == (0, 0, 1)
    a, b = perfect(1), perfect(2)
    found = compare.compare([a], [a], level="frame", metric=metric)
    assert (found["low"], found["high"], found["p"]) == (0, 0, 1)
    if metric != "Brier":  # perfect is 0 or 1
        found = compare.compare([a], [b], level="frame", metric=metric)
        assert found["value"] == 0 and found["p"] == 1 and -0.3 < found["low"] < -0.05 and 0.05 < found["high"] < 0.3
        alone = compare.compare([a], level="frame", metric=metric)
        assert alone["value"] in (0, 1) and alone["high"] - alone["low"] > 0.05


def test_one_cluster_of_a_class_has_no_interval():
    scored = table(1, 1.5)
    lone = scored[(scored.label == 0) | (scored.cluster == "0")]
    for metric in metrics.METRICS:
        found = compare.compare([lone, lone], level="frame", metric=metric)
        assert np.isnan([found["low"], found["high"], found["low_videos"]]).all(), metric
    found = compare.compare([lone], [lone], level="frame", metric="AUC")
    assert np.isnan([found["low"], found["p"]]).all()


def test_columns_of_values():
    a, b = (table(key, 1.5).assign(iou=lambda x: x.score.where(x.label == 1)) for key in (1, 2))
    found = compare.compare([a], level="frame", metric="iou")
    assert (found["n"], found["n_real"], found["n_fake"]) == (80, 0, 80)
    of_cluster = (a.iou - a.iou.mean()).groupby(a.cluster).sum().to_numpy() / 80
    error = (40 / 39 * (of_cluster**2).sum()) ** 0.5
    value = a.iou.mean()
    assert found["value"] == pytest.approx(value)
    half = t.ppf(0.975, 39) * error / (value * (1 - value))
    assert found["low"] == pytest.approx(expit(np.log(value / (1 - value)) - half))
    signed = a.assign(likeness=a.iou * 2 - 1)  # a signed value: Wald
    found = compare.compare([signed], level="frame", metric="likeness")
    assert (found["value"], found["low"]) == pytest.approx(
        (2 * value - 1, 2 * value - 1 - 2 * t.ppf(0.975, 39) * error)
    )
    lacking = b.assign(iou=b.iou.where(b.cluster != "0"))  # only where both have a value
    found = compare.compare([a], [lacking], level="frame", metric="iou")
    both = lacking.iou.notna()
    assert found["n"] == 78 and found["value"] == pytest.approx((a.iou - b.iou)[both].mean())
    with pytest.raises(DfnbError, match="no frame has a value of energy in every score table"):
        compare.compare([a], level="frame", metric="energy")
    with pytest.raises(DfnbError, match="no video has a value of iou"):
        compare.compare([a], level="video", metric="iou")


def test_bootstrap_metrics_of_a_difference_use_the_same_clusters():
    a, b = ([table(f"{name}{key}", 1.5) for key in range(2)] for name in "ab")
    found = compare.compare(a, b, level="frame", metric="EER")
    apart = [compare.compare(side, level="frame", metric="EER") for side in (a, b)]
    assert found["interval_method"] == "bootstrap"
    widths = [side["high_videos"] - side["low_videos"] for side in apart]
    assert found["high_videos"] - found["low_videos"] < 0.8 * np.hypot(*widths)


def test_coverage_over_videos_and_seeds(checkout, monkeypatch):
    """300 repetitions of 5 trainings on 60 clusters: the interval holds the mean over all trainings and videos."""
    spec = importlib.util.spec_from_file_location("coverage", checkout / "benchmarks" / "coverage.py")
    simulation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulation)
    monkeypatch.setattr(metrics, "REPLICATES", 150)
    shares = simulation.coverage(repetitions=300, clusters=60, seeds=5)
    assert shares.between(0.91, 0.99).all(), shares


# ------------------------------------------------------------------------------------------------------- the long table


def run_of(home, paper, seed, name, train_set="here") -> train.Run:
    """A run whose training is not needed: a record, weights that nobody loads, and no scores yet."""
    folder = home / "runs" / f"{core.slug(name)}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "best.safetensors").write_bytes(folder.name.encode())
    parameters = {"paper": paper, "train_set": train_set, "seed": seed, "settings": {"backbone": "small"}}
    outputs = {"best.safetensors": core.sha256(folder / "best.safetensors")}
    record = {"parameters": parameters, "outputs": outputs, "rule": "highest validation AUC", "weights_from": "nothing"}
    return train.Run(folder, record | {"log": []})


def put(run, test_set, scored, condition="", fingerprint="first") -> None:
    """Scores as the store has them."""
    facts = train.score_facts(run.id, test_set, condition, {"fingerprint": fingerprint}, run.weights_sha256)
    core.write_table(train.shard(run.folder, test_set, condition), scored, facts)


STRENGTH = {("here", "plain"): 1.2, ("there", "plain"): 0.8, ("here", "locating"): 2.2, ("there", "locating"): 1.4}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of two main lines with two seeds each, one arm of each kind, and all kinds of conditions."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("DFNB_HOME", str(home))
        lines = []
        for paper, name in (("xception", "plain"), ("locate_and_verify", "locating")):
            runs = [run_of(home, paper, seed, name) for seed in (0, 1)]
            for run, test_set in ((run, test_set) for run in runs for test_set in ("here", "there")):
                scored = table(f"{run.id}{test_set}", STRENGTH[test_set, name], videos=test_set)
                if name == "locating":
                    scored = scored.assign(iou=scored.score.where(scored.label == 1))
                put(run, test_set, scored)
                for epoch, gain in (("epoch 1", -0.5), ("epoch 2", 0.5)):
                    better = table(f"{run.id}{test_set}", STRENGTH[test_set, name] + gain, videos=test_set)
                    put(run, test_set, better, epoch)
            for severity, kind in ((severity, kind) for severity in (1, 5) for kind in ("JPEG", "blur")):
                scored = table(f"{name}{kind}{severity}", STRENGTH["here", name] / severity, videos="here")
                put(runs[0], "here", scored, f"{kind} {severity}")
            some = table(f"{name} map", 1.0, 10, videos="map")
            measures = {"energy": some.score, "deletion": some.score / 2, "deletion 0": some.score}
            measures = {key: value.where(some.label == 1) for key, value in measures.items()}
            put(runs[0], "here", some.assign(**measures), "map Grad-CAM")
            put(runs[0], "here", some[some.label == 1].assign(half=0.2, all=-0.1), "sanity Grad-CAM")
            lines.append(scores.Line(name, paper, "", "", tuple(runs)))
        for paper, group, arm, seeds in (
            ("locate_and_verify", "modules", "without", (0,)),
            ("locate_and_verify", "task", "main", (0, 1)),
            ("locate_and_verify", "task", "less", (0, 1)),
            ("xception", "task", "main", (0, 1)),
            ("xception", "apart", "other seeds", (7,)),
        ):
            name = f"{paper}, {group}, {arm}"
            runs = [run_of(home, paper, seed, name) for seed in seeds]
            for run in runs:
                put(run, "here", table(run.id, 1.0 + (arm == "main"), videos="here"))
            lines.append(scores.Line(name, paper, group, arm, tuple(runs)))
        scores.pack("hand", lines)
        tool = home / "reports" / "hand" / "other" / "sometool"
        tool.mkdir(parents=True)
        table("tool", 1.0, videos="here").groupby("video")[["label", "score"]].mean().to_csv(tool / "here.csv")
        report = scores.Report("hand")
        yield SimpleNamespace(
            home=home, report=report, table=compare.results(report), lines={line.name: line for line in lines}
        )


def rows(found, **wanted) -> pd.DataFrame:
    for column, value in wanted.items():
        found = found[found[column] == value]
    return found


def row(found, **wanted) -> pd.Series:
    clean = {"minus": "", "method": "all", "condition": "", "level": "video", "metric": "AUC", "test_set": "here"}
    (place,) = rows(found, **clean | wanted).index
    return found.loc[place]


def stored(made, name, test_set="here", condition="") -> list[pd.DataFrame]:
    return made.report.read(made.lines[name], test_set, condition)


def test_the_long_table_has_its_columns_and_says_nothing_twice(made):
    assert tuple(made.table.columns) == compare.COLUMNS
    assert not made.table.duplicated(list(compare.KEYS)).any()
    assert (made.table["refused"] == "").groupby(made.table["line"]).all().drop("sometool").all()
    found = row(made.table, line="plain")
    facts = found[
        ["paper", "train_set", "rule", "backbone", "weights_from", "compression", "fingerprint", "seeds_list"]
    ]
    assert [*facts] == [
        "xception",
        "here",
        "highest validation AUC",
        "small",
        "nothing",
        "as delivered",
        "first",
        "0, 1",
    ]
    assert found["left_chance"] == row(made.table, line="plain", test_set="there")["left_chance"] == 2


def test_the_values_are_those_of_the_files(made):
    for name, test_set in (("plain", "here"), ("plain", "there"), ("locating", "there")):
        found = row(made.table, line=name, test_set=test_set)
        assert found["value"] == pytest.approx(np.mean([video_auc(scored) for scored in stored(made, name, test_set)]))
    found = row(made.table, line="plain", level="frame", metric="Brier")
    expected = [brier_score_loss(scored.label, scored.score) for scored in stored(made, "plain")]
    assert found["value"] == pytest.approx(np.mean(expected)) and found["seeds"] == 2
    of_method = row(made.table, line="plain", method="swap")
    expected = [video_auc(scored[scored.method != "warp"]) for scored in stored(made, "plain")]
    assert of_method["value"] == pytest.approx(np.mean(expected)) and of_method["n_fake"] == 20
    assert row(made.table, line="locating", level="frame", metric="iou")["n"] == 80
    assert rows(made.table, line="plain", metric="iou").empty
    metrics_of = {
        name: set(rows(made.table, line=name, condition="", method="all", minus="")["metric"]) for name in made.lines
    }
    assert metrics_of["plain"] == set(metrics.METRICS) and metrics_of["xception, task, main"] == {
        "AUC",
        "balanced accuracy",
    }


def test_what_is_compared_with_what(made):
    clean = rows(made.table, condition="", level="video", method="all", metric="AUC", test_set="here")
    pairs = set(zip(clean["line"], clean["minus"])) - {(name, "") for name in clean["line"]}
    main, arm = "locate_and_verify, task, main", "locate_and_verify, task, less"
    expected = {("locating", "plain"), ("sometool", "plain"), ("sometool", "locating"), (arm, main)}
    expected |= {("locate_and_verify, modules, without", "locating")}
    heads = {main, "xception, task, main"}
    assert pairs - expected in ({tuple(heads)}, {tuple(heads)[::-1]}) and expected <= pairs
    found = row(made.table, line="locating", minus="plain", test_set="there")
    whole = compare.compare(
        stored(made, "locating", "there"), stored(made, "plain", "there"), level="video", metric="AUC"
    )
    assert found[list(compare.INTERVALS)].tolist() == pytest.approx([whole[name] for name in compare.INTERVALS])
    shared = row(made.table, line="locate_and_verify, modules, without", minus="locating")
    assert shared["seeds_list"] == "0" and shared["low"] == shared["low_videos"]
    first = compare.compare(
        stored(made, "locate_and_verify, modules, without"), stored(made, "locating")[:1], level="video", metric="AUC"
    )
    assert shared["value"] == pytest.approx(first["value"])


def test_robustness_is_the_mean_within_a_seed(made):
    kinds = {name: [stored(made, "plain", condition=f"{name} {k}")[0] for k in (1, 5)] for name in ("JPEG", "blur")}
    found = row(made.table, line="plain", condition="JPEG", metric="robustness")
    assert found["value"] == pytest.approx(np.mean([video_auc(scored) for scored in kinds["JPEG"]]))
    everything = row(made.table, line="plain", condition=ALL_CORRUPTIONS, metric="robustness")
    other = row(made.table, line="plain", condition="blur", metric="robustness")
    assert everything["value"] == pytest.approx((found["value"] + other["value"]) / 2) and everything["seeds"] == 1
    assert row(made.table, line="plain", condition="JPEG 5")["value"] == pytest.approx(video_auc(kinds["JPEG"][1]))
    difference = row(made.table, line="locating", minus="plain", condition=ALL_CORRUPTIONS, metric="robustness")
    minuend = row(made.table, line="locating", condition=ALL_CORRUPTIONS, metric="robustness")
    assert difference["value"] == pytest.approx(minuend["value"] - everything["value"])
    widths = [each["high"] - each["low"] for each in (difference, minuend, everything)]
    assert 0 < widths[0] < np.hypot(*widths[1:])


def test_maps_and_sanity_are_rows_of_their_columns(made):
    found = row(made.table, line="locating", condition="map Grad-CAM", level="frame", metric="energy")
    scored = stored(made, "locating", condition="map Grad-CAM")[0]
    assert found["value"] == pytest.approx(scored.energy.mean()) and found["n"] == 20
    assert (
        len(rows(made.table, metric="deletion 0", line="locating", minus="")) == 1
    )  # a curve's points have no methods
    assert len(rows(made.table, metric="deletion", line="locating", minus="")) == 3
    assert (
        row(made.table, line="locating", minus="plain", condition="map Grad-CAM", level="frame", metric="energy")["n"]
        == 20
    )
    found = row(made.table, line="plain", condition="sanity Grad-CAM", level="frame", metric="all")
    assert found[["value", "n_fake"]].tolist() == pytest.approx([-0.1, 20])


def test_the_epoch_chosen_on_the_test_set_and_its_gain(made):
    found = row(made.table, line="plain", condition=ON_TEST)
    best = stored(made, "plain", condition="epoch 2")
    assert found["value"] == pytest.approx(np.mean([video_auc(scored) for scored in best]))
    gain = row(made.table, line="plain", minus="plain", condition=ON_TEST)
    assert gain["value"] == pytest.approx(found["value"] - row(made.table, line="plain")["value"]) and gain["value"] > 0
    assert gain["low"] < gain["value"] < gain["high"]


def test_another_tool_has_videos_alone(made):
    found = row(made.table, line="sometool")
    assert found["value"] == pytest.approx(video_auc(table("tool", 1.0, videos="here"))) and found["seeds_list"] == ""
    hole = row(made.table, line="sometool", level="frame")
    assert np.isnan(hole["value"]) and "one score per video: no frame level" in hole["refused"]
    difference = row(made.table, line="sometool", minus="plain")
    assert difference["seeds"] == 2 and difference["high_seeds"] > difference["value"] > difference["low_seeds"]


def test_the_table_is_made_once_and_again_when_a_file_changes(made, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(made.home))
    monkeypatch.setattr(compare, "_results", lambda report: pytest.fail("made again"))
    pd.testing.assert_frame_equal(compare.results(scores.Report("hand")), made.table)
    monkeypatch.setattr(compare, "_results", lambda report: made.table.head(3))
    run = run_of(made.home, "xception", 0, "later")
    put(run, "here", table("later", 1.0, videos="here"))
    monkeypatch.setenv("DFNB_HOME", str(made.home))
    scores.pack("other", [scores.Line("later", "xception", "", "", (run,))])
    assert len(compare.results(scores.Report("other"))) == 3


def test_refused_scores_are_holes_and_the_rest_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    lines = []
    for name, paper, fingerprint in (
        ("one", "xception", "a"),
        ("two", "lae", "b"),
        ("three", "locate_and_verify", "a"),
    ):
        run = run_of(tmp_path, paper, 0, name)
        put(run, "here", table(name, 1.0), fingerprint=fingerprint)
        put(run, "there", table(name, 1.0).iloc[int(name == "three") :], fingerprint="a")
        lines.append(scores.Line(name, paper, "", "", (run,)))
    scores.pack("holes", lines)
    found = compare.results(scores.Report("holes"))
    assert "another version of here" in row(found, line="two")["refused"] and np.isnan(row(found, line="two")["value"])
    assert "another version of here" in row(found, line="two", minus="one")["refused"]
    assert row(found, line="one")["value"] > 0.5 and row(found, line="three", minus="one")["refused"] == ""
    refused = row(found, line="three", minus="one", test_set="there", level="frame")["refused"]
    assert "1 rows of unit, cluster, label and method are in one of them alone" in refused
    assert row(found, line="three", minus="one", test_set="there")["refused"] == ""  # the videos are the same


# ------------------------------------------------------------------------------------------------------------- the claims


def claimed(*entries) -> list[dict]:
    base = {"paper": "locate_and_verify", "source": "abstract", "metric": "AUC", "sets": ["home"], "partly": 0.5}
    return [compare.OPTIONAL | base | {"id": str(i), "says": f"Claim {i}."} | entry for i, entry in enumerate(entries)]


def test_verdicts_follow_from_the_rule_and_both_ends_of_the_interval(made):
    home = row(made.table, line="locating")
    found = compare.judge(
        made.table,
        claimed(
            {"reproduced": 0.6},
            {"reproduced": 1.1, "partly": 0.6},
            {"reproduced": 1.2, "partly": 1.1},
            {"reproduced": home["value"] + 0.004, "published": 0.9},
            {"reproduced": 0.6, "sets": ["celeb-df-v2"]},
            {"reproduced": 0.6, "line": "modules/7 %", "against": "main"},
            {"reproduced": 0.6, "paper": "lae"},
            {"reproduced": 0.02, "partly": 0.0, "against": "xception", "sets": ["away"], "metric": "accuracy"},
            {"reproduced": 0.02, "partly": 0.0, "against": "xception", "sets": ["home", "th*"]},
            {"reproduced": -0.9, "partly": -1, "line": "task/main", "against": "task/less"},
            {"reproduced": -0.9, "partly": -1, "line": "task/main", "against": "xception:task/main", "method": "warp"},
            {"reproduced": 0.1, "partly": 0.0, "metric": "robustness", "against": "xception"},
            {"reproduced": 0.1, "partly": 0.0, "metric": "energy", "map": "Grad-CAM", "sets": ["home", "away"]},
        ),
    ).reset_index()
    verdict = found.set_index("claim")["verdict"]
    assert [verdict[f"Claim {i}."] for i in range(3)] == ["reproduced", "partly", "not reproduced"]
    assert verdict["Claim 3."] == "undecided at this n (partly to reproduced)"
    assert verdict["Claim 4."].startswith("not testable: no AUC of main") and "celeb-df-v2" in set(found["on"])
    assert verdict["Claim 5."].startswith("not testable: no AUC of modules/7 % minus main")
    assert verdict["Claim 6."].startswith("not testable")
    assert found[found["claim"] == "Claim 7."]["on"].tolist() == ["away"]  # accuracy of a difference is in no row
    assert found[found["claim"] == "Claim 8."]["on"].tolist() == ["here", "there"]
    ours = found.set_index("claim")["ours"]
    turned = row(made.table, line="locate_and_verify, task, less", minus="locate_and_verify, task, main")
    assert ours["Claim 9."] == metrics.interval(-turned["value"], -turned["high"], -turned["low"])
    assert "[" in ours["Claim 10."] and "[" in ours["Claim 11."]
    assert found[found["claim"] == "Claim 12."]["on"].tolist() == ["here", "away"]
    third = found.set_index("claim").loc["Claim 3."]
    value, low, high = map(float, re.findall(r"-?\d\.\d+", third["ours"]))
    shift = [float(number) for number in re.findall(r"-?\d\.\d+", third["ours − published"])]
    np.testing.assert_allclose(shift, np.array([value, low, high]) - 0.9, atol=2e-3)
    assert third["published"] == "0.900" and third["clusters to decide"] == "more seeds" and third["seeds"] == "2"


def test_the_n_that_decides_is_the_n_at_which_the_interval_fits(made):
    one = row(made.table, line="locate_and_verify, modules, without")
    limit = {"reproduced": one["value"] - 0.01, "line": "modules/without"}
    found = compare.judge(made.table, claimed(limit)).iloc[0]
    assert found["verdict"] == "undecided at this n (partly to reproduced)" and found["clusters"] == "40"
    half = (one["high"] - one["low"]) / 2
    assert half * np.sqrt(40 / float(found["clusters to decide"])) == pytest.approx(0.01, rel=0.02)


def test_the_claims_that_are_committed_are_read_and_name_published_figures(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    datasets, listed = compare.claims()
    assert {claim["paper"] for claim in listed} >= {"lae", "locate_and_verify", "exposing_the_deception"}
    assert (
        len({claim["id"] for claim in listed})
        == len({(claim["paper"], claim["says"]) for claim in listed})
        == len(listed)
    )
    known = compare.published()
    for claim in (claim for claim in listed if claim["published"] == claim["published"]):
        names = [name for each in claim["sets"] for name in datasets[each]]
        same = known[known["test_set"].isin(names) & (known["level"] == claim["level"])]
        assert claim["published"] in same["value"].tolist(), claim["id"]


@pytest.mark.parametrize("entry", [{"reproduced": 0.6, "lines": "main"}, {"reproduced": 0.5}])
def test_a_mistyped_claim_is_named(tmp_path, monkeypatch, entry):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "data_manifest").mkdir()
    path = tmp_path / "data_manifest" / "claims.yaml"
    path.write_text(yaml.safe_dump({"datasets": {}, "claims": claimed(entry)}), encoding="utf-8")
    with pytest.raises(DfnbError, match=r"claims.yaml: claim 0 must have partly below reproduced and the fields"):
        compare.claims()


def test_published_and_ours_stand_side_by_side_for_real_datasets_only(made):
    assert compare.published_and_ours(made.table).empty
    real = made.table.replace({"here": "faceforensics-c23", "there": "celeb-df-v1"})
    standard = papers.module("xception").Settings().backbone
    found = compare.published_and_ours(real.assign(backbone=standard)).loc["plain", "celeb-df-v1", "frame"]
    ours = row(made.table, line="plain", test_set="there", level="frame")
    assert found["published"] == "0.779" and found["ours"] == metrics.interval(*ours[["value", "low", "high"]])
    assert found["Δ"].startswith(f"{ours['value'] - 0.7794:.3f} [") and "8a4a7bf" in found["source"]
    assert float(found["ours, chosen on test"].split()[0]) > ours["value"]
    unknown = compare.published_and_ours(real)  # the figure is Xception's
    assert set(unknown["published"]) == {"not known"} and "Δ" not in unknown
