"""One comparison against hand-computed cases and simulation; the long table and the claims of a report made by hand."""

import importlib.util
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from records import SAID
from scipy.special import expit
from scipy.stats import norm, t
from sklearn.metrics import brier_score_loss, roc_auc_score

from dfnb import compare, core, metrics, papers, scores, tables, train
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


def compared(a, b=(), *, level, metric) -> dict | None:
    """A metric of the score tables of one line's seeds, or of ``a`` minus ``b``; None where no unit has a value."""
    sides = [metrics.align(tables, level) for tables in (a, b) if len(tables)]
    estimates = compare.estimates(sides, metric)
    return compare.summary(compare.outcome(estimates[:1], estimates[1:])) if estimates else None


def perfect(key, clusters=40) -> pd.DataFrame:
    made = table(key, 1.0, clusters)
    return made.assign(score=made.label * 0.5 + made.score / 2)


def video_auc(scored: pd.DataFrame) -> float:
    videos = scored.groupby("video")[["label", "score"]].mean()
    return roc_auc_score(videos["label"], videos["score"])


# ---------------------------------------------------------------------------------------------------------- one comparison


def test_the_interval_over_videos_and_seeds_by_hand():
    seeds = [table(key, strength) for key, strength in enumerate((1.0, 1.6, 2.4))]
    found = compared(seeds, level="video", metric="AUC")
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
    one = compared(seeds[:1], level="video", metric="AUC")
    assert (one["low"], one["high"]) == (one["low_videos"], one["high_videos"]) and np.isnan(
        [one["low_seeds"], one["sd"]]
    ).all()


def test_a_difference_over_videos_and_seeds_by_hand():
    a, b = ([table(f"{name}{key}", 1.5 + gain) for key in range(4)] for name, gain in (("a", 0.5), ("b", 0)))
    found = compared(a, b, level="video", metric="AUC")
    differences = np.array([video_auc(x) - video_auc(y) for x, y in zip(a, b)])
    assert found["value"] == pytest.approx(differences.mean())
    of_seeds = differences.var(ddof=1) / 4
    assert found["high_seeds"] == pytest.approx(differences.mean() + t.ppf(0.975, 3) * of_seeds**0.5)
    of_videos = ((found["high_videos"] - found["value"]) / t.ppf(0.975, 39)) ** 2
    degrees = (of_videos + of_seeds) ** 2 / (of_videos**2 / 39 + of_seeds**2 / 3)
    error = (of_videos + of_seeds) ** 0.5
    assert (found["value"] - found["low"]) == pytest.approx(t.ppf(0.975, degrees) * error)
    assert found["p"] == pytest.approx(2 * t.sf(found["value"] / error, degrees))
    turned = compared(b, a, level="video", metric="AUC")
    assert (turned["low"], turned["p"]) == pytest.approx((-found["high"], found["p"]))
    against_one = compared(a, b[:1], level="video", metric="AUC")
    assert against_one["value"] == pytest.approx(np.mean([video_auc(x) for x in a]) - video_auc(b[0]))


def test_a_difference_against_a_brute_force_bootstrap():
    a, b = table("a", 1.5, 60, 3), table("b", 1.0, 60, 3)
    found = compared([a], [b], level="frame", metric="AUC")
    label, rows_of = a.label.to_numpy(), np.arange(len(a)).reshape(60, -1)
    draws = []
    for key in range(400):
        rows = rows_of[rng(11, key).integers(0, 60, 60)].ravel()
        draws.append(roc_auc_score(label[rows], a.score[rows]) - roc_auc_score(label[rows], b.score[rows]))
    assert found["value"] == pytest.approx(roc_auc_score(label, a.score) - roc_auc_score(label, b.score))
    assert found["high"] - found["low"] == pytest.approx(4 * np.std(draws), rel=0.12)
    assert (found["p"] < 0.05) == (found["low"] > 0)
    apart = [compared([x], level="frame", metric="AUC") for x in (a, b)]
    assert found["high"] - found["low"] < 0.8 * np.hypot(
        *[row["high"] - row["low"] for row in apart]
    )  # pairing matters


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_equal_and_perfect_detectors(metric):
    scored = table(1, 1.5)
    same = compared([scored], [scored], level="frame", metric=metric)
    assert same["value"] == 0
    if metric == "TPR at 1% FPR":
        assert np.isnan(same["p"]) and same["interval_method"] == "none"
        return
    assert (same["low"], same["high"], same["p"]) == (0, 0, 1)
    a, b = perfect(1), perfect(2)
    found = compared([a], [a], level="frame", metric=metric)
    assert (found["low"], found["high"], found["p"]) == (0, 0, 1)
    if metric != "Brier":  # perfect is 0 or 1
        found = compared([a], [b], level="frame", metric=metric)
        assert found["value"] == 0 and found["p"] == 1 and -0.3 < found["low"] < -0.05 and 0.05 < found["high"] < 0.3
        alone = compared([a], level="frame", metric=metric)
        assert alone["value"] in (0, 1) and alone["high"] - alone["low"] > 0.05


def test_one_cluster_of_a_class_has_no_interval():
    scored = table(1, 1.5)
    lone = scored[(scored.label == 0) | (scored.cluster == "0")]
    for metric in metrics.METRICS:
        found = compared([lone, lone], level="frame", metric=metric)
        assert np.isnan([found["low"], found["high"], found["low_videos"]]).all(), metric
    found = compared([lone], [lone], level="frame", metric="AUC")
    assert np.isnan([found["low"], found["p"]]).all()


def test_columns_of_values():
    a, b = (table(key, 1.5).assign(iou=lambda x: x.score.where(x.label == 1)) for key in (1, 2))
    found = compared([a], level="frame", metric="iou")
    assert (found["n"], found["n_real"], found["n_fake"]) == (80, 0, 80)
    of_cluster = (a.iou - a.iou.mean()).groupby(a.cluster).sum().to_numpy() / 80
    error = (40 / 39 * (of_cluster**2).sum()) ** 0.5
    value = a.iou.mean()
    assert found["value"] == pytest.approx(value)
    half = t.ppf(0.975, 39) * error / (value * (1 - value))
    assert found["low"] == pytest.approx(expit(np.log(value / (1 - value)) - half))
    signed = a.assign(likeness=a.iou * 2 - 1)  # a signed value: Wald
    found = compared([signed], level="frame", metric="likeness")
    assert (found["value"], found["low"]) == pytest.approx(
        (2 * value - 1, 2 * value - 1 - 2 * t.ppf(0.975, 39) * error)
    )
    lacking = b.assign(iou=b.iou.where(b.cluster != "0"))  # only where both have a value
    found = compared([a], [lacking], level="frame", metric="iou")
    both = lacking.iou.notna()
    assert found["n"] == 78 and found["value"] == pytest.approx((a.iou - b.iou)[both].mean())
    assert compared([a], level="frame", metric="energy") is None
    assert compared([a], level="video", metric="iou")["value"] == pytest.approx(value)  # one frame per video here


def test_bootstrap_metrics_of_a_difference_use_the_same_clusters():
    a, b = ([table(f"{name}{key}", 1.5) for key in range(2)] for name in "ab")
    found = compared(a, b, level="frame", metric="EER")
    apart = [compared(side, level="frame", metric="EER") for side in (a, b)]
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


def run_of(home, paper, seed, name, train_set="here", backbone="small") -> train.Run:
    """A run whose training is not needed: a record, weights that nobody loads, and no scores yet."""
    folder = home / "runs" / f"{core.slug(name)}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "best.safetensors").write_bytes(folder.name.encode())
    parameters = {"paper": paper, "train_set": train_set, "seed": seed, "seen_methods": None}
    parameters["settings"] = {"backbone": backbone}
    weights = core.sha256(folder / "best.safetensors")
    return train.Run(folder, SAID | {"parameters": parameters, "outputs": {}, "weights_sha256": weights})


def put(run, test_set, scored, condition="", fingerprint="first") -> None:
    """Scores as the store has them."""
    dataset = {"parameters": {}, "fingerprint": fingerprint}
    facts = train.score_facts(run.id, test_set, condition, dataset, run.record["weights_sha256"])
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
        SAID["rule"],
        "small",
        "random weights",
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
    found, packed = row(made.table, line="locating", metric="iou"), stored(made, "locating")
    fakes = [scored[scored.label == 1].groupby("video")["iou"] for scored in packed]
    assert found["n"] == 40 and all((of_video.count() == 1).all() for of_video in fakes)  # of two frames per video
    assert found["value"] == pytest.approx(np.mean([of_video.mean().mean() for of_video in fakes]))
    assert rows(made.table, line="locating", level="frame", metric="iou", condition="").empty
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
    expected |= {("xception, apart, other seeds", "plain")}  # no seed is shared: by position
    heads = {main, "xception, task, main"}
    assert pairs - expected in ({tuple(heads)}, {tuple(heads)[::-1]}) and expected <= pairs
    found = row(made.table, line="locating", minus="plain", test_set="there")
    whole = compared(stored(made, "locating", "there"), stored(made, "plain", "there"), level="video", metric="AUC")
    assert found[list(compare.INTERVALS)].tolist() == pytest.approx([whole[name] for name in compare.INTERVALS])
    shared = row(made.table, line="locate_and_verify, modules, without", minus="locating")
    assert shared["seeds_list"] == "0" and shared["low"] == shared["low_videos"]
    first = compared(
        stored(made, "locate_and_verify, modules, without"), stored(made, "locating")[:1], level="video", metric="AUC"
    )
    assert shared["value"] == pytest.approx(first["value"])


def test_lines_that_share_no_seed_are_compared_by_position(made):
    found = row(made.table, line="xception, apart, other seeds", minus="plain")
    sides = stored(made, "xception, apart, other seeds"), stored(made, "plain")[:1]
    assert found["value"] == pytest.approx(compared(*sides, level="video", metric="AUC")["value"])
    assert found["seeds_list"] == "0, 7" and found["seeds"] == 1


def test_different_trainings_that_share_no_seed_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    lines = []
    for name, paper, arm, seeds, change in (
        ("base", "xception", "", (0, 1), {}),
        ("later", "xception", "same", (5, 6), {}),
        ("deeper", "xception", "deeper", (5, 6), {"backbone": "large"}),
        ("elsewhere", "xception", "elsewhere", (5, 6), {"train_set": "far"}),
        ("overlapping", "xception", "overlapping", (1, 2), {"backbone": "large"}),
        ("another", "lae", "", (5, 6), {}),
    ):
        runs = [run_of(tmp_path, paper, seed, name, **change) for seed in seeds]
        for run in runs:
            put(run, "here", table(run.id, 1.5, videos="here"))
        lines.append(scores.Line(name, paper, arm and "arms", arm, tuple(runs)))
    scores.pack("apart", lines)
    found = rows(compare.results(scores.Report("apart")), level="video", metric="AUC", method="all", condition="")
    differences = {each.line: each.seeds_list for each in found[found["minus"] == "base"].itertuples()}
    assert differences == {"later": "0, 1, 5, 6", "overlapping": "1"}  # by position the same training alone
    assert not (found["line"].eq("base") & found["minus"].ne("")).any()
    assert set(found["line"]) == {line.name for line in lines}


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
    kept = [
        row(made.table, line=name, condition=ALL_CORRUPTIONS, metric="robustness kept")["value"]
        for name in ("locating", "plain")
    ]
    for name, value, robust in zip(("locating", "plain"), kept, (minuend, everything)):
        assert value == pytest.approx(
            robust["value"] - video_auc(stored(made, name)[0])
        )  # of the seed that was corrupted
    lost = row(made.table, line="locating", minus="plain", condition=ALL_CORRUPTIONS, metric="robustness kept")
    assert lost["value"] == pytest.approx(kept[0] - kept[1]) and lost["low"] < lost["value"] < lost["high"]


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


def report_of(home, monkeypatch, tables, collapsed=()) -> pd.DataFrame:
    """The long table of a report: ``tables`` by line (plain, locating), test set and seed."""
    monkeypatch.setenv("DFNB_HOME", str(home))
    lines = []
    for paper, name in (("xception", "plain"), ("locate_and_verify", "locating")):
        seeds = sorted({seed for line, _, seed in tables if line == name})
        runs = [run_of(home, paper, seed, name) for seed in seeds]
        for run, seed in zip(runs, seeds):
            run.record["collapsed"] = (name, seed) in collapsed
            for (line, test_set, of_seed), scored in tables.items():
                if (line, of_seed) == (name, seed):
                    put(run, test_set, scored)
        lines.append(scores.Line(name, paper, "", "", tuple(runs)))
    scores.pack("made", lines)
    return compare.results(scores.Report("made"))


def strong(name, test_set, seed, strength=1.5) -> pd.DataFrame:
    return table(f"{name}{test_set}{seed}", strength, videos=test_set)


def test_the_mean_over_the_sets_not_trained_on(tmp_path, monkeypatch):
    sets, seeds = ("here", "b", "c"), (0, 1, 2)
    made = {(name, on, k): strong(name, on, k) for name in ("plain", "locating") for on in sets for k in seeds}
    found = report_of(tmp_path, monkeypatch, made)
    for wanted in ({"line": "plain"}, {"line": "locating", "minus": "plain"}):
        mean, b, c = (row(found, **wanted, test_set=on) for on in (compare.AWAY, "b", "c"))
        assert mean["value"] == pytest.approx((b["value"] + c["value"]) / 2)
        assert (mean["n"], mean["clusters"], mean["mean_over"]) == (160, 80, "b, c")
        if wanted.get("minus"):  # a Wald interval: the errors over videos add
            halves = [(each["high_videos"] - each["value"]) / t.ppf(0.975, 39) for each in (b, c)]
            error = np.hypot(*halves) / 2
            degrees = error**4 / sum((half / 2) ** 4 / 39 for half in halves)
            assert mean["high_videos"] - mean["value"] == pytest.approx(t.ppf(0.975, degrees) * error)
            of_seed = [
                np.mean([video_auc(made["locating", on, k]) - video_auc(made["plain", on, k]) for on in "bc"])
                for k in seeds
            ]
            assert mean["sd"] == pytest.approx(np.std(of_seed, ddof=1))
    del made["plain", "c", 2]
    again = row(report_of(tmp_path / "less", monkeypatch, made), line="plain", test_set=compare.AWAY)
    assert "other seeds on one test set than on another" in again["refused"] and np.isnan(again["value"])


def test_a_mean_is_shown_and_compared_over_the_same_sets_alone(tmp_path, monkeypatch):
    strengths = {
        ("plain", "b"): 1.0,
        ("plain", "c"): 1.0,
        ("locating", "b"): 2.0,
    }  # the weaker has no easier set left out
    made = {(name, on, k): strong(name, on, k, by) for (name, on), by in strengths.items() for k in (0, 1)}
    made |= {(name, "here", k): strong(name, "here", k) for name in ("plain", "locating") for k in (0, 1)}
    found = report_of(tmp_path, monkeypatch, made)
    means = rows(found, test_set=compare.AWAY)
    assert set(zip(means["line"], means["minus"], means["mean_over"])) == {("plain", "", "b, c")}
    assert row(found, line="locating", minus="plain", test_set="b")["value"] > 0
    shown = rows(found, minus="", method="all", condition="", level="video", metric="AUC")
    said = tables.conclusion(shown)
    assert re.match(r"AUC: highest for locating, b \(.*; lowest for plain, b \(", said) and "away" not in said
    apart = shown[(shown["line"] == "plain") == (shown["test_set"] == "c")]
    assert "these lines share no test set, so none is highest" in tables.conclusion(apart)
    unlike = shown[shown["test_set"] == compare.AWAY]
    unlike = pd.concat([unlike, unlike.assign(line="locating", mean_over="b")])
    assert "none is highest" in tables.conclusion(unlike)
    assert set(compare.named_sets(unlike)) == {"away: b, c", "away: b"}


def test_collapsed_runs_are_left_out_and_counted(tmp_path, monkeypatch):
    made = {
        (name, "here", k): strong(name, "here", k, 0.1 if k == 1 else 1.5)
        for name in ("plain", "locating")
        for k in range(3)
    }
    found = report_of(tmp_path, monkeypatch, made, collapsed=[("plain", 1)])
    kept, all_in = (row(found, line="plain", condition=condition) for condition in ("", compare.WITH_COLLAPSED))
    aucs = [video_auc(made["plain", "here", k]) for k in range(3)]
    assert (kept["collapsed"], kept["seeds"], kept["seeds_list"]) == ("1 of 3", 2, "0, 2")
    assert (kept["value"], all_in["value"]) == pytest.approx((np.mean([aucs[0], aucs[2]]), np.mean(aucs)))
    assert row(found, line="locating")["seeds"] == 3 and row(found, line="locating")["collapsed"] == "0 of 3"
    difference = row(found, line="locating", minus="plain")
    assert (difference["seeds"], difference["seeds_list"], difference["collapsed"]) == (2, "0, 2", "1 of 3")
    assert rows(found, line="locating", minus="", condition=compare.WITH_COLLAPSED).empty
    none = report_of(tmp_path / "all", monkeypatch, made, collapsed=[("plain", k) for k in range(3)])
    assert (row(none, line="plain")["collapsed"], row(none, line="plain")["seeds"]) == ("3 of 3", 3)
    assert row(none, line="plain", condition=compare.WITH_COLLAPSED)["seeds"] == 3


def test_how_far_losses_moved_in_training_is_a_row(tmp_path):
    runs = [run_of(tmp_path, "exposing_the_deception", seed, "line") for seed in (0, 1)]
    for run, moved in zip(runs, (0.2, 0.4)):
        run.record["log"] = [{"loss_lil": 1.0, "loss_warm": 2.0}, {"loss_lil": 1.0 - moved}]  # a warm-up has ended
    (found,) = compare._training([scores.Line("line", "exposing_the_deception", "", "", tuple(runs))])
    assert (found["metric"], found["test_set"], found["seeds"]) == ("loss_lil", "here", 2)
    assert (found["value"], found["sd"]) == pytest.approx((0.3, np.std([0.2, 0.4], ddof=1)))


def test_two_arms_are_compared_where_a_claim_names_them(tmp_path):
    arms = {name: ("exposing_the_deception", "losses", name) for name in ("CE", "CE + LIL", "fixed weights")}
    sides = [
        compare.Side(None, scores.Line(name, *known, (run_of(tmp_path, known[0], 0, name),)), "here", "", [""], "video")
        for name, known in arms.items()
    ]
    found = {(a.line.arm, b.line.arm) for a, b in compare._pairs(sides)}
    assert found == {("fixed weights", "CE")}


def test_all_masks_are_compared_with_none(tmp_path):
    lines = [
        scores.Line(arm, "lae", "face swap", arm, (run_of(tmp_path, "lae", 0, arm),))
        for arm in ("main", "0 %", "10 %", "100 %")
    ]
    sides = [compare.Side(None, line, "here", "", [""], "video") for line in lines]
    found = {(a.line.arm, b.line.arm) for a, b in compare._pairs(sides)}
    assert found == {("0 %", "main"), ("10 %", "main"), ("100 %", "main"), ("100 %", "0 %")}


def test_accuracy_at_the_threshold_of_each_table(made):
    thresholds, seeds = (0.4, 0.7), [table(key, 1.5) for key in (0, 1)]
    for scored, threshold in zip(seeds, thresholds):
        scored.attrs |= {"threshold": threshold, "threshold_clusters": 100}
    found = compared(seeds, level="frame", metric=metrics.AT_THRESHOLD)
    expected = [
        np.mean([(part.score > threshold).eq(label == 1).mean() for label, part in scored.groupby("label")])
        for scored, threshold in zip(seeds, thresholds)
    ]
    assert found["value"] == pytest.approx(np.mean(expected)) and found["low"] < found["value"] < found["high"]
    assert compared(seeds, level="video", metric=metrics.AT_THRESHOLD) is None
    assert rows(made.table, metric=metrics.AT_THRESHOLD).empty  # no threshold is known
    seeds[1].attrs["threshold_clusters"] = 99
    found = compared(seeds, level="frame", metric=metrics.AT_THRESHOLD)
    assert np.isnan(found["low"]) and found["interval_method"] == "none"
    sides = compared(seeds[:1], seeds[1:], level="frame", metric=metrics.AT_THRESHOLD)
    assert np.isnan(sides["low"]) and sides["interval_method"] == "none"


def test_a_gain_over_the_constant_is_paired_and_signed():
    scored = table(1, 1.5).assign(pixel_ap=lambda x: (x.score / 2 + 0.5).where(x.label == 1))
    scored["constant pixel_ap"] = scored.pixel_ap - 0.1 * scored.score
    found = compared([scored], level="frame", metric="gain in pixel AP")
    gains = (0.1 * scored.score)[scored.label == 1]
    assert found["value"] == pytest.approx(gains.mean()) and found["p"] < 0.001
    assert found["high"] + found["low"] == pytest.approx(2 * found["value"])  # signed, though no value here is negative


# ------------------------------------------------------------------------------------------------------------- the claims


DELTA = {"home": 0.01, "away": 0.02, "accuracy": 0.03, "localisation": 0.05}


def claimed(*entries) -> list[dict]:
    base = {"paper": "locate_and_verify", "source": "abstract", "kind": "gain", "metric": "AUC", "sets": ["home"]}
    base |= {"delta": DELTA, "registered": "2026-01-01"}
    return [compare.OPTIONAL | base | {"id": str(i), "says": f"Claim {i}."} | entry for i, entry in enumerate(entries)]


def result(line, minus, value, low, high, condition="", **changes) -> dict:
    """A row of the long table, made by hand, of two main lines and arms of Locate and Verify trained on ``here``."""
    paper, _, rest = line.partition(": ")
    group, _, arm = rest.partition("/")
    keys = {"line": line, "minus": minus, "paper": paper, "group": group, "arm": arm, "train_set": "here"}
    keys |= {"test_set": "here", "method": "all", "condition": condition, "level": "video", "metric": "AUC"}
    numbers = {"value": value, "low": low, "high": high, "error": (high - low) / 4, "degrees": 20.0, "seeds": 10}
    return keys | numbers | {"clusters": 60, "collapsed": "0 of 10", "refused": ""} | changes


def made_of(*rows) -> pd.DataFrame:
    """These rows, and one of each line alone by which it is found."""
    lines = {row[side] for row in rows for side in ("line", "minus")} - {""}
    alone = [result(line, "", 0.9, 0.85, 0.95) for line in lines]
    return pd.DataFrame([*rows, *alone]).reindex(columns=compare.COLUMNS).fillna({"refused": ""})


def verdicts(claims, *rows) -> list[str]:
    return compare.judge(made_of(*rows), claims)["verdict"].tolist()


OURS, PLAIN = "locate_and_verify", "xception"


@pytest.mark.parametrize(
    "value, low, high, verdict",
    [
        (-0.05, -0.08, -0.02, "worse"),
        (-0.005, -0.008, -0.002, "worse, below material size"),
        (-0.006, -0.012, -0.002, "worse"),
        (0.05, 0.02, 0.08, "supported"),
        (0.005, 0.002, 0.008, "supported, below material size"),
        (0.002, -0.004, 0.008, "no material gain"),
        (0.02, -0.01, 0.05, "undecided"),
        (0.02, np.nan, np.nan, "undecided: no interval, too few clusters"),
    ],
)
def test_the_verdict_of_a_gain(value, low, high, verdict):
    claims = claimed({"against": "xception"})
    assert verdicts(claims, result(OURS, PLAIN, value, low, high)) == [verdict]
    assert verdicts(claims, result(PLAIN, OURS, -value, -high, -low)) == [verdict]  # there the other way round
    few = result(OURS, PLAIN, value, low, high, seeds=4)
    assert verdicts(claims, few) == ["exploratory: fewer than 5 seeds"]


def test_a_gain_is_material_by_its_metric_and_test_set():
    table = [result(OURS, PLAIN, 0.012, 0.009, 0.015, test_set=name) for name in ("here", "away", "there")]
    table.append(result(OURS, PLAIN, 0.04, 0.035, 0.045, metric="energy"))
    found = compare.judge(
        made_of(*table),
        claimed({"against": "xception", "sets": ["home", "away"]}, {"against": "xception", "metric": "energy"}),
    ).reset_index()
    assert found["on"].tolist() == ["here", "away", "there", "here"]
    small = "supported, below material size"
    assert found["verdict"].tolist() == ["supported", small, "not judged", small]
    p = found["p, Holm"].tolist()
    assert p[2] == "–" and "–" not in (p[0], p[1], p[3])  # the single sets beside away are in no family
    own = claimed({"against": "xception", "delta": 0.02})
    assert verdicts(own, table[0]) == [small]


def test_p_is_against_the_bound_and_holm_corrects_for_what_is_judged():
    """By Student's t with the row's own error and degrees of freedom."""
    cases = {  # kind, value, error, and the bound that p is against
        "AUC": ("gain", 0.03, 0.015, 0.0),
        "balanced accuracy": ("no worse", 0.01, 0.02, -DELTA["accuracy"]),
        "EER": ("gain", 0.05, 0.015, 0.0),
    }
    rows, entries, p = [], [], []
    for metric, (kind, value, error, bound) in cases.items():
        rows.append(result(OURS, PLAIN, value, value - 2 * error, value + 2 * error, metric=metric))
        entries.append({"against": "xception", "metric": metric, "kind": kind})
        p.append(2 * t.sf((value - bound) / error, 20))
    found = compare.judge(made_of(*rows), claimed(*entries, {**entries[0], "says": "Again.", "control": True}))
    assert found["p"].tolist() == [f"{each:.3f}" for each in [*p, p[0]]]
    least, middle, most = sorted(p)
    holm = {least: 3 * least, middle: max(3 * least, 2 * middle), most: max(3 * least, 2 * middle, most)}
    assert found["p, Holm"].tolist() == [*(f"{min(1, holm[each]):.3f}" for each in p), "–"]


def test_no_worse_is_judged_only_where_the_full_condition_beats_none():
    less, none = f"{OURS}: masks/0 %", f"{OURS}: masks/none"
    claim = claimed(
        {"kind": "no worse", "line": "masks/0 %", "against": "main", "where": ["main", "masks/none"], "delta": 0.02}
    )
    beats, does_not = result(none, OURS, -0.1, -0.15, -0.05), result(none, OURS, -0.1, -0.25, 0.05)
    for value, low, high, verdict in (
        (-0.005, -0.015, 0.005, "supported"),
        (-0.05, -0.07, -0.03, "worse"),
        (-0.01, -0.03, 0.01, "undecided"),
    ):
        assert verdicts(claim, result(less, OURS, value, low, high), beats) == [verdict]
        for useless in ([does_not], []):
            said = verdicts(claim, result(less, OURS, value, low, high), *useless)
            assert said == ["not judged: main was not shown to beat masks/none"]


def test_nothing_is_supported_where_the_sign_turns_with_the_collapsed_runs_in():
    kept = result(OURS, PLAIN, 0.05, 0.02, 0.08)
    for value, verdict in ((-0.01, "not supported: the sign turns with the collapsed runs in"), (0.01, "supported")):
        turned = result(OURS, PLAIN, value, -0.1, 0.1, compare.WITH_COLLAPSED)
        assert verdicts(claimed({"against": "xception"}), kept, turned) == [verdict]


def test_figures_shares_and_controls():
    rows = [result(OURS, "", 0.9, 0.88, 0.92), result(OURS, PLAIN, 0.05, 0.02, 0.08)]
    rows[0] |= {"metric": "AP"}
    rows += [result(f"{OURS}: masks/0 %", "", 0.45, 0.4, 0.5, metric="AP")]
    entries = [{"kind": "figure", "metric": "AP", "published": figure} for figure in (0.9, 0.95)]
    entries += [{"kind": "share", "metric": "AP", "line": "masks/0 %", "against": "main"}]
    entries += [{"against": "xception", "control": True}, {"metric": "EER"}, {"sets": ["celeb-df-v2"]}]
    found = compare.judge(made_of(*rows), claimed(*entries)).reset_index()
    assert found["verdict"].tolist()[:3] == [
        "published figure inside our interval (± 0.020)",
        "published figure outside our interval (± 0.020)",
        "not judged",
    ]
    assert found["ours"][2] == "0.450 of 0.900: 0.50"
    assert found["paper"][3] == "control" and found["verdict"][3] == "supported" and found["p, Holm"][3] == "–"
    assert found["verdict"][4] == "not testable: no EER of main" and found["on"].tolist()[4:] == ["home", "celeb-df-v2"]


@pytest.mark.parametrize(
    ("kind", "value", "gap"),
    [
        ("gain", 0.02, 0.02),
        ("gain", 0.0075, 0.0075),
        ("gain", 0.001, 0.009),
        ("gain", -0.01, 0.02),
        ("no worse", 0.005, 0.015),
        ("no worse", -0.02, 0.01),
    ],
)
def test_the_study_that_decides_is_the_smallest_with_80_percent_power(kind, value, gap):
    """With the seeds and clusters that are named, the interval leaves the bound that decides first in four of five studies.

    With one fewer it does not. Quantiles have two digits, as tables print them: 1.96 and .84.
    """
    found = compare.judge(
        made_of(result(OURS, PLAIN, value, value - 0.06, value + 0.06)), claimed({"kind": kind, "against": "xception"})
    )
    assert found["verdict"].tolist() == ["undecided"]
    ours, of = found["to decide"].iloc[0], {"seeds": 10, "clusters": 60}
    named = {unit: int(n) for n, unit in re.findall(r"(\d+) (\w+)", ours)}
    assert ours == f"{named['seeds']} seeds, {named['clusters']} clusters"

    def power(unit, n):
        return norm.cdf(gap / (0.03 * (of[unit] / n) ** 0.5) - norm.ppf(0.975))

    for unit, n in named.items():
        assert power(unit, n - 1) < 0.8 <= power(unit, n)


def test_findings_say_what_the_claims_came_to():
    arms = [f"{OURS}: g/{arm}" for arm in "abc"]
    rows = [result(OURS, PLAIN, 0.002, -0.08, 0.084), *(result(arm, PLAIN, *of) for arm, of in zip(arms, ENDS))]
    rows.append(result(arms[2], PLAIN, -0.01, -0.02, 0.0, "with collapsed"))
    against = {"against": "xception"}
    of = claimed(against, *({"line": f"g/{arm}"} | against for arm in "abc"), {"kind": "share"} | against)
    judged = compare.judge(made_of(*rows), of)
    found = tables.findings(judged)
    assert found[["tested", "decided"]].to_numpy().tolist() == [[4, 3]]
    more = judged["to decide"].iloc[0]
    assert found["findings"].tolist() == [
        f"Undecided: Claim 0 (here: 0.00 [-0.08, 0.08]; would take {more}).\n"
        "Supported: Claim 1 (here: 0.030 [0.020, 0.040]).\nWorse: Claim 2 (here: -0.030 [-0.040, -0.020]).\n"
        "Not supported: the sign turns with the collapsed runs in: Claim 3 (here: 0.030 [0.020, 0.040])."
    ]


ENDS = (0.03, 0.02, 0.04), (-0.03, -0.04, -0.02), (0.03, 0.02, 0.04)


def test_claims_on_a_report(made):
    found = compare.judge(
        made.table,
        claimed(
            {"against": "xception", "sets": ["home", "away"]},
            {"line": "modules/7 %", "against": "main"},
            {"metric": "robustness kept", "against": "xception"},
            {"metric": "energy", "map": "Grad-CAM", "sets": ["home"]},
            {"metric": "lost under deletion", "map": "Grad-CAM", "against": "xception"},
            {"against": "xception", "sets": ["home", "th*"], "says": "Names."},
            {"line": "task/main", "against": "task/less", "says": "Turned.", "published": 0.9},
            {
                "line": "task/main",
                "against": "xception:task/main",
                "method": "warp",
                "level": "frame",
                "says": "Other.",
            },
            {"paper": "lae"},
        ),
    ).reset_index()
    by_hand, found = found.iloc[7:].set_index(["claim", "on"]), found.iloc[:7]
    assert list(by_hand.index) == [
        *(("Names.", "here"), ("Names.", "there"), ("Turned.", "here"), ("Other.", "here"), ("Claim 8.", "home"))
    ]
    plain = row(made.table, line="locating", minus="plain", test_set="there")
    assert by_hand.loc[("Names.", "there"), "ours"] == metrics.interval(*plain[["value", "low", "high"]])
    turned = row(made.table, line="locate_and_verify, task, less", minus="locate_and_verify, task, main")
    claim = by_hand.loc[("Turned.", "here")]
    assert claim["ours"] == metrics.interval(-turned["value"], -turned["high"], -turned["low"])
    assert claim[["published", "seeds", "clusters"]].tolist() == ["0.900", "2", "40"]
    mains = ["locate_and_verify, task, main", "xception, task, main"]
    sides = [stored(made, name) for name in mains]
    warps = [[each[each["method"] != "swap"] for each in side] for side in sides]
    other = compared(*warps, level="frame", metric="AUC")
    assert by_hand.loc[("Other.", "here"), "ours"] == metrics.interval(
        *(other[name] for name in ("value", "low", "high"))
    )
    assert by_hand.loc[("Claim 8.", "home"), "verdict"] == "not testable: no AUC of main"
    assert found["on"].tolist() == ["here", "away", "there", "home", "here", "here", "here"]
    assert found["verdict"][3].startswith("not testable: no AUC of modules/7 % minus main")
    assert found["ours"].drop(3).str.contains("[", regex=False).all()
    assert set(found["verdict"].drop([2, 3])) == {"exploratory: fewer than 5 seeds"}


@pytest.mark.parametrize("kept, verdict", [(0.3, "supported"), (-0.3, "worse")])
def test_a_claim_on_the_maps_of_an_arm_is_judged(tmp_path, monkeypatch, kept, verdict):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    lines = []
    for arm, of_arm in (("main", kept), ("0 %", 0.0)):
        runs = [run_of(tmp_path, "lae", seed, arm) for seed in range(5)]
        for run in runs:
            some = table(run.id, 1.5, 10, videos="map")
            put(run, "here", some)
            whole = (0.6 + 0.3 * some.score).where(some.label == 1)
            curve = {"deletion 0": whole, "deletion 50": whole, "deletion": whole - 0.5 - of_arm * some.score / 2}
            put(run, "here", some.assign(**curve), "map Grad-CAM")
        lines.append(scores.Line(f"LAE, face swap: {arm}", "lae", "face swap", arm, tuple(runs)))
    scores.pack("maps", lines)
    found = compare.results(scores.Report("maps"))
    on_maps = {"condition": "map Grad-CAM", "level": "frame"}
    assert rows(found, **on_maps, metric="deletion 0").empty and rows(found, **on_maps, metric="deletion 50").empty
    entry = {"paper": "lae", "metric": "lost under deletion", "map": "Grad-CAM"}
    entry |= {"line": "face swap/main", "against": "face swap/0 %"}
    judged = compare.judge(found, claimed(entry, {**entry, "map": "edges"})).reset_index()
    assert judged["verdict"].tolist() == [
        verdict,
        "not testable: no lost under deletion of face swap/main minus face swap/0 %",
    ]
    assert (judged["seeds"][0], judged["clusters"][0], judged["collapsed"][0]) == ("5", "10", "0 of 5")
    alone = [row(found, **on_maps, line=line.name, metric="lost under deletion")["value"] for line in lines]
    (of_claim,) = compare._measured(claimed(entry)[0], found).itertuples()
    assert of_claim.value == pytest.approx(alone[0] - alone[1]) and of_claim.low < of_claim.value < of_claim.high


def test_the_claims_that_are_committed_are_read_and_name_published_figures(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    datasets, listed = compare.claims()
    assert {claim["paper"] for claim in listed} >= {
        "lae",
        "locate_and_verify",
        "exposing_the_deception",
        "self_blended_images",
    }
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


def test_of_arms_the_maps_that_claims_compare_are_known_by_their_group():
    assert compare.mapped("lae", "face swap") == ["Grad-CAM"] and compare.mapped(
        "exposing_the_deception", "losses"
    ) == ["union"]
    nothing = ("lae", "swap"), ("lae", "inpainting"), ("xception", "face swap"), ("locate_and_verify", "annotation")
    assert not any(compare.mapped(*of) for of in nothing)


ODD = [{"lines": "main"}, {"kind": "gains"}, {"line": 3}, {"published": "0.9"}, {"sets": "home"}, {"metric": 3}]


@pytest.mark.parametrize("entry", ODD)
def test_a_mistyped_claim_is_named(tmp_path, monkeypatch, entry):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "data_manifest").mkdir()
    path = tmp_path / "data_manifest" / "claims.yaml"
    known = compare.OPTIONAL | {**dict.fromkeys(("id", "paper", "says", "source", "metric"), "x"), "sets": ["home"]}
    claim = known | {"kind": "gain", "delta": 0.1} | entry
    content = {"delta": DELTA, "registered": "today", "datasets": {}, "claims": [claim]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(DfnbError, match=rf"claims\.yaml: claim x: correct {next(iter(entry))}$"):
        compare.claims()
    content["claims"] = [claim | {name: known.get(name, "gain") for name in entry if name in claim}]
    content["claims"][0].pop("lines", None)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert compare.claims()[1][0]["kind"] == "gain"


@pytest.mark.parametrize(
    "content",
    ["delta: 1", "claims: []", "{delta: 1, registered: x, claims: 5}", "{delta: 1, registered: x, claims: [x]}"],
)
def test_what_is_no_list_of_claims_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    path = tmp_path / "data_manifest" / "claims.yaml"
    core.write_bytes(path, content.encode())
    with pytest.raises(DfnbError, match=r"claims\.yaml is not valid as a list of claims .*; correct it"):
        compare.claims()


def test_published_and_ours_stand_side_by_side_for_real_datasets_only(made):
    spec = tables.specs("tables")["published_and_ours"]
    assert spec.table(tables.extended(made.table)).empty
    real = made.table.replace({"here": "faceforensics-c23", "there": "celeb-df-v1"})
    standard = papers.module("xception").Settings().backbone
    table = spec.table(tables.extended(real.assign(backbone=standard)))
    found = table.loc["plain", "celeb-df-v1", "frame", "our rule"]
    ours = row(made.table, line="plain", test_set="there", level="frame")
    assert found["published"] == "0.779" and found["AUC"] == metrics.interval(*ours[["value", "low", "high"]])
    assert found["Δ"] == metrics.interval(*(ours[["value", "low", "high"]] - 0.7794)) and "8a4a7bf" in found["source"]
    on_test = table.loc["plain", "celeb-df-v1", "frame", "chosen on test"]
    assert float(on_test["AUC"].split()[0]) > ours["value"] and on_test["published"] == "0.779"
    assert spec.table(tables.extended(real)).empty  # the figure is Xception's


# ------------------------------------------------------------------------------------------- what detectors detect

GAIN = {"real": 0.0, "swap": 2.0, "composite": 1.2, "moved": 0.1, "resynthesis": 1.5, "whole": 0.4, "reduced": 0.3}


def kinds(key, people=24) -> pd.DataFrame:
    """Two frames of each kind of every person, two people in a cluster; people, and kinds of a person, go together."""
    person, noise = rng("people").normal(size=(people, 1)), rng("kinds", key).normal(size=(people, 2))
    parts = []
    for kind, gain in GAIN.items():
        score = gain + person + 0.5 * noise + 0.3 * rng("kind", key, kind).normal(size=(people, 2))
        names = [f"{kind}/{number:03d}a{'_000' * (kind in ('swap', 'whole'))}" for number in range(people)]
        part = pd.DataFrame({"video": np.repeat(names, 2), "track": 0, "frame": np.tile([0, 10], people)})
        part["cluster"] = np.repeat(np.arange(people) // 2, 2).astype(str)
        parts.append(part.assign(label=int(kind != "real"), method=kind, score=expit(score.ravel() - 1)))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def seams(tmp_path_factory):
    """The results of a report of two lines with three seeds, scored at home, away and on kinds."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("seams")
        patch.setenv("DFNB_HOME", str(home))
        lines = []
        for paper in (PLAIN, OURS):
            runs = [run_of(home, paper, seed, paper) for seed in range(3)]
            for run in runs:
                put(run, "here", table(run.id, 1.5, videos="here"))
                put(run, "there", table(run.id, 1.0, videos="there"))
                facts = train.score_facts(
                    run.id, "seams-x", "", {"parameters": {}, "fingerprint": "x"}, run.record["weights_sha256"]
                )
                facts |= {"threshold": 0.5 + run.parameters["seed"] / 10, "threshold_clusters": 25}
                core.write_table(train.shard(run.folder, "seams-x"), kinds(run.id), facts)
            lines.append(scores.Line(paper, paper, "", "", tuple(runs)))
        scores.pack("seams", lines)
        yield SimpleNamespace(lines=lines, table=compare.results(scores.Report("seams")))


def influences(scored, kind):
    """AUC of a kind against the real frames, and each frame's influence on it, pair by pair (DeLong)."""
    fake, real = (scored.loc[scored["method"] == name].sort_values("video") for name in (kind, "real"))
    ahead = (fake["score"].to_numpy()[:, None] > real["score"].to_numpy()).astype(float)
    area = ahead.mean()
    parts = {1: (fake, (ahead.mean(axis=1) - area) / len(fake)), 0: (real, -(area - ahead.mean(axis=0)) / len(real))}
    return area, {label: values.tolist() for label, (_, values) in parts.items()}, fake["cluster"].to_numpy()


@pytest.mark.parametrize("pair", compare.CONTRASTS)
def test_a_difference_of_two_kinds_is_paired_within_people(seams, pair):
    tables_of = [kinds(run.id) for run in seams.lines[0].runs]
    found = row(seams.table, line=PLAIN, minus=PLAIN, method=" − ".join(pair), **SEAMS)
    a, b = ([influences(scored, kind) for scored in tables_of] for kind in pair)
    differences = np.array([x[0] - y[0] for x, y in zip(a, b)])
    assert found["value"] == pytest.approx(differences.mean())
    clusters, sums = a[0][2], {}
    for label in (0, 1):
        mean = np.mean([np.subtract(x[1][label], y[1][label]) for x, y in zip(a, b)], axis=0)
        sums[label] = pd.Series(mean).groupby(clusters).sum()
    k = len(sums[0])
    of_videos = k / (k - 1) * ((sums[0] + sums[1]) ** 2).sum()
    of_seeds = differences.var(ddof=1) / 3
    degrees = (of_videos + of_seeds) ** 2 / (of_videos**2 / (k - 1) + of_seeds**2 / 2)
    half = t.ppf(0.975, degrees) * (of_videos + of_seeds) ** 0.5
    assert [found["low"], found["high"]] == pytest.approx([found["value"] - half, found["value"] + half])
    apart = [row(seams.table, line=PLAIN, method=kind, **SEAMS) for kind in pair]
    widths = [each["high_videos"] - each["low_videos"] for each in apart]
    assert found["high_videos"] - found["low_videos"] < 0.8 * np.hypot(*widths)  # pairing matters
    assert (found["n_real"], found["n_fake"], found["clusters"], found["seeds"]) == (48, 48, 12, 3)


SEAMS = {"test_set": "seams-x", "condition": "seams", "level": "frame"}


def test_of_each_kind_the_auc_and_the_share_called_fake(seams):
    scored = [kinds(run.id) for run in seams.lines[0].runs]
    for kind in GAIN:
        called = [(of[of["method"] == kind]["score"] > 0.5 + seed / 10).mean() for seed, of in enumerate(scored)]
        found = row(seams.table, line=PLAIN, method=kind, **SEAMS | {"metric": "called fake"})
        assert found["value"] == pytest.approx(np.mean(called))
        assert np.isnan(found["low"]) and found["interval_method"] == "none"  # 25 clusters set the threshold
    for kind in [*GAIN][1:]:
        chosen = [of[of["method"].isin(["real", kind])] for of in scored]
        found = row(seams.table, line=PLAIN, method=kind, **SEAMS)
        assert found["value"] == pytest.approx(np.mean([roc_auc_score(of["label"], of["score"]) for of in chosen]))
    assert rows(seams.table, method="real", metric="AUC").empty


def test_no_other_table_mean_or_claim_sees_the_kinds(seams):
    on_kinds = seams.table["test_set"] == "seams-x"
    assert {*seams.table["condition"][on_kinds]} == {"seams"} and "seams" not in {*seams.table["condition"][~on_kinds]}
    assert {*rows(seams.table, test_set="away")["mean_over"]} == {"there"}
    extended = tables.extended(seams.table)
    for kind in ("tables", "figures"):
        for name, spec in tables.specs(kind).items():
            assert ("seams-x" in {*spec.rows(extended)["test_set"]}) == name.startswith("kind"), name
    against = [
        claimed({"against": PLAIN, "sets": [*sets], "level": level, "method": method})
        for sets, level, method in (
            (["away"], "video", "all"),
            (["*"], "frame", "swap"),
            (["seams-x"], "frame", "swap"),
        )
    ]
    judged = [compare.judge(extended, entries).reset_index() for entries in against]
    assert {*judged[0]["on"]} == {"away", "there"} and "seams-x" not in {*judged[1]["on"]}
    assert judged[2]["verdict"].str.startswith("not testable").all()


def test_the_tables_of_kinds_have_a_row_per_detector_and_say_what_lacks_an_interval(seams):
    extended, specs = tables.extended(seams.table), tables.specs("tables")
    table = specs["kinds"].table(extended)
    assert [*table.index] == [(line, metric) for line in (PLAIN, OURS) for metric in ("AUC", "called fake")]
    assert [*table] == ["swap", "composite", "moved", "resynthesis", "whole", "reduced", "real", "seeds", "collapsed"]
    assert table.loc[(PLAIN, "AUC"), "real"] == "–" and "[" not in table.loc[(PLAIN, "called fake"), "swap"]
    differences = specs["kind_differences"].table(extended)
    assert len(differences) == 2 * len(compare.CONTRASTS)
    assert differences.loc[(PLAIN, "swap − composite"), "difference"].startswith("+")
    caption = tables.conditions(specs["kinds"].rows(extended), "x")
    assert "seams-x 48 real + 48 fake frames in 12 clusters" in caption
    assert "No interval of called fake: its threshold rests on fewer than 100 clusters" in caption
    assert "accuracy at 5% FPR:" not in caption


def test_kinds_of_other_people_are_not_compared():
    """A test set in which a kind lacks a person has no difference with that kind."""
    scored = kinds("lacking")
    lacking = scored[~scored["video"].isin(["swap/003a_000", "swap/007a_000"])]
    found = list(compare._contrasts("line", metrics.align([lacking], "frame")))
    methods = {each["method"] for each in found}
    assert "swap" in methods and "swap − composite" not in methods and "composite − moved" in methods
    assert {each["metric"] for each in found} == {"AUC"}  # no threshold is known
