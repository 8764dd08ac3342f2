"""Groups of a table of scores: values by hand, what is paired, averaged and left out."""

import warnings
from itertools import product

import numpy as np
import pandas as pd
import planted
import pytest
from scipy.special import expit
from scipy.stats import sem, t
from sklearn.metrics import average_precision_score, roc_auc_score

from dfnb.results.metrics import (
    ACCURACY,
    AT_THRESHOLD,
    CALLED,
    FALSE_POSITIVE_RATE,
    METRICS,
    TPR,
    above_original,
    measure,
)
from dfnb.results.reading import GAIN
from dfnb.statistics import REPLICATES, cluster_weights, draws
from facesets.checks import DfnbError
from facesets.seeds import rng

SETS = ["a", "b", "c"]
KEY = ["detector", "seed", "test_set"]


def table(detector="A", seed=0, test_set="a", strength=1.0, people="", collapsed=False, **columns):
    """A real video, one of each method, in each of 12 clusters; the videos' noise is shared."""
    kinds = ["real", "swap", "warp"]
    made = pd.DataFrame({"cluster": np.arange(12).repeat(3), "method": kinds * 12})
    made["video"] = made["method"] + made["cluster"].astype(str)
    made["cluster"] = people + made["cluster"].astype(str)
    made["label"] = (made["method"] != "real").astype(int)
    noise = rng("videos", test_set).normal(size=36)
    own = rng("own", detector, seed + 1, test_set, *map(str, columns.values())).normal(size=36)
    made["score"] = 1 / (1 + np.exp(-(strength * made["label"] + noise + own / 2)))
    facts = {"detector": detector, "seed": seed, "test_set": test_set, "collapsed": collapsed}
    return made.assign(**{**facts, "corruption": "", "severity": 0, **columns})


def tables(detectors="A", seeds=range(5), sets=("a",), **facts):
    """The tables of all detectors, seeds and sets, one below the other."""
    parts = []
    for name in detectors:
        strength = 1.0 if name == "A" else 0.5
        parts += [table(name, seed, each, strength, **facts) for seed in seeds for each in sets]
    return pd.concat(parts, ignore_index=True)


def aucs(scores, by=KEY):
    """The AUC of each group by scikit-learn."""
    return scores.groupby(by)[["label", "score"]].apply(
        lambda group: roc_auc_score(group["label"], group["score"])
    )


def only(numbers):
    """The one row of a table."""
    (row,) = numbers.to_dict("records")
    return row


# ---------------------------------------------------------------- one group


def test_a_row_per_group_has_the_mean_over_seeds_and_its_counts():
    scores = tables("AB", sets=SETS)
    numbers = measure(scores, "AUC", ["detector", "test_set"]).set_index(["detector", "test_set"])
    expected = aucs(scores).groupby(["detector", "test_set"]).mean()
    np.testing.assert_allclose(numbers["value"], expected[numbers.index])
    counts = ["n_real", "n_fake", "clusters", "seeds", "collapsed", "sets"]
    assert (numbers[counts] == [12, 24, 12, 5, 0, 1]).all(axis=None)
    assert (numbers["low"] < numbers["value"]).all() and (numbers["value"] < numbers["high"]).all()
    assert (numbers["high"] < 1).all() and "p" not in numbers
    shuffled = measure(scores.sample(frac=1, random_state=0), "AUC", ["detector", "test_set"])
    shuffled = shuffled.set_index(["detector", "test_set"]).loc[numbers.index]
    np.testing.assert_allclose(shuffled[["value", "low"]], numbers[["value", "low"]])


def test_metrics_of_one_group_by_hand():
    score = [0.9, 0.8, 0.8, 0.2, 0.8, 0.4, 0.3, 0.1]
    facts = {"test_set": "a", "detector": "A", "seed": 0, "collapsed": False}
    scores = pd.DataFrame({"score": score, "label": [1] * 4 + [0] * 4}).assign(**facts)
    scores = scores.assign(cluster=list("abcdefgh"), method="")
    limits = {("A", 0): np.array([0.35])}
    expected = {
        "AUC": 12 / 16,
        "EER": 0.25,
        TPR: 0.25 + 0.5 * 0.05 / 0.25,  # at a quarter of FPR two more fakes are found
        ACCURACY: (3 / 4 + 3 / 4) / 2,
        AT_THRESHOLD: (3 / 4 + 2 / 4) / 2,
        FALSE_POSITIVE_RATE: 2 / 4,
        CALLED: 5 / 8,
    }
    assert {*expected} == {*METRICS}
    for metric, value in expected.items():
        number = only(measure(scores, metric, "detector", thresholds=limits))
        assert number["value"] == pytest.approx(value)
        # A threshold without replicates is too uncertain for an interval.
        assert np.isnan(number["low"]) == (metric in (AT_THRESHOLD, FALSE_POSITIVE_RATE, CALLED))
    number = only(measure(scores, FALSE_POSITIVE_RATE, "detector", thresholds=limits))
    assert (number["n_real"], number["n_fake"]) == (4, 0)


def test_replicates_of_a_threshold_widen_the_interval():
    scores = tables(seeds=[0])
    fixed = {("A", 0): np.full(1 + REPLICATES, 0.5)}
    varied = {("A", 0): np.append(0.5, rng("replicates").uniform(0.3, 0.7, REPLICATES))}
    three = own_people(SETS, seeds=[0])  # in their mean, people are not resampled, but thresholds
    for metric, rows in product((FALSE_POSITIVE_RATE, CALLED), (scores, three)):
        one, other = (
            only(measure(rows, metric, "detector", "test_set", thresholds=limits))
            for limits in (fixed, varied)
        )
        assert one["value"] == other["value"] and 0 < one["error"] < other["error"]


def test_real_units_are_shared_by_all_methods():
    scores = tables()
    numbers = measure(scores, "AUC", ["method", "detector"]).set_index("method")
    for method in ("swap", "warp"):
        compared = scores[scores["method"].isin(["real", method])]
        assert numbers.loc[method, "value"] == pytest.approx(aucs(compared).mean())
    assert (numbers[["n_real", "n_fake"]] == 12).all(axis=None)
    number = only(measure(scores, "AUC", ["detector", "method"], minus=[{"method": "warp"}]))
    assert number["value"] == pytest.approx(numbers["value"].diff().iloc[-1] * -1)
    # The share of frames called fake needs no real ones: they are a group of their own.
    limits = {("A", seed): np.array([0.5]) for seed in range(5)}
    called = measure(scores, CALLED, "method", thresholds=limits)
    assert {*called["method"]} == {"real", "swap", "warp"}


def test_a_column_is_averaged_where_it_has_values():
    scores = tables(seeds=[0], energy=np.nan, constant=0.3).head(6)
    scores.loc[[1, 4], "energy"] = [0.2, 0.6]
    number = only(measure(scores, "energy", "detector"))
    assert (number["value"], number["n_real"], number["n_fake"]) == (pytest.approx(0.4), 0, 2)
    assert number["error"] == pytest.approx(0.2, rel=0.1)  # of two values, .08 ** .5 / 2 ** .5
    for gain in (0.3, -0.3):  # signed
        number = only(measure(scores.assign(**{GAIN: gain}), GAIN, "detector"))
        assert number["value"] == pytest.approx(gain) and number["low"] * number["high"] > 0
    assert measure(scores.assign(energy=np.nan), "energy", "detector").empty


def test_without_rows_or_a_class_there_is_no_row_and_a_mistyped_column_is_named():
    scores = tables()
    assert measure(scores.head(0), "AUC", "detector", "test_set", "B").empty
    assert measure(scores[scores["label"] == 1], "AUC", "detector").empty
    with pytest.raises(DfnbError, match=r"no column detecter; it has .*detector"):
        measure(scores, "AUC", "detecter")
    with pytest.raises(DfnbError, match="2 test sets: add test_set to by or mean_over"):
        measure(tables(sets="ab"), "AUC", "detector")
    with pytest.raises(DfnbError, match="there is no detector 'b'; known are A, B"):
        measure(tables("AB"), "AUC", "detector", minus="b")
    with pytest.raises(DfnbError, match="false positive rate needs thresholds"):
        measure(scores, FALSE_POSITIVE_RATE, "detector")
    with pytest.raises(DfnbError, match="has another detector: add detector to by or mean_over"):
        measure(tables("AB"), "AUC", "test_set", minus="B")


def test_a_perfect_detector_and_a_class_with_one_cluster():
    perfect = tables().assign(score=lambda rows: rows["label"] / 2)
    number = only(measure(perfect, "AUC", "detector"))
    # Six independent pairs, each of a real and a fake video of two clusters.
    assert (number["low"], number["high"]) == (pytest.approx(0.025 ** (1 / 6)), 1)
    both = pd.concat([perfect, tables("B")])
    assert np.isnan(only(measure(both, "AUC", "detector", minus="B"))["low"])
    scores = tables()
    scores = scores[(scores["label"] == 0) | (scores["cluster"] == "3")]
    assert np.isnan(only(measure(scores, "AUC", "detector"))["low"])


@pytest.mark.parametrize("clusters", ["abcd", "aabb", "abab", "aaab", "abbb", "abcc", "aaaa"])
def test_intervals_of_few_clusters_are_numbers_in_order_or_none(clusters):
    videos = [0, 1, 3, 4]  # of each detector two real ones and two fakes
    rows = pd.concat([table(name).iloc[videos].assign(cluster=list(clusters)) for name in "AB"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = [measure(rows, name, "detector") for name in ("AUC", "EER", "score")]
        parts.append(measure(rows, "AUC", "detector", minus="A"))
    numbers = pd.concat(parts).dropna(subset="low")
    assert (numbers["error"] >= 0).all()
    assert numbers["value"].between(numbers["low"], numbers["high"]).all()


def test_one_seed_has_an_interval_over_people_alone():
    scores = tables(seeds=[0])
    one = only(measure(scores, "AUC", "detector"))
    same = pd.concat([scores.assign(seed=seed) for seed in range(5)])
    five = only(measure(same, "AUC", "detector"))  # equal seeds add nothing
    assert one["degrees"] == 11 and one["error"] == pytest.approx(five["error"])
    more = only(measure(tables(), "AUC", "detector"))
    # Satterthwaite: the seeds' part of the variance has 4 degrees of freedom, the people's 11.
    means = draws(5, "seeds")[1:] @ aucs(tables()) / 5
    of_seeds = means.var(ddof=1)
    of_people = more["error"] ** 2 - of_seeds
    expected = more["error"] ** 4 / (of_seeds**2 / 4 + of_people**2 / 11)
    assert more["degrees"] == pytest.approx(expected, rel=1e-6) and more["seeds"] == 5


# ---------------------------------------------------------------- differences


def test_differences_are_paired():
    scores = tables("AB")
    number = only(measure(scores, "AUC", "detector", minus="B"))
    of_seeds = aucs(scores)
    differences = of_seeds["A"].to_numpy() - of_seeds["B"].to_numpy()
    assert number["value"] == pytest.approx(differences.mean())
    assert (number["detector"], number["minus"], number["seeds"]) == ("A", "B", 5)
    alone = measure(scores, "AUC", "detector")["error"]
    assert 0 < number["error"] < 0.8 * (alone**2).sum() ** 0.5  # the videos are the same
    half = t.ppf(0.975, number["degrees"]) * number["error"]
    assert number["high"] == pytest.approx(number["value"] + half)
    turned = only(measure(scores, "AUC", "detector", minus="A"))
    assert (turned["low"], turned["high"]) == pytest.approx((-number["high"], -number["low"]))


@pytest.mark.parametrize("lacking", ["A", "B"])
def test_seeds_are_paired_with_the_same_seeds(lacking):
    scores = tables("AB")
    scores = scores[(scores["detector"] != lacking) | ~scores["seed"].isin([0, 3])]
    number = only(measure(scores, "AUC", "detector", minus="B"))
    of_seeds = aucs(scores, ["detector", "seed"])
    expected = [of_seeds["A", seed] - of_seeds["B", seed] for seed in (1, 2, 4)]
    assert (number["value"], number["seeds"]) == (pytest.approx(np.mean(expected)), 3)
    others = pd.concat([tables("A", seeds=range(3)), tables("B", seeds=[5, 6])])
    assert measure(others, "AUC", "detector", minus="B").empty


def test_a_mean_over_sets_has_the_seeds_of_all():
    scores = tables(sets=SETS)
    scores = scores[(scores["test_set"] != "b") | (scores["seed"] != 0)]
    number = only(measure(scores, "AUC", "detector", "test_set"))
    of_seeds = aucs(scores)["A"].drop(0)
    assert (number["value"], number["seeds"]) == (pytest.approx(of_seeds.mean()), 4)


def test_a_detector_without_seeds_is_repeated_at_those_of_another():
    """As the scores of another tool are: its interval has people alone, and each seed a pair."""
    tool = tables("B", seeds=[0])
    scores = pd.concat([tables("A"), *(tool.assign(seed=seed) for seed in range(5))])
    of_seeds = aucs(scores, ["detector", "seed"])
    number = only(measure(scores, "AUC", "detector", minus="B"))
    difference = of_seeds["A"].mean() - of_seeds["B", 0]
    assert (number["value"], number["seeds"]) == (pytest.approx(difference), 5)
    repeated = only(measure(scores[scores["detector"] == "B"], "AUC", "detector"))
    once = only(measure(tool, "AUC", "detector"))
    for name in ("value", "low", "high", "error", "degrees"):
        assert repeated[name] == pytest.approx(once[name])


def test_collapsed_runs_are_left_out_in_pairs_unless_all_collapsed():
    scores = tables("AB")
    scores["collapsed"] = (scores["detector"] + scores["seed"].astype(str)).isin(["A1", "B3"])
    of_seeds = aucs(scores, ["detector", "seed"])
    alone = measure(scores, "AUC", "detector").set_index("detector").loc["A"]
    assert alone[["seeds", "collapsed"]].tolist() == [4, 1]
    assert alone["value"] == pytest.approx(of_seeds["A"].drop(1).mean())
    number = only(measure(scores, "AUC", "detector", minus="B"))
    assert (number["seeds"], number["collapsed"]) == (3, 2)
    differences = (of_seeds["A"] - of_seeds["B"]).drop([1, 3])
    assert number["value"] == pytest.approx(differences.mean())
    every = only(measure(tables(collapsed=True), "AUC", "detector"))
    assert (every["seeds"], every["collapsed"]) == (5, 5)


def test_a_difference_has_an_interval_if_the_pairs_that_count_vary():
    """If all pairs collapsed, all count; seeds without a counterpart never do."""
    scores = tables("AB")
    expected = only(measure(scores, "AUC", "detector", minus="B"))
    all_collapsed = scores.assign(collapsed=scores["detector"] == "B")
    number = only(measure(all_collapsed, "AUC", "detector", minus="B"))
    assert (number["low"], number["seeds"]) == (pytest.approx(expected["low"]), 5)
    is_perfect = (scores["detector"] == "A") & (scores["seed"] < 2)
    perfect = scores.assign(score=scores["score"].mask(is_perfect, scores["label"]))
    assert not np.isnan(only(measure(perfect, "AUC", "detector", minus="B"))["low"])
    two_pairs = perfect[(perfect["detector"] == "A") | (perfect["seed"] < 2)]
    assert np.isnan(only(measure(two_pairs, "AUC", "detector", minus="B"))["low"])


def test_severities_are_averaged_and_robustness_is_a_difference_of_differences():
    """Two severities of two corruptions, on half of the people."""
    clean = tables("AB")
    conditions = [("JPEG", 1), ("JPEG", 5), ("blur", 1), ("blur", 5)]
    parts = [tables("AB", corruption=name, severity=severity) for name, severity in conditions]
    scores = pd.concat(parts).query("cluster < '2'")
    numbers = measure(scores, "AUC", "detector", ["corruption", "severity"]).set_index("detector")
    of_each = aucs(scores, ["detector", "corruption", "severity", "seed"])
    of_corrupted = of_each.groupby("detector").mean()
    np.testing.assert_allclose(numbers["value"], of_corrupted[numbers.index])
    # The same people in four conditions are no more people.
    assert (numbers[["n_real", "clusters", "sets"]] == [4, 4, 1]).all(axis=None)
    same = clean[clean["video"].isin(scores["video"])]
    minus = [{"corruption": "", "severity": 0}, {"detector": "B"}]
    averaged = ["corruption", "severity"]
    kept = measure(pd.concat([same, scores]), "AUC", "detector", averaged, minus[:1])
    assert {*kept["minus"]} == {"clean"}
    number = only(measure(pd.concat([same, scores]), "AUC", "detector", averaged, minus))
    lost = of_corrupted - aucs(same, ["detector", "seed"]).groupby("detector").mean()
    assert number["value"] == pytest.approx(lost["A"] - lost["B"])
    assert number["low"] < number["value"] < number["high"] and number["seeds"] == 5


# ---------------------------------------------------------------- means over test sets


def own_people(sets, **options):
    return pd.concat([tables(sets=[name], people=name, **options) for name in sets])


def test_a_mean_over_three_sets_covers_others_and_one_over_two_does_not():
    scores = own_people(SETS, seeds=[0])
    number = only(measure(scores, "AUC", "detector", "test_set"))
    of_sets = aucs(scores).to_numpy()
    assert number["value"] == pytest.approx(of_sets.mean())
    assert (number["n_fake"], number["clusters"], number["sets"]) == (72, 36, 3)
    assert number["error"] == pytest.approx(of_sets.std(ddof=1) / 3**0.5, rel=0.08)
    assert number["degrees"] == 2
    two = only(measure(own_people(["a", "b"], seeds=[0]), "AUC", "detector", "test_set"))
    errors = measure(scores, "AUC", ["detector", "test_set"])["error"][:2]
    assert two["error"] == pytest.approx((errors**2).sum() ** 0.5 / 2, rel=0.08)
    assert two["degrees"] == 11


def test_a_difference_of_means_over_sets_is_a_t_test_over_the_sets():
    scores = own_people(SETS, detectors="AB", seeds=[0])
    of_sets = aucs(scores)["A"].to_numpy() - aucs(scores)["B"].to_numpy()
    number = only(measure(scores, "AUC", "detector", "test_set", minus="B"))
    assert number["value"] == pytest.approx(of_sets.mean()) and number["degrees"] == 2
    assert number["error"] == pytest.approx(sem(of_sets), rel=0.08)  # 1,000 draws
    half = t.ppf(0.975, 2) * number["error"]
    assert number["low"] == pytest.approx(number["value"] - half)


def test_people_who_are_the_same_on_all_sets_are_resampled_with_them():
    same, own = tables(sets=SETS), own_people(SETS)
    assert same["score"].tolist() != own["score"].tolist()
    own = same.merge(own[[*KEY, "video", "cluster"]], on=[*KEY, "video"], suffixes=("_", ""))
    numbers = [only(measure(scores, "AUC", "detector", "test_set")) for scores in (same, own)]
    assert numbers[0]["value"] == numbers[1]["value"]
    assert numbers[0]["error"] > 1.05 * numbers[1]["error"]


def test_one_person_renamed_in_one_set_leaves_the_others_the_same_people():
    scores = tables(sets=SETS)
    whole = only(measure(scores, "AUC", "detector", "test_set"))
    is_renamed = (scores["test_set"] == "b") & (scores["cluster"] == "3")
    renamed = scores.assign(cluster=scores["cluster"].mask(is_renamed, "new"))
    number = only(measure(renamed, "AUC", "detector", "test_set"))
    assert number["over"] == whole["over"] == "people, test sets, seeds"
    assert number["error"] == pytest.approx(whole["error"], rel=0.1)
    missing = only(measure(scores[~is_renamed], "AUC", "detector", "test_set"))
    assert missing["error"] == pytest.approx(whole["error"], rel=0.15)
    # Of two sets, too, the same person has the same weight, in the union of their people.
    two = renamed[renamed["test_set"] != "c"]
    apart = two.assign(cluster=two["test_set"] + two["cluster"])
    numbers = [only(measure(rows, "AUC", "detector", "test_set")) for rows in (two, apart)]
    assert numbers[0]["error"] != numbers[1]["error"]
    names = sorted(two["cluster"].unique())
    weights = cluster_weights(names, np.ones(len(names), int))
    aucs_of = []
    for _, rows in two[two["seed"] == 0].groupby("test_set"):
        of_units = weights[:, [names.index(cluster) for cluster in rows["cluster"]]]
        score = rows["score"].to_numpy()
        aucs_of.append([roc_auc_score(rows["label"], score, sample_weight=w) for w in of_units])
    one_seed = only(measure(two[two["seed"] == 0], "AUC", "detector", "test_set"))
    assert one_seed["error"] == pytest.approx(np.mean(aucs_of, axis=0)[1:].std(ddof=1))


def test_a_name_that_two_sets_share_by_chance_is_no_person_of_both():
    scores = own_people(SETS)
    whole = only(measure(scores, "AUC", "detector", "test_set"))
    by_chance = scores.replace({"cluster": {"a3": "both", "b7": "both"}})
    number = only(measure(by_chance, "AUC", "detector", "test_set"))
    assert number["over"] == "test sets, seeds" and number["error"] == whole["error"]


def test_whether_sets_are_resampled_is_asked_of_each_group():
    """Each difference is over one set, though the table has three."""
    pairs = [own_people([name], detectors=detectors) for name, detectors in zip(SETS, ["AB"] * 3)]
    pairs = [rows.replace({"detector": {"A": f"A{n}"}}) for n, rows in enumerate(pairs)]
    numbers = measure(pd.concat(pairs), "AUC", "detector", "test_set", "B")
    assert (numbers["sets"] == 1).all() and numbers["low"].notna().all()
    for number, rows in zip(numbers.to_dict("records"), pairs):
        alone = only(measure(rows, "AUC", "detector", "test_set", "B"))
        assert number["error"] == pytest.approx(alone["error"])


def test_groups_that_lack_a_set_are_left_out_of_a_mean():
    scores = tables("AB", sets=SETS)
    lacking = scores[(scores["detector"] == "A") | (scores["test_set"] != "b")]
    assert measure(lacking, "AUC", "detector", "test_set")["detector"].tolist() == ["A"]


def test_a_function_is_a_metric_with_the_interval_of_its_replicates():
    """Average precision by scikit-learn, and the mean score of all units, with one class or two."""
    scores = planted.table("synth-a").assign(detector="A", seed=0, collapsed=False, score=0.0)
    scores = scores.assign(score=expit(scores["log_odds"]), test_set="synth-a")

    def precision(score, is_fake, weight):
        return average_precision_score(is_fake, score, sample_weight=weight)

    def middle(score, is_fake, weight):
        return np.average(score, weights=weight)

    (row,) = measure(scores, precision, "detector").itertuples()
    assert row.metric == "precision" and row.low < row.value < row.high
    assert row.value == pytest.approx(average_precision_score(scores["label"], scores["score"]))
    middle.two_classes = False
    for rows in (scores, scores[scores["label"] == 1]):
        own, mean = measure(rows, middle, "detector"), measure(rows, "score", "detector")
        columns = ["value", "n_real", "n_fake", "clusters"]
        np.testing.assert_allclose(own[columns].astype(float), mean[columns].astype(float))
    assert measure(scores[scores["label"] == 1], precision, "detector").empty


# ---------------------------------------------------------------- thirty rows, pair by pair


def folds(detector="A", seeds=(1, 2), shift=0.0):
    """Thirty videos: three folds of ten, of eleven clusters in all, scored by each seed."""
    parts = []
    for fold in range(3):
        draw = rng("folds", fold)
        facts = pd.DataFrame({"label": [0, 1] * 5, "cluster": draw.integers(0, 4, 10).astype(str)})
        facts = facts.assign(test_set=f"clips-fold-{fold}", cluster=f"{fold}/" + facts["cluster"])
        facts["video"] = [f"{fold}-{number}" for number in range(10)]
        for seed in seeds:  # another scale in each fold, as of another network
            noise = rng("scores", detector, fold, seed).normal(size=10)
            score = expit(fold + noise + (1 + shift) * facts["label"]).round(2)
            parts.append(facts.assign(score=score, seed=seed, detector=detector, collapsed=False))
    return pd.concat(parts, ignore_index=True)


def share_won(scores, across=False):
    """The share of comparisons within test sets that the fake wins, pair by pair.

    ``across``: of pairs of two clusters alone.
    """
    won = made = 0
    for fake in scores[scores["label"] == 1].itertuples():
        for real in scores[scores["label"] == 0].itertuples():
            is_pair = fake.cluster != real.cluster or not across
            if fake.test_set == real.test_set and is_pair:
                made += 1
                won += (fake.score > real.score) + (fake.score == real.score) / 2
    return won / made


def by_hand(scores, across=False):
    """The share at each seed."""
    return {seed: share_won(rows, across) for seed, rows in scores.groupby("seed")}


def test_folds_are_one_test_set_in_which_pairs_are_of_two_clusters_and_one_fold():
    scores = folds()
    of_seeds = [*by_hand(scores, across=True).values()]
    row = only(measure(scores, "AUC", "detector", "test_set"))
    assert row["value"] == pytest.approx(np.mean(of_seeds))
    assert row["seed_values"] == pytest.approx(of_seeds) and row["over"] == "people, seeds"
    assert (row["n_real"], row["n_fake"], row["sets"]) == (15, 15, 1)
    assert row["of_sets"] == ("clips-fold-0", "clips-fold-1", "clips-fold-2")
    assert row["low"] < row["value"] < row["high"] < 1
    # The error of one seed is that of leaving out each cluster, but for the noise of small samples.
    alone = scores[scores["seed"] == 1]
    one = only(measure(alone, "AUC", "detector", "test_set"))
    names = sorted(alone["cluster"].unique())
    without = [share_won(alone[alone["cluster"] != name], True) for name in names]
    pseudo = len(names) * one["value"] - (len(names) - 1) * np.array(without)
    assert one["over"] == "people"
    assert one["error"] == pytest.approx((pseudo.var(ddof=1) / len(names)) ** 0.5, rel=0.35)
    # Neither the scales of the networks nor pairs of one cluster count.
    is_fold = scores["test_set"] == "clips-fold-1"
    other = scores.assign(score=scores["score"].where(~is_fold, scores["score"] / 10))
    assert only(measure(other, "AUC", "detector", "test_set"))["value"] == row["value"]
    assert roc_auc_score(scores["label"], scores["score"]) != pytest.approx(row["value"], abs=0.01)
    # As sets of their own they are sets like any other.
    each = measure(scores, "AUC", ["detector", "test_set"]).set_index("test_set")["value"]
    fold = by_hand(scores[is_fold])
    assert each["clips-fold-1"] == pytest.approx(np.mean([*fold.values()]))


@pytest.mark.parametrize("metric", ["AUC", "EER", TPR, "score"])
def test_all_metrics_treat_folds_and_collapsed_runs_alike(metric):
    scores = folds()
    numbers = measure(scores, metric, "detector", "test_set")
    row = only(numbers)
    assert row["over"] == "people, seeds" and row["seeds"] == 2
    if metric != "AUC":  # scores of two networks are not compared: it is the mean over folds
        each = measure(scores, metric, ["detector", "test_set"])["value"]
        assert row["value"] == pytest.approx(each.mean())
    # One collapsed run of a seed is no collapsed seed; a seed of which all collapsed is.
    is_seed = scores["seed"] == 1
    low = scores.assign(collapsed=is_seed & (scores["test_set"] == "clips-fold-0"))
    pd.testing.assert_frame_equal(measure(low, metric, "detector", "test_set"), numbers)
    all_low = only(measure(scores.assign(collapsed=is_seed), metric, "detector", "test_set"))
    assert (all_low["of_seeds"], all_low["collapsed"]) == ((2,), 1)
    # A seed without one of the folds is left out, and so is a group without any whole seed.
    is_there = is_seed | (scores["test_set"] != "clips-fold-2")
    assert only(measure(scores[is_there], metric, "detector", "test_set"))["of_seeds"] == (1,)
    less = scores[scores["test_set"] != "clips-fold-2"].assign(detector="B")
    both = measure(pd.concat([scores, less]), metric, "detector", "test_set")
    assert only(both)["detector"] == "A"


def test_differences_over_folds_are_of_the_same_videos_and_seeds():
    better = folds("B", (2, 3), shift=1.0)
    scores = pd.concat([folds("A", (1, 2, 3)), better])
    row = only(measure(scores, "AUC", "detector", "test_set", "A"))
    first, second = by_hand(better, True), by_hand(folds("A", (2, 3)), True)
    assert row["of_seeds"] == (2, 3) and row["unpaired"] == 0
    assert row["seed_values"] == pytest.approx([first[seed] - second[seed] for seed in (2, 3)])
    perfect = folds("A").assign(score=folds("A")["label"].astype(float))
    clusters = [
        [
            side["cluster"].nunique()
            for side in (rows, rows[rows["label"] == 0], rows[rows["label"] == 1])
        ]
        for _, rows in perfect.groupby("test_set")
    ]
    pairs = sum(min(both // 2, *sides) for both, *sides in clusters)  # at once, no cluster twice
    bound = only(measure(perfect, "AUC", "detector", "test_set"))
    assert bound["low"] == pytest.approx(0.025 ** (1 / pairs)) and bound["high"] == 1
    chance = perfect.assign(score=0.5, detector="C")
    number = only(measure(pd.concat([perfect, chance]), "AUC", "detector", "test_set", "C"))
    assert number["value"] == 0.5 and np.isnan(number["low"])  # a side at its bound: no interval


def test_a_difference_is_of_what_both_sides_have_at_a_seed():
    """People that one side lacks, at one seed or at all, in one set of three; unequal seeds."""
    scores = pd.concat([folds("A", (1, 2, 3)), folds("B", (2, 3, 4))])
    scores["test_set"] = scores["test_set"].str.replace("clips-fold", "set")
    is_b = scores["detector"] == "B"
    lost = is_b & scores["video"].isin(["0-1", "0-3", "2-2"])
    lost |= ~is_b & (scores["video"] == "1-4") & (scores["seed"] == 3)
    kept = scores[~lost]
    row = only(measure(kept, "AUC", "detector", "test_set", "A"))
    keys = ["seed", "test_set", "video"]
    of_b, of_a = (kept[kept["detector"] == name].set_index(keys) for name in "BA")
    common = of_b.index.intersection(of_a.index)
    expected = []
    for seed in (2, 3):
        sides = [side.loc[common].reset_index() for side in (of_b, of_a)]
        sides = [side[side["seed"] == seed] for side in sides]
        aucs_of = [[share_won(rows) for _, rows in side.groupby("test_set")] for side in sides]
        expected.append(np.mean(aucs_of[0]) - np.mean(aucs_of[1]))
    assert row["of_seeds"] == (2, 3) and row["seed_values"] == pytest.approx(expected)
    assert row["unpaired"] == 4 and row["n_real"] + row["n_fake"] == 30 - 3
    alone = only(measure(kept[kept["detector"] == "B"], "AUC", "detector", "test_set"))
    assert alone["unpaired"] == 0 and alone["n_real"] + alone["n_fake"] == 27


def test_counts_are_of_all_seeds_in_whatever_order_people_are_missing():
    scores = tables(seeds=(0, 1))
    is_lost = scores["cluster"].astype(int) > 3
    for seed in (0, 1):
        rows = scores[~(is_lost & (scores["seed"] == seed))]
        assert only(measure(rows, "AUC", "detector"))["clusters"] == 12


@pytest.mark.parametrize("metric", ["AUC", "EER"])
def test_two_clusters_have_no_interval(metric):
    """In each replicate one of them alone would be compared, with itself."""
    rows = table().query("cluster in ['1', '2']")
    assert np.isnan(only(measure(rows, metric, "detector"))["low"])


def test_logits_of_a_large_scale_are_no_ties():
    scores = table().drop(columns="score")
    for middle in (0, 60, -60, 1000):
        logits = middle + rng("logits").normal(size=36) + scores["label"]
        rows = scores.assign(log_odds=logits)
        expected = roc_auc_score(rows["label"], logits)
        assert only(measure(rows, "AUC", "detector"))["value"] == pytest.approx(expected)
    endless = rows.assign(log_odds=np.where(logits > 1000, np.inf, -np.inf))
    expected = roc_auc_score(rows["label"], logits > 1000)
    assert only(measure(endless, "AUC", "detector"))["value"] == pytest.approx(expected)
    assert 0 < only(measure(endless, "EER", "detector"))["value"] < 1


def test_a_key_that_occurs_twice_is_refused():
    scores = tables("AB")
    with pytest.raises(DfnbError, match=r"a video that occurs twice \(first: video real0, test_se"):
        measure(scores, "AUC", "test_set")  # which of two detectors, nobody said
    with pytest.raises(DfnbError, match="occurs twice"):
        measure(pd.concat([scores, scores.head(1)]), "AUC", "detector")
    names = "clip " + scores["cluster"].astype(str)  # by two methods, as in FaceForensics++
    named_alike = scores.assign(video=names)
    numbers = measure(named_alike, "AUC", "detector")
    pd.testing.assert_frame_equal(numbers, measure(scores, "AUC", "detector"))


# ---------------------------------------------------------------- beside the original


def test_a_fake_is_compared_with_its_own_original_by_the_same_network():
    rows = [
        ("A", 1, "r", 0, 0.5),
        ("A", 1, "s", 0, 0.9),
        ("A", 1, "f", 1, 0.6),
        ("A", 1, "g", 1, 0.9),
    ]
    rows += [("A", 2, "r", 0, 0.7), ("A", 2, "f", 1, 0.6), ("A", 2, "h", 1, 0.6)]
    scores = pd.DataFrame(rows, columns=["detector", "seed", "video", "label", "log_odds"])
    scores = scores.assign(test_set="clips-fold-1", cluster=scores["video"])
    above = above_original(scores, {"f": "r", "g": "s", "h": "gone"})["above its original"]
    np.testing.assert_array_equal(above, [np.nan, np.nan, 1, 0.5, np.nan, 0, np.nan])
