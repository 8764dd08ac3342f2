"""Score files: a report reads what was written into it, and refuses what does not fit."""

import numpy as np
import pandas as pd
import planted
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from dfnb.results import detectors, measure
from dfnb.results.reading import GAIN, made, maps, scores, thresholds
from dfnb.results.tables import by_place
from dfnb.store import reports
from dfnb.store.reports import score_path
from dfnb.store.runs import StoredRun
from dfnb.store.scores import (
    CONDITION,
    Condition,
    _read_about,
    about_of,
    check_scores,
    find_scores,
    own_path,
    read_about,
    read_rows,
    read_sizes,
    rows_of,
    write,
)
from dfnb.store.thresholds import FEWEST_VALIDATION, threshold_of
from dfnb.store.units import KEYS
from facesets.checks import DfnbError
from facesets.files import (
    in_reports,
    read_metadata,
    read_table,
    report_folder,
    run_folder,
    stored_report,
    write_bytes,
    write_table,
)
from facesets.seeds import rng

A, B = planted.SETS


pytestmark = pytest.mark.usefixtures("empty_home")


def names():
    return [detector.name for detector in detectors("demo")]


def test_frames_are_read_as_they_were_written():
    far = planted.table(A, 1.5, "far").iloc[::-1].assign(log_odds=np.linspace(20, 40, 90))
    far["pixel_ap"] = np.where(far["label"] == 1, 0.5, np.nan)
    far["constant pixel_ap"] = 0.25
    more = {Condition(B, "JPEG", 3): far, Condition(A, map="CAM"): planted.measured(A, energy=0.3)}
    run_id = planted.write("demo", "xception", seed=3, more=more, collapsed=True)
    table = scores("demo", level="frame")
    facts = {"detector": "Baseline", "paper": "xception", "ablation": "", "seed": 3}
    for name, value in {**facts, "collapsed": True, "train_set": A, "map": ""}.items():
        assert (table[name] == value).all()
    assert len(table) == 3 * 90
    rows = table[table["corruption"] == "JPEG"]
    assert (rows["severity"] == 3).all() and (rows["test_set"] == B).all()
    for name in [*KEYS, "pixel_ap"]:
        np.testing.assert_array_equal(rows[name].tolist(), far[name].tolist())
    np.testing.assert_array_equal(rows[GAIN], far["pixel_ap"] - 0.25)
    np.testing.assert_allclose(rows["score"], expit(far["log_odds"]), atol=1e-9)
    np.testing.assert_array_equal(rows["log_odds"], np.float32(far["log_odds"]))
    measures = maps("demo")
    assert len(measures) == 60 and not measures["sanity"].any()
    assert measures["energy"].between(0.2, 0.4).all() and {*measures["map"]} == {"CAM"}
    (detector,) = detectors("demo")
    assert detector.runs[0].id == run_id and detector.runs[0].log["loss_cls"].tolist() == [1, 0.5]


def test_a_video_has_the_mean_probability_of_its_frames():
    planted.write("demo", "xception")
    table = scores("demo").query("test_set == @A").set_index("video")
    frames = planted.table(A, 1.5, "xception---0").assign(p=lambda rows: expit(rows["log_odds"]))
    means = frames.groupby("video")["p"].mean()
    np.testing.assert_allclose(table["score"], means[table.index], atol=1e-6)
    np.testing.assert_allclose(expit(table["log_odds"]), table["score"], atol=1e-11)
    assert table.index.is_unique and len(table) == 45


def test_the_log_odds_of_a_video_have_no_limit():
    far = planted.table(B)
    far["log_odds"] = far["log_odds"] / 8 + 60 + 5 * far["label"]
    planted.write("demo", "xception", more={Condition(B): far})
    table = scores("demo").query("test_set == @B").set_index("video")
    # Where P is nearly 1, the mean of 1 - P = exp(-log_odds) decides.
    odds = np.exp(-far["log_odds"].astype("float32").astype(float))
    expected = -np.log(odds.groupby(far["video"]).mean())
    np.testing.assert_allclose(table["log_odds"], expected[table.index], rtol=1e-9)
    assert (table["score"] == 1).all()
    number = measure(table.reset_index(), "AUC", "test_set")["value"].item()
    assert number == roc_auc_score(table["label"], table["log_odds"]) > 0.9


def test_places_follow_the_manifests():
    """Made alike: within. The validation portraits are made like portraits, and set apart."""
    sets = ["ff-like", "ff-like-31", "ff-like-world-01", "portraits", "portraits-val", "my-own"]
    more = {Condition(name): planted.table(name) for name in sets}
    alike = {"ff-like-30": ["ff-like", "ff-like-31"], "portraits": ["portraits"]}
    for train_set, within in alike.items():
        planted.write(train_set, "xception", more=more, train_set=train_set)
        table = scores(train_set)
        places = table.groupby("test_set", observed=True)["place"].unique().explode().to_dict()
        expected = dict.fromkeys([A, B, *sets], "cross-dataset")
        expected |= dict.fromkeys(within, "in-dataset") | {"portraits-val": "portraits-val"}
        assert places == expected


def test_detectors_stand_in_the_order_of_notebooks_and_names():
    planted.write("demo", "lae", 10)
    planted.write("demo", "lae", 2)
    planted.write("demo", "lae", variant="masks: 0 %")
    planted.write("demo", "lae", variant="masks: 100 %")
    planted.write("demo", "xception")
    planted.write("demo", "xception", variant="ResNet")
    expected = ["Baseline", "ResNet", "LAE", "LAE, masks: 0 %", "LAE, masks: 100 %"]
    assert names() == expected
    assert [run.seed for run in detectors("demo")[2].runs] == [2, 10]
    table = scores("demo")
    assert table["detector"].cat.categories.tolist() == expected
    planted.write("demo", "xception", 1, train_set="b")
    assert names()[:3] == ["Baseline, train_set b", "Baseline, train_set synth-a", "ResNet"]


def test_scores_of_two_versions_of_a_test_set_are_not_compared():
    planted.write("demo", "xception")
    other = StoredRun("other", planted.record("lae"))
    tables = {Condition(A): planted.table(A)}
    planted.add(other, tables, **{A: "second"})
    reports.keep("demo", other, tables, ["main"])
    with pytest.raises(DfnbError, match=rf"scores of different versions of {A}; move the older"):
        scores("demo")
    assert len(scores("demo", test_sets=[B]))  # of which there is one version


def test_a_test_set_of_another_version_replaces_none_that_nobody_asked_for():
    """Two reports have two versions of it; the copy of the report in question counts."""
    run = StoredRun("r", planted.record("xception"))
    tables = {Condition(A): planted.table(A), Condition(B): planted.table(B)}
    for report, version in (("a-old", "old"), ("z-new", "new")):
        path = score_path(report_folder(report), run.id)
        write(path, planted.rows(tables), planted.about(run.record, tables, **{B: version}))
    reports.keep("z-new", run, [Condition(A)])
    for report, version in (("a-old", "old"), ("z-new", "new")):
        about = read_about(score_path(report_folder(report), run.id))
        assert about.test_sets[B].fingerprint == version
        assert about_of(find_scores(run, report)).test_sets[B].fingerprint == version


def test_scores_by_other_weights_are_those_of_another_run():
    """Trained again: a report's file is replaced, and shows nothing of the earlier weights."""
    tables = {Condition(A): planted.table(A), Condition(B): planted.table(B)}
    first = StoredRun("r", planted.record("xception", weights_sha256="first"))
    planted.add(first, tables)
    reports.keep("mine", first, tables)
    again = StoredRun("r", planted.record("xception", weights_sha256="again"))
    assert not find_scores(again, "mine")
    planted.add(again, {Condition(A): planted.table(A, 3)})
    path = reports.keep("mine", again, [Condition(A)])
    assert [*find_scores(again)] == [*read_sizes(path)[1]] == [Condition(A)]
    assert read_about(path).record.weights_sha256 == "again"


def test_a_known_leak_and_a_place_outlast_what_is_known_today():
    run = StoredRun("r", planted.record("xception"))
    jpeg = Condition(A, "JPEG", 3)
    planted.add(run, {jpeg: planted.table(A)})
    planted.add(run, {Condition(A): planted.table(A)}, {A: 7})
    assert about_of(find_scores(run)).test_sets[A].shared_crops == 7
    tables = {Condition(B): planted.table(B), Condition(A, map="CAM"): planted.measured(A, x=1)}
    planted.add(run, tables)
    for condition in tables:
        path = find_scores(run)[condition].path
        renamed = read_about(path).model_copy(update={"train_domain": "renamed"})
        (name, kept), *_ = renamed.test_sets.items()
        if name == A:
            kept = kept.model_copy(update={"domain": "renamed"})
        write(
            path,
            planted.rows({condition: tables[condition]}),
            renamed.model_copy(update={"test_sets": {name: kept}}),
        )
    path = reports.keep("mine", run, find_scores(run))
    kept = read_about(path)
    assert kept.test_sets[A].domain == kept.train_domain != kept.test_sets[B].domain
    assert kept.test_sets[A].shared_crops == 7  # A was within, and stays so


def test_a_score_file_is_read_by_pandas_alone():
    run_id = planted.write("demo", "xception", 3)
    rows = pd.read_parquet(report_folder("demo") / "scores" / f"{run_id}.parquet")
    videos = rows.query("test_set == @A").assign(p=expit(rows["log_odds"]))
    videos = videos.groupby(["video", "label"], as_index=False)["p"].mean()
    auc = measure(scores("demo"), "AUC", ["test_set"]).set_index("test_set").loc[A, "value"]
    assert roc_auc_score(videos["label"], videos["p"]) == pytest.approx(auc, abs=1e-12)


def test_places_are_those_of_the_day_when_it_was_scored(empty_home):
    planted.write("demo", "xception", more={Condition("mine"): planted.table("mine")})
    before = scores("demo")
    manifest = "parameters: {}\nnames: [mine]\ndomain: synth-a\n"
    write_bytes(empty_home / "data_manifest" / "embedded" / "mine.yaml", manifest.encode())
    pd.testing.assert_frame_equal(scores("demo"), before)


# ---------------------------------------------------------------- runs without a variant


def run_of(paper="xception", seed=0, **facts):
    return StoredRun(f"{paper}-{len(facts)}-{seed}", planted.record(paper, seed, **facts))


def add(report, run, key="", **more):
    tables = {Condition(name): planted.table(name, key=key) for name in (A, B)}
    tables |= more.get("tables", {})
    planted.add(run, tables)
    reports.keep(report, run, tables, more.get("names"))


def test_scores_are_written_once_and_those_of_a_changed_test_set_do_not_count():
    tables = {Condition(A): planted.table(A), Condition(B): planted.table(B)}
    run = StoredRun("r", planted.record("xception", 0))
    for condition, table in tables.items():
        planted.add(run, {condition: table})
    found = find_scores(run)
    assert about_of(found) == planted.about(run.record, tables)
    stored = rows_of(found)
    for (name, *_), table in tables.items():
        own = stored.loc[stored["test_set"] == name, [*KEYS]].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            own, table[[*KEYS]], check_dtype=False, check_categorical=False
        )
    files = {path: path.read_bytes() for path in run_folder("r").rglob("*.parquet")}
    edges = Condition(A, map="edges")
    planted.add(run, {edges: planted.measured(A, energy=0.5)})
    assert {*find_scores(run)} == {Condition(A), Condition(B), edges}
    planted.add(run, {Condition(A): planted.table(A, 3)}, **{A: "second"})
    assert {*find_scores(run)} == {Condition(A), Condition(B)}
    assert about_of(find_scores(run)).test_sets[A].fingerprint == "second"
    assert files == {path: path.read_bytes() for path in files}
    run.versions[A] = A  # the test set is what it was
    assert {*find_scores(run)} == {Condition(A), Condition(B), edges}


def test_a_report_shows_the_rows_that_were_made_on_most_of_a_test_set():
    run, edges = run_of(), Condition(A, map="edges")
    add("mine", run, tables={edges: planted.measured(A, energy=0.5).head(10)})
    assert len(maps("mine")) == 10
    planted.add(run, {edges: planted.measured(A, energy=0.5)})
    reports.keep("mine", run, [edges])
    assert len(maps("mine")) == 60
    planted.add(run, {edges: planted.measured(A, energy=0.5).head(10)})
    reports.keep("mine", run, [edges])
    assert len(maps("mine")) == 60


def test_the_order_in_which_notebooks_add_to_a_file_leaves_no_trace():
    run = run_of()
    means = {"energy": 0.5, "constant energy": 0.4}
    of_maps = {Condition(A, map=name): planted.measured(A, **means) for name in ("edges", "CAM")}
    of_maps[Condition(A, map="CAM", sanity=True)] = planted.measured(A, grey=0.1)
    conditions = Condition(A, "JPEG", 5), Condition(A, "H.264", 1)
    both = of_maps, dict.fromkeys(conditions, planted.table(A))
    made = []
    for report, tables in (("one", both), ("other", both[::-1])):
        add(report, run)
        for of_notebook in tables:
            planted.add(run, of_notebook)
            path = reports.keep(report, run, of_notebook)
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_committed_files_are_made_anew_from_their_conditions(monkeypatch):
    """Of a study, and of a detector whose maps were measured, too."""
    paths = in_reports("scores/*.parquet")
    committed = [path for path in paths if path.parent.parent.name == "study-recipe"][:6]
    committed += [path for path in paths if path.parent.parent.name == "study-hidf"][:1]
    monkeypatch.setattr("dfnb.store.scores.in_reports", lambda pattern: [])
    for path in committed:
        about, rows = read_about(path), read_table(path)[1]
        run = StoredRun(path.stem, about.record)
        for key, of_condition in rows.groupby(CONDITION, sort=False):
            condition = Condition(*key)
            kept = about.test_sets[condition.test_set]
            part = about.model_copy(update={"test_sets": {condition.test_set: kept}})
            write(own_path(run.id, condition, kept.fingerprint), of_condition, part)
        again = reports.keep("mine", run, read_sizes(path)[1], about.variants)
        assert read_about(again) == about
        keys = [*CONDITION, *KEYS]
        first, second = (
            table.astype({name: "float32" for name in table if name not in keys})
            .sort_values(keys, ignore_index=True)
            .sort_index(axis=1)
            for table in (rows, read_table(again)[1])
        )
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert len(committed) == 7 and {*read_sizes(path)[1]} == {*find_scores(run)}


def test_this_run_comes_first_and_with_its_own_scores_alone():
    planted.write_all("demo")
    run = run_of(seed=7)
    tables = {Condition(A): planted.table(A, key="own")}
    planted.add(run, tables)
    table = scores("demo", run, [A])
    assert table["detector"].cat.categories[0] == "this run"
    assert {*table["test_set"]} == {A} and "Baseline" in {*table["detector"]}
    own = table[table["detector"] == "this run"].set_index("video")["score"]
    means = planted.table(A, key="own").assign(p=lambda rows: expit(rows["log_odds"]))
    means = means.groupby("video")["p"].mean()
    np.testing.assert_allclose(own, means[own.index], atol=1e-6)
    assert {*scores("empty", run, [A])["detector"]} == {"this run"}
    assert thresholds("demo", run)["this run", 7].tolist() == [0.9]
    assert maps("empty", run, [A]).empty  # none was measured


def test_a_committed_run_is_read_from_its_report():
    run_id = planted.write("demo", "xception", 3)
    run = StoredRun(run_id, planted.record("xception", 3))
    assert {*scores("elsewhere", run, [A])["detector"]} == {"this run"}
    assert [*find_scores(run)] == [Condition(A), Condition(B)]
    trained_again = run.record.model_copy(update={"weights_sha256": "other"})
    assert not find_scores(StoredRun(run_id, trained_again))
    assert not run_folder(run_id).exists()


def test_a_report_grows_and_nothing_in_it_is_replaced():
    for seed in (0, 1):
        add("mine", run_of(seed=seed))
    (detector,) = detectors("mine")
    assert detector.name == "Baseline" and [run.seed for run in detector.runs] == [0, 1]
    settings = {**run_of().parameters.settings, "modules": ["a", "b"]}
    add("mine", run_of(seed=0, settings=settings), "other")  # a setting that the others lack
    settings["lr"] = 0.5
    add("mine", run_of(seed=1, settings=settings), "changed")
    expected = ["Baseline, lr 0.01", "Baseline, lr 0.5"]
    assert [each.name for each in detectors("mine")] == expected
    add("mine", run_of("lae"))
    assert [each.name for each in detectors("mine")][-1] == "LAE"
    before = scores("mine")
    more = {Condition(A, map="edges"): planted.measured(A, energy=0.5)}
    planted.add(run_of(seed=0), more)
    reports.keep("mine", run_of(seed=0), more)
    pd.testing.assert_frame_equal(scores("mine"), before)
    assert len(maps("mine")) == 60


@pytest.mark.parametrize("names", [None, ["main"], ["loss: CE"], ["ResNet"]])
def test_two_runs_of_one_name_and_seed_are_shown_with_the_ends_of_their_ids(names):
    """As of two versions of their training set. Seeds of one version stay together."""
    parameters = run_of().parameters.model_copy(update={"data": "second"})
    again = StoredRun("x-again", run_of().record.model_copy(update={"parameters": parameters}))
    runs = [run_of(), again, run_of(seed=1), run_of(seed=2)]
    for run in runs:
        add("mine", run, run.id, names=names)
    found = detectors("mine")
    title = {None: "Baseline", "main": "Baseline", "loss: CE": "Baseline, loss: CE"}
    name = title.get(names and names[0], "ResNet")
    assert len({each.name for each in found}) == len(found) == 2
    assert {each.runs for each in found} == {(runs[0], *runs[2:]), (again,)}
    table = scores("mine")
    for each in found:
        assert each.name.startswith(f"{name} (")
        own = table[table["detector"] == each.name]
        assert [*own["seed"].unique()] == [run.seed for run in each.runs]


def test_runs_without_a_name_that_differ_are_not_one_detector():
    """All that differs between them is in their names; of two seeds, too."""
    settings = run_of().parameters.settings
    add("mine", run_of())
    add("mine", run_of(seed=1, settings={**settings, "lr": 0.5, "backbone": "a: b"}))
    add("mine", run_of(seed=0, collapsed=False), names=["ResNet"])
    *mains, beside = detectors("mine")
    assert [len(each.runs) for each in mains] == [1, 1]
    expected = ["Baseline, backbone a: b, lr 0.5", "Baseline, backbone small, lr 0.01"]
    assert [each.name for each in mains] == expected
    assert not any(each.is_beside or each.ablation or each.variant for each in mains)
    assert beside.is_beside


def test_a_run_that_is_added_again_gets_the_names_of_its_variants():
    """Runs with and without names stand side by side."""
    run = run_of()
    add("mine", run)
    keys = ["test_set", "video"]
    before = scores("mine").sort_values(keys)
    reports.keep("mine", run, [Condition(A)], ["main", "loss: CE"])
    assert [each.name for each in detectors("mine")] == ["Baseline", "Baseline, loss: CE"]
    for _, rows in scores("mine").groupby("detector", observed=True):
        np.testing.assert_array_equal(rows.sort_values(keys)["score"], before["score"])
    add("mine", run_of(settings={**run.parameters.settings, "lr": 0.5}))
    names = ["Baseline, lr 0.01", "Baseline, lr 0.5", "Baseline, loss: CE"]
    assert [each.name for each in detectors("mine")] == names
    reports.keep("mine", run, [Condition(A)])  # None: the names stay
    assert [each.name for each in detectors("mine")] == names


def test_a_study_that_has_scores_alone_is_not_made(capsys):
    add("mine", run_of())
    write_bytes(report_folder("yours") / "results.parquet", b"")
    assert made("mine", "yours") == ["yours"]
    assert capsys.readouterr().out == "mine is left out until its report is made.\n"


def test_training_sets_that_differ_by_the_seed_are_one_detector():
    for seed in (30, 31):
        add("mine", run_of(seed=seed, train_set=f"ff-like-{seed}"))
    (detector,) = detectors("mine")
    assert detector.train_set == "ff-like-{seed}" and len(detector.runs) == 2
    for seed in (0, 1, 30):  # one set that ends in the seed of one of the runs
        add("yours", run_of(seed=seed, train_set="ff-like-30"))
    (detector,) = detectors("yours")
    assert detector.train_set == "ff-like-30" and len(detector.runs) == 3


def test_folds_are_one_detector_whose_clips_have_a_place_of_their_own():
    for fold in (1, 2, 3):
        name = f"clips-fold-{fold}"
        for seed in (3, 4):  # 3 is the number of a fold, too
            run = StoredRun(f"f{fold}{seed}", planted.record("xception", seed, train_set=name))
            tables = {Condition(name): planted.table(name, key=f"{fold}{seed}")}
            planted.add(run, tables)
            reports.keep("mine", run, tables)
    (detector,) = detectors("mine")
    assert detector.train_set == "clips-fold-{fold}" and len(detector.runs) == 6
    table = scores("mine")
    assert {*table["place"]} == {"clips"} and not thresholds("mine")
    (number,) = by_place(table).to_dict("records")
    assert number["of_sets"] == ("clips-fold-1", "clips-fold-2", "clips-fold-3")
    assert number["seeds"] == 2 and number["over"] == "people, seeds"
    add("theirs", run_of(seed=23, train_set="faceforensics-c23"))
    add("theirs", run_of(seed=40, train_set="faceforensics-c40"))
    names = [each.name for each in detectors("theirs")]
    assert names == [
        "Baseline, train_set faceforensics-c23",
        "Baseline, train_set faceforensics-c40",
    ]


def test_two_detectors_never_have_one_name():
    """A name in two notebooks; a run that differs from the main one in the version alone."""
    planted.write("demo", "xception", variant="ResNet-50", name="one-a")
    planted.write("demo", "lae", variant="ResNet-50", name="one-b")
    planted.write("demo", "xception", name="one-c")
    record = planted.record("xception")
    parameters = record.parameters.model_copy(update={"version": 2})
    run = StoredRun("one-d", record.model_copy(update={"parameters": parameters}))
    planted.add(run, {Condition(A): planted.table(A)})
    reports.keep("demo", run, [Condition(A)])
    expected = ["Baseline (c)", "Baseline (d)", "ResNet-50 (a)", "ResNet-50 (b)"]
    assert sorted(names()) == expected


def test_what_a_killed_writer_left_is_not_read_and_an_empty_report_says_so():
    with pytest.raises(DfnbError, match="has no scores of a test set; `dfnb run paper` makes them"):
        scores("paper")  # nobody has run it in this checkout, whose reports are read, too
    with pytest.raises(
        DfnbError, match="execute notebooks of papers with `-p report mine -p save True` first"
    ):
        scores("mine")
    run_id = planted.write("demo", "xception")
    write_bytes(report_folder("demo") / "scores" / f".{run_id}.parquet.01.parquet", b"half")
    assert names() == ["Baseline"] and len(scores("demo"))
    assert maps("demo").empty and {"map", "sanity", "detector"} <= {*maps("demo")}


def test_thresholds_rest_on_enough_people_or_have_no_replicates():
    people = np.arange(200).repeat(2).astype(str)
    frames = pd.DataFrame({"cluster": people, "label": 0, "score": np.arange(400) / 400})
    fakes = frames.head(50).assign(label=1, score=1.0)
    many = threshold_of(pd.concat([frames, fakes]).sample(frac=1, random_state=0))
    threshold = many.threshold
    assert threshold == 379 / 400 and many.threshold_clusters == 200
    assert (frames["score"] > threshold).mean() == 0.05
    few = many.model_copy(update={"threshold_clusters": FEWEST_VALIDATION - 1})
    planted.write("demo", "xception", 0, validation_threshold=many.model_dump())
    planted.write("demo", "xception", 1, validation_threshold=few.model_dump())
    limits = thresholds("demo")
    replicates = many.threshold_replicates
    assert len(replicates) == 200 and min(replicates) < threshold < max(replicates)
    assert limits["Baseline", 0].tolist() == [threshold, *replicates]
    assert limits["Baseline", 1].tolist() == [threshold]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cluster": lambda rows: rows["cluster"].where(rows["label"] == 1)},
            r"30 rows with no cluster \(first: cluster nan, .* video real/0, track 0, frame 0\)",
        ),
        ({"score": np.nan}, r"90 rows with a score that is NaN .*\(first: score nan"),
        ({"score": 1.5}, r"90 rows with a score .*outside \[0, 1\] \(first: score 1.5"),
        (
            {"label": 2},
            r"90 rows with a label other than 0 for real and 1 for fake \(first: label 2",
        ),
        ({"label": 1}, "30 rows with a label that does not fit the method"),
        ({"frame": 0}, "45 rows with a frame that occurs twice .* frame 0"),
        ({"cluster": lambda rows: rows.index}, "a video of more than one cluster"),
        ({"log_odds": 2.0}, "90 rows with log_odds that are not those of the score"),
        ({"label": 1, "method": "swap"}, "lacks real or fake frames"),
    ],
)
def test_bad_scores_are_refused_in_one_sentence(changes, message):
    table = planted.table(A).drop(columns="log_odds").assign(score=0.5).assign(**changes)
    with pytest.raises(DfnbError, match=message) as error:
        check_scores(table, "the scores of x")
    assert str(error.value).startswith("the scores of x") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.assign(
                label=1 - rows["label"], method=np.where(rows["label"] == 1, "real", "swap")
            ),
            r"disagrees with the scores before it on 45 labels, methods or clusters of synth-b",
        ),
        (lambda rows: rows.assign(cluster=rows["video"]), "on 45 labels, methods or clusters"),
        (lambda rows: rows.assign(method="warp").mask(rows["label"] == 0, rows), "on 15 labels"),
        (lambda rows: pd.concat([rows, rows.head(3).assign(log_odds=9.0)]), "has 3 frames twice"),
    ],
)
def test_a_file_that_disagrees_with_the_others_is_named(change, message):
    planted.write("demo", "xception")
    more = {Condition(B): change(planted.table(B))}
    run_id = planted.write("demo", "lae", 0, more=more)
    with pytest.raises(DfnbError, match=message) as error:
        scores("demo")
    assert str(error.value).startswith(str(score_path(report_folder("demo"), run_id)))
    assert len(scores("demo", test_sets=[A]))
    # Beside this run, which has that test set as it is, the same file is named.
    run = run_of(seed=7)
    planted.add(run, {Condition(B): planted.table(B)})
    with pytest.raises(DfnbError, match=message):
        scores("demo", run, [B])


def test_a_score_file_with_a_flipped_bit_is_refused_or_reads_as_it_was_written():
    run_id = planted.write("demo", "xception")
    path = score_path(report_folder("demo"), run_id)
    about, rows, content = read_about(path), read_rows(path), path.read_bytes()
    refused = 0
    for bit in rng("bits").choice(8 * len(content), 300, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        _read_about.cache_clear()  # it is written within one tick of the clock
        try:
            again = read_about(path), read_rows(path)
        except DfnbError:
            refused += 1
        else:
            assert again[0] == about
            pd.testing.assert_frame_equal(again[1], rows, check_exact=True)
    assert refused > 200


def test_a_column_alone_is_checked_and_a_file_without_a_digest_is_read():
    run_id = planted.write("demo", "xception")
    path = score_path(report_folder("demo"), run_id)
    about, rows = read_about(path), read_rows(path)
    sizes = read_sizes(path)[1]
    content = read_metadata(path)
    assert {*content["sha256"]} == {"", *rows}
    write_table(path, rows.assign(video=rows["video"].astype(str) + "x"), content)
    with pytest.raises(DfnbError, match="is damaged: its rows are not those written"):
        read_sizes(path)
    write_table(path, rows, {**content, "train_domain": "other"})
    with pytest.raises(DfnbError, match="is damaged: its metadata are not those written"):
        read_about(path)
    del content["sha256"]
    write_table(path, rows, content)  # of an earlier version
    assert read_sizes(path) == (about, sizes)
    pd.testing.assert_frame_equal(read_rows(path), rows)
    run = StoredRun(run_id, about.record)
    assert "sha256" in read_metadata(reports.keep("mine", run, sizes))  # once it is written again


def test_a_shipped_report_is_read_until_the_home_has_scores_of_its_own(empty_home, checkout):
    figures = empty_home / "reports" / "study-recipe" / "figures"
    figures.mkdir(parents=True)  # as a notebook saves them that shows the shipped report
    assert stored_report("study-recipe") == checkout / "reports" / "study-recipe"
    (figures.parent / "scores").mkdir()
    assert stored_report("study-recipe") == figures.parent
