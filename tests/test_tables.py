"""The tables of a report whose score files are made by hand: no network, no dataset, numbers computed in another way."""

import html
import re
import time

import numpy as np
import pandas as pd
import pytest
from records import SAID
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from dfnb import compare, core, figures, metrics, page, papers, scores, tables, train
from dfnb.core import DfnbError, rng
from dfnb.scores import Line
from dfnb.train import Run

SETS = ("synth-a", "synth-b")
MAPS = {"Grad-CAM": 0.1, "edges": 0.9}  # how alike a map stays when the network has forgotten all


def made(test_set, strength, key, clusters=30) -> pd.DataFrame:
    """Two frames per video, a real and a fake video per cluster, two methods in turn; errors are shared by all lines."""
    label, cluster = np.tile([0, 0, 1, 1], clusters), np.repeat(np.arange(clusters), 4)
    method = np.where(label == 0, "real", np.where(cluster % 2 == 0, "swap", "warp"))
    noise = rng("videos", test_set).normal(size=2 * clusters).repeat(2) + 0.4 * rng("seed", key).normal(
        size=4 * clusters
    )
    columns = {"track": 0, "frame": np.tile([0, 5], 2 * clusters), "cluster": cluster.astype(str), "label": label}
    table = pd.DataFrame({"video": [f"{kind}/{of:03d}" for kind, of in zip(method, cluster)], **columns})
    return table.assign(method=method, score=expit(noise + strength * label - strength / 2))


def put(run, test_set, condition, table) -> None:
    dataset = {"parameters": {}, "fingerprint": f"of {test_set} and more", "compression": "JPEG 75"}
    facts = train.score_facts(run.id, test_set, condition, dataset, run.record["weights_sha256"])
    core.write_table(train.shard(run.folder, test_set, condition), table, facts)


def make_run(home, paper, seed, arm="", strength=1.0, **changes) -> Run:
    """A finished run with its scores at home, as training and scoring would leave it."""
    folder = home / "runs" / f"{paper}-{core.slug(arm)}-s{seed}"
    folder.mkdir(parents=True)
    (folder / "best.safetensors").write_bytes(folder.name.encode())
    settings = papers.module(paper).Settings(backbone="dfnb_plain7", pretrained=False)
    parameters = {"paper": paper, "train_set": "synth-a", "seed": seed, "seen_methods": None, **changes}
    record = SAID | {
        "parameters": {**parameters, "settings": settings.model_dump(mode="json")},
        "log": [SAID["log"][0] | {"epoch": epoch} for epoch in (1, 2)],
        "wall_s": 5.0,
        "outputs": {},
        "weights_sha256": core.sha256(folder / "best.safetensors"),
    }
    core.write_json(folder / "record.json", record)
    run = Run(folder, record)
    for test_set, weaker in zip(SETS, (1, 0.5)):
        table = made(test_set, strength * weaker, f"{folder.name} {test_set}")
        if paper == "locate_and_verify":
            table["energy"] = np.where(table["label"] == 1, rng("energy", seed).random(len(table)), np.nan)
            table["constant energy"] = table["energy"] / 2
        put(run, test_set, "", table)
    return run


def add_conditions(run) -> None:
    """Scores of the epochs, under corruptions, and of maps, on the home dataset."""
    for epoch, strength in ((1, 1.0), (2, 2.5)):
        put(run, SETS[0], f"epoch {epoch}", made(SETS[0], strength, f"{run.id} synth-a"))
    for corruption in ("JPEG", "blur"):
        for severity in (1, 5):
            table = made(SETS[0], 2 / severity, f"{run.id} {corruption} {severity}")
            put(run, SETS[0], f"{corruption} {severity}", table)
    forged = made(SETS[0], 1, run.id).query("label == 1").reset_index(drop=True)
    values = rng("maps", run.id).random((len(forged), 4))
    for name, alike in MAPS.items():
        measured = dict(zip(("energy", "chance", "deletion 0", "insertion 100"), values.T))
        put(run, SETS[0], f"map {name}", forged.assign(**measured))
        noise = 0.05 * values[:, 0]
        put(run, SETS[0], f"sanity {name}", forged.assign(all=alike + noise, half=alike - noise, empty=0.0))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with the packed report ``hand`` and no dataset, prepared by no network."""
    home = tmp_path_factory.mktemp("hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        plain = [make_run(home, "xception", seed, strength=1.5) for seed in (0, 1)]
        add_conditions(plain[0])
        locating = [make_run(home, "locate_and_verify", seed, strength=2.5) for seed in (0, 1)]
        resnet = make_run(home, "xception", 0, "resnet")
        swap = make_run(home, "xception", 0, "swap", seen_methods=["swap"])
        share = [make_run(home, "locate_and_verify", seed, "share", 0.8) for seed in (0, 1)]
        quirk = make_run(home, "locate_and_verify", 0, "quirk", 2.0)
        face = {arm: make_run(home, "lae", 0, arm, seen_methods=["swap"]) for arm in ("main", "0 %")}
        lines = [
            Line("Baseline", "xception", "", "", tuple(plain)),
            Line("a_b & 50 % | <i>", "xception", "", "", (resnet,)),
            Line("Locate and Verify", "locate_and_verify", "", "", tuple(locating)),
            Line("Baseline, methods: swap", "xception", "methods", "swap", (swap,)),
            Line("Locate and Verify, annotation: 0 %", "locate_and_verify", "annotation", "0 %", tuple(share)),
            Line("Locate and Verify, quirks: update", "locate_and_verify", "quirks", "update", (quirk,)),
            *(Line(f"LAE, face swap: {arm}", "lae", "face swap", arm, (run,)) for arm, run in face.items()),
        ]
        scores.pack("hand", lines)
        yield home


@pytest.fixture
def book(home):
    return tables.Book("hand")


def auc(home, run, test_set, methods=("swap", "warp"), condition="", level="video") -> float:
    """The AUC by scikit-learn from the run's own file."""
    table = core.read_table(train.shard(home / "runs" / run, test_set, condition))
    table = table[table["method"].isin(["real", *methods])]
    units = table.groupby("video")[["label", "score"]].mean() if level == "video" else table
    return roc_auc_score(units["label"], units["score"])


def begins(cell, value, sign="") -> bool:
    """Whether a cell shows this value, with two decimals where its interval is wider than a tenth, else with three."""
    ends = re.findall(r"[-+.\d]+", cell.partition("[")[2])
    digits, width = len(ends[0].partition(".")[2]), float(ends[1]) - float(ends[0])
    rounded = abs(width - 0.1) <= 10**-digits  # the ends are printed rounded
    return cell.startswith(f"{value:{sign}.{digits}f} [") and (rounded or digits == (2 if width > 0.1 else 3))


def test_the_main_table_says_what_the_score_files_say(home, book):
    table = book.table("cross_dataset")
    assert list(table.index)[:2] == ["Baseline", "a_b & 50 % | <i>"] and len(table) == 3
    assert list(table.columns) == [*SETS, "away", "seeds", "collapsed", "left chance"]
    for test_set in SETS:
        mean = np.mean([auc(home, f"xception--s{seed}", test_set) for seed in (0, 1)])
        assert begins(table.loc["Baseline", test_set], mean)
    assert list(table["seeds"]) == [2, 1, 2]
    frame = book.table("cross_dataset_frame").loc["a_b & 50 % | <i>", "synth-b"]
    assert begins(frame, auc(home, "xception-resnet-s0", "synth-b", level="frame"))


def test_every_pair_of_lines_is_compared_at_shared_seeds(home, book):
    table = book.table("differences")
    assert table.index.names == ["line", "minus", "test_set"] and len(table) == 3 * (2 + 1)
    row = table.loc["Locate and Verify", "a_b & 50 % | <i>", "synth-a"]
    value = auc(home, "locate_and_verify--s0", "synth-a") - auc(home, "xception-resnet-s0", "synth-a")
    assert begins(row["difference"], value, "+") and row["seeds"] == 1
    p, holm = (table[name].str.removeprefix("< ").astype(float) for name in ("p", "p, Holm"))
    assert (holm >= p).all() and (holm > p).any()
    for row in table.itertuples():
        low, high = map(float, re.search(r"\[(.*), (.*)\]", row.difference).groups())
        expected = "above zero" if low > 0 else "below zero"
        assert row.verdict == (expected if low * high > 0 else "undecided")


def test_tables_by_method_and_of_arms_for_all_papers(home, book):
    assert list(book.table("within_dataset").columns) == ["all", "swap", "warp"]
    across = book.table("cross_manipulation")
    cell = across.loc["Baseline, methods: swap", "warp"]
    assert begins(cell, auc(home, "xception-swap-s0", "synth-a", ["warp"]))
    quirks = book.table("quirks")
    value = auc(home, "locate_and_verify-quirk-s0", "synth-b") - auc(home, "locate_and_verify--s0", "synth-b")
    key = "Locate and Verify, quirks: update", "Locate and Verify", "synth-b"
    assert begins(quirks.loc[key, "difference"], value, "+")


def test_the_rule_for_the_epoch(home, book):
    table = book.table("selection").loc[("Baseline", "synth-a")]
    best = auc(home, "xception--s0", "synth-a", condition="epoch 2")
    assert begins(table["chosen on test"], best)
    assert begins(table["our rule"], np.mean([auc(home, f"xception--s{k}", "synth-a") for k in (0, 1)]))
    gain = book.table("selection_gain").loc[("Baseline", "Baseline", "synth-a"), "difference"]
    assert begins(gain, best - auc(home, "xception--s0", "synth-a"), "+")


def test_robustness_is_the_mean_over_the_severities(home, book):
    table = book.table("robustness").loc["synth-a"]
    aucs = {
        name: [auc(home, "xception--s0", "synth-a", condition=f"{name} {k}") for k in (1, 5)]
        for name in ("JPEG", "blur")
    }
    for name, values in aucs.items():
        assert begins(table.loc[name, "Baseline"], np.mean(values))
    assert begins(table.loc["all corruptions", "Baseline"], np.mean(list(aucs.values())))


def test_maps_and_their_sanity(home, book):
    sane = book.table("attribution_sanity")
    assert dict(sane.loc["Baseline", "verdict"]) == {"Grad-CAM": "passes", "edges": "fails"}
    maps = book.table("attribution")
    assert {"energy in mask", "chance", "verdict"} <= set(maps.columns) and "deletion 0" not in maps
    measured = core.read_table(train.shard(home / "runs" / "xception--s0", "synth-a", "map edges"))
    row = maps.loc[("Baseline", "edges", "synth-a")]
    assert begins(row["energy in mask"], measured["energy"].mean()) and row["verdict"] == "fails"


def test_the_mean_training_mask_is_a_row_of_the_tables_of_localisation(home, book):
    runs = (home / "runs" / f"locate_and_verify--s{seed}" for seed in (0, 1))
    means = sum(core.read_table(train.shard(run, "synth-a", "")).mean(numeric_only=True) for run in runs) / 2
    for name in ("located", "locate_and_verify_annotation_located"):
        table = book.table(name)
        for of, column in ((tables.MEAN_MASK, "constant energy"), ("Locate and Verify", "energy")):
            assert begins(table.loc[(of, "synth-a"), "energy in mask"], means[column])
        assert not any("constant" in column for column in table)
        assert len(table.loc[tables.MEAN_MASK]) == 3  # once for each test set and for away
    assert tables.MEAN_MASK not in book.table("cross_dataset").index


def test_captions_name_what_away_collapsed_runs_and_few_validation_clusters_mean(book):
    results = book.results.query("line == 'Baseline' and level == 'frame' and metric == 'balanced accuracy'")
    changes = {"metric": "accuracy at 5% FPR", "interval_method": "none", "collapsed": "1 of 2"}
    text = tables.conditions(results.assign(**changes), "hand")
    assert "away: the mean over synth-b" in text and "Collapsed runs are left out: 1 of 2 of Baseline." in text
    assert "No interval of accuracy at 5% FPR: its threshold rests on fewer than 100 clusters" in text
    assert "ollapsed" not in tables.conditions(results, "hand") and "No interval" not in tables.conditions(
        results, "hand"
    )


def test_a_caption_says_when_every_interval_holds_chance(book):
    results = book.results.query("metric == 'AUC' and minus == '' and condition == '' and line == 'Baseline'")
    nothing = "Every interval holds chance: these videos show nothing about these detectors."
    assert nothing not in tables.conditions(results, "hand")
    chance = results.assign(low=0.4, high=0.6)
    assert nothing in tables.conditions(chance, "hand")
    chance.iloc[0, chance.columns.get_loc("low")] = 0.51
    assert nothing not in tables.conditions(chance, "hand")


def test_every_group_of_arms_has_its_tables(home, book):
    table = book.table("locate_and_verify_annotation")
    assert set(table.index) == {"Locate and Verify", "Locate and Verify, annotation: 0 %"}
    differences = book.table("locate_and_verify_annotation_differences")
    assert set(differences.index.get_level_values("minus")) == {"Locate and Verify"} and len(differences) == 2 + 1
    value = [
        auc(home, f"locate_and_verify-share-s{k}", "synth-a") - auc(home, f"locate_and_verify--s{k}", "synth-a")
        for k in (0, 1)
    ]
    assert begins(differences["difference"].iloc[0], np.mean(value), "+")
    assert "energy in mask" in book.table("locate_and_verify_annotation_located")
    task = book.table("lae_face_swap_by_method")
    assert set(task.index.get_level_values("line")) == {"LAE, face swap: main", "LAE, face swap: 0 %"}
    assert set(task.index.get_level_values("metric")) == {"balanced accuracy"} and "synth-b, warp" in task
    assert len(book.table("lae_face_swap_by_method_differences")) and not any("quirks" in name for name in book.figures)


def test_what_a_report_does_not_hold_is_empty_and_not_saved(book):
    assert book.table("lae_open_choices").empty and book.figure("lae_open_choices") is None
    assert book.table("locate_and_verify_annotation_maps").empty and not book.saved
    clean = tables.extended(compare.results(book.report).query("condition == ''"))
    assert set(clean["verdict"]) == {""} and book.tables["attribution_sanity"].table(clean).empty
    with pytest.raises(
        DfnbError, match="there is no table or figure 'cross_datasets'; there are findings, cross_dataset, "
    ):
        book.table("cross_datasets")


def test_a_caption_says_what_a_number_must_carry(book):
    book.table("cross_dataset")
    text = book.saved[-1].read_text(encoding="utf-8")
    for part in (
        "Trained on synth-a, seeds: 0, 1.",
        "synth-a 30 real + 30 fake videos in 30 clusters (JPEG 75, data of synth)",
        "over clusters of videos and over seeds",
        "highest frame AUC on the validation split",
        "dfnb_plain7 from random weights",
        "Made by `dfnb run hand`.",
    ):
        assert part in text, part
    book.table("attribution")
    assert "0 real + 60 fake frames" in book.saved[-1].read_text(encoding="utf-8")


def test_refused_scores_are_a_hole_and_the_caption_says_why(home, book):
    other = home / "reports" / "hand" / "other" / "sometool" / "synth-a.csv"
    other.parent.mkdir(parents=True)
    other.write_text("video,label,score\nreal/000,0,0.5\n", encoding="utf-8")
    try:
        before, refused = book.table("cross_dataset")[list(SETS)], tables.Book("hand")
        table = refused.table("cross_dataset")
        assert table.loc["sometool", "synth-a"] == "refused"
        assert table.drop(index="sometool")[list(SETS)].equals(before)
        assert re.search("Refused: .*sometool/synth-a.csv", refused.saved[3].read_text(encoding="utf-8"))
        assert refused.figure("cross_dataset") and refused.figure("roc")
    finally:
        other.unlink()
        other.parent.rmdir()


@pytest.fixture
def in_zone(monkeypatch):
    """Puts this process into a time zone."""

    def put(zone):
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


def test_a_report_is_made_again_from_its_store_alone_with_the_same_bytes(home, monkeypatch, in_zone):
    monkeypatch.setattr(scores, "load_frames", lambda *_: pytest.fail("a report needs no dataset"))
    monkeypatch.setattr(figures, "load_frames", lambda *_: pytest.fail("a report needs no dataset"))
    monkeypatch.setattr(Run, "network", lambda *_: pytest.fail("a report needs no network"))
    monkeypatch.setattr(train, "load_frames", lambda *_: pytest.fail("a report needs no dataset"))
    hashes = []
    for zone in ("America/Adak", "Pacific/Kiritimati"):  # 24 hours apart: never the same day
        in_zone(zone)
        made_page = page.rebuild("hand")
        files = [path for path in made_page.parent.rglob("*") if path.is_file() and path.name[0] != "."]
        hashes.append({str(path.relative_to(made_page.parent)): core.sha256(path) for path in files})
        (made_page.parent / "results.parquet").unlink()
    assert hashes[0] == hashes[1]
    names = {path.stem for path in (made_page.parent / "figures").glob("*.png")}
    assert {"cross_dataset", "roc", "robustness", "attribution_curves", "locate_and_verify_annotation"} <= names
    text = html.unescape(made_page.read_text(encoding="utf-8"))
    order = [text.index(f'id="tables-{name}"') for name in ("cross_dataset", "differences", "metrics", "overview")]
    assert order == sorted(order) and "&lt;i&gt;" in made_page.read_text(encoding="utf-8")


def test_how_long_a_run_took_changes_no_table(book):
    """A run that was interrupted and resumed has the same tables as one that was not."""
    before = tables._overview(book)
    for record in (record for entry in book.report.entries.values() for record in entry["runs"].values()):
        record |= {"wall_s": 1e6, "log": [{**epoch, "images_per_s": 1e6} for epoch in record["log"]]}
    pd.testing.assert_frame_equal(tables._overview(book), before)


def test_a_shown_table_says_what_it_comes_to(book, capsys):
    book.show("cross_dataset")
    rows = book.results.query(
        "group == '' and minus == '' and condition == '' and level == 'video' and method == 'all'"
    )
    rows = rows[(rows["metric"] == "AUC") & (rows["test_set"] == "away")].dropna(subset="value")
    rows = rows.set_index(["line", "test_set"])["value"]
    text = tables.conclusion(book.tables["cross_dataset"].rows(book.results).dropna(subset="value"))
    (top, top_on), (low, low_on) = rows.idxmax(), rows.idxmin()
    assert re.match(
        rf"AUC: highest for {re.escape(top)}, {top_on} \(0\.\d+ \[.*; lowest for {re.escape(low)}, {low_on} ", text
    )
    capsys.readouterr()
    book.show("lae_open_choices")
    assert capsys.readouterr().out == ""


def test_a_sentence_counts_differences_by_sign():
    rows = pd.DataFrame({"minus": ["x"] * 4, "low": [0.1, -0.2, -0.1, -0.3], "high": [0.2, -0.1, 0.1, 0.2]})
    assert tables.conclusion(rows).startswith("Differences: 1 above zero, 1 below, 2 undecided")


def test_the_best_line_and_those_that_cannot_be_told_apart(book):
    main = (
        "minus == '' and group == '' and condition == '' and metric == 'AUC' and level == 'video' and method == 'all'"
    )
    away = book.results.query(f"test_set == 'away' and {main}")
    ranked = page.ranked(book, "away")
    assert [row["line"] for row in ranked] == away.sort_values("value", ascending=False)["line"].tolist()
    best = ranked[0]["line"]
    pairs = book.results.query(f"test_set == 'away' and {main.replace('minus ==', 'minus !=')}")
    for row in ranked[1:]:
        lines = [set(pair) for pair in pairs[["line", "minus"]].to_numpy()]
        pair = pairs.iloc[lines.index({best, row["line"]})]
        assert row["tied"] == (pair["low"] <= 0 <= pair["high"]) and row["against"]["value"] == pair["value"]
    assert ranked[0]["tied"] and tables.cell(ranked[0]) == metrics.interval(*away.loc[away["value"].idxmax(), ENDS])


ENDS = ["value", "low", "high"]


def with_maps(results, **energies) -> pd.DataFrame:
    """The results with further maps of the baseline: energy by name and verdict, joined by an underscore."""
    like = results[
        (results["line"] == "Baseline") & (results["condition"] == "map Grad-CAM") & (results["minus"] == "")
    ]
    added = []
    for text, value in energies.items():
        name, verdict = text.split("_")
        rows = like[like["metric"].isin(["energy", "chance"]) & (like["method"] == "all")]
        rows = rows.assign(map=name, condition=f"map {name}", verdict=verdict)
        added.append(rows.assign(value=rows["value"].where(rows["metric"] == "chance", value)))
    return pd.concat([results, *added], ignore_index=True)


def test_where_a_detector_looks_and_whether_to_believe_it(book):
    found = page.looks_at(book, "Baseline")
    rows = book.tables["attribution"].rows(book.results).query("line == 'Baseline' and map == 'Grad-CAM'")
    energy, chance = (rows[rows["metric"] == name].set_index("map")["value"] for name in ("energy", "chance"))
    assert found["map"] == "Grad-CAM" and found["energy"]["value"] == energy.item() and found["chance"] == chance.item()
    assert np.isnan(found["mean_mask"])
    assert found["verdicts"] == {"Grad-CAM": "passes"}  # edges is a placebo
    assert page.looks_at(book, "Locate and Verify") == {}


def test_a_map_that_failed_is_not_shown_and_the_mean_mask_stands_beside_one_that_passed(book):
    book.results = with_maps(book.results, best_fails=0.99, second_passes=0.98, random_passes=1.0)
    mask = book.results[(book.results["map"] == "second") & (book.results["metric"] == "energy")]
    book.results = pd.concat([book.results, mask.assign(line=tables.MEAN_MASK, map="none", value=0.57)])
    found = page.looks_at(book, "Baseline")
    assert (found["map"], found["energy"]["value"], found["mean_mask"]) == ("second", 0.98, 0.57)
    assert found["verdicts"] == {"Grad-CAM": "passes", "best": "fails", "second": "passes"}
    book.results = book.results[book.results["verdict"] != "passes"]
    assert page.looks_at(book, "Baseline") == {"line": "Baseline", "map": "", "verdicts": {"best": "fails"}}


def test_the_verdict_of_a_map_is_of_its_own_correlations_and_of_no_difference(home):
    results = compare.results(scores.Report("hand"))
    sane = results[(results["condition"] == "sanity Grad-CAM") & (results["minus"] == "")]
    assert (sane.loc[sane["metric"] == "all", "value"] < 0.5).all() and len(sane)
    difference = sane.assign(minus="Locate and Verify", value=0.9)
    found = tables.extended(pd.concat([results, difference], ignore_index=True))
    assert set(found.loc[found["map"] == "Grad-CAM", "verdict"]) == {"passes"}
    own = tables.extended(pd.concat([results, sane.assign(value=0.9)], ignore_index=True))
    assert set(own.loc[own["map"] == "Grad-CAM", "verdict"]) == {"fails"}


def scores_of_a_tool(kind) -> pd.DataFrame:
    """What another tool says of synth-a: a row per frame, or per video."""
    frames = made("synth-a", 1.2, "tool")[["video", "frame", "label", "score"]]
    videos = frames.groupby("video", as_index=False)[["label", "score"]].mean()
    unknown = videos.assign(video=videos["video"].replace(videos["video"][0], "nobody/000"))
    return {"frames": frames, "videos": videos, "unknown": unknown}[kind]


@pytest.mark.parametrize("kind", ["videos", "frames", "unknown"])
def test_the_page_is_made_with_the_scores_of_another_tool(home, kind):
    run = [make_run(home, "xception", seed, f"beside {kind}") for seed in (0, 1)]
    scores.pack(f"with-{kind}", [Line("Baseline", "xception", "", "", tuple(run))])
    file = scores.report_folder(f"with-{kind}") / "other" / "Their tool" / "synth-a.csv"
    file.parent.mkdir(parents=True)
    scores_of_a_tool(kind).to_csv(file, index=False)
    text = html.unescape(page.rebuild(f"with-{kind}").read_text(encoding="utf-8"))
    board = text[text.index('id="board"') : text.index('id="claims"')]
    table = tables.Book(f"with-{kind}").table("cross_dataset")
    assert "Their tool" not in text[text.index('id="answers"') : text.index('id="board"')]  # it has no mean away
    if kind == "unknown":
        assert "Refused: " in text and "synth-a.csv has 1 videos that are not in synth-a (first: nobody/000)" in text
        assert table.loc["Their tool", "synth-a"] == "refused"
    else:
        given = scores_of_a_tool(kind).groupby("video")[["label", "score"]].mean()
        assert begins(table.loc["Their tool", "synth-a"], roc_auc_score(given["label"], given["score"]))
        assert "<td>Their tool</td><td" in board


def test_a_tool_with_the_name_of_our_line_is_refused_and_takes_no_row(home):
    run = make_run(home, "xception", 0, "stolen")
    scores.pack("stolen", [Line("Baseline", "xception", "", "", (run,))])
    file = scores.report_folder("stolen") / "other" / "baseline" / "synth-a.csv"
    file.parent.mkdir(parents=True)
    scores_of_a_tool("videos").to_csv(file, index=False)
    with pytest.raises(DfnbError, match="other/baseline has the name of our line Baseline; rename the folder"):
        page.rebuild("stolen")
    file.parent.rename(file.parent.with_name("their baseline"))
    assert page.rebuild("stolen").exists()


def test_the_page_folds_all_that_the_report_holds_into_sections(home):
    path = page.rebuild("hand")
    text = html.unescape(path.read_text(encoding="utf-8"))
    for folder in ("tables", "figures"):
        for caption in (path.parent / folder).glob("*.txt"):
            assert text.count(f'id="{folder}-{caption.stem}"') == 1, caption.stem
    for title in ("Which detector generalises best?", "Leaderboard: video AUC", "Claims of the papers"):
        assert title in text
    ranked = page.ranked(tables.Book("hand"), "away")
    assert f"{ranked[0]['line']} has the highest mean video AUC" in text and tables.cell(ranked[0]) in text
    board = text[text.index('id="board"') :]
    for row in ranked:
        bold = " best" if row["tied"] else ""
        assert f'<td class="number{bold}" data-value="{row["value"]}">{tables.cell(row)}</td>' in board


def test_a_report_without_results_away_says_so_on_its_page(home):
    run = make_run(home, "xception", 9, "alone")
    (run.folder / "scores" / "synth-b.parquet").unlink()
    scores.pack("alone", [Line("Baseline", "xception", "", "", (run,))])
    text = page.rebuild("alone").read_text(encoding="utf-8")
    assert text.count("This report holds nothing that answers it.") == 4 and "synth-a" in text


def test_two_reports_are_compared_line_by_line(home):
    same = compare.between(scores.Report("hand"), scores.Report("hand"))
    clean = same[same["condition"] == ""]
    assert set(clean["line"]) >= {"Baseline", "Locate and Verify"} and (clean["value"] == 0).all()
    stronger = make_run(home, "xception", 7, "stronger", strength=4.0)
    weaker = make_run(home, "xception", 7, "weaker", strength=0.5)
    scores.pack("after", [Line("Baseline", "xception", "", "", (stronger,))])
    scores.pack("before", [Line("Baseline", "xception", "", "", (weaker,))])
    scores.pack("named", [Line("Another name", "xception", "", "", (weaker,))])
    rows = compare.between(scores.Report("after"), scores.Report("before")).set_index("test_set")
    for test_set in SETS:
        gain = auc(home, stronger.id, test_set) - auc(home, weaker.id, test_set)
        assert rows.loc[test_set, "value"] == pytest.approx(gain, abs=1e-3) and rows.loc[test_set, "low"] > 0
    with pytest.raises(DfnbError, match="nowhere share no line, test set and seeds; dfnb run makes a report"):
        compare.between(scores.Report("after"), scores.Report("nowhere"))
    with pytest.raises(DfnbError, match="named share no line, test set and seeds"):
        compare.between(scores.Report("after"), scores.Report("named"))


def test_reports_on_different_data_are_refused(home):
    run = make_run(home, "xception", 8, "other")
    scores.pack("mine", [Line("Baseline", "xception", "", "", (run,))])
    dataset = {"parameters": {}, "fingerprint": "another", "compression": "JPEG 75"}
    for test_set in SETS:
        facts = train.score_facts(run.id, test_set, "", dataset, run.record["weights_sha256"])
        core.write_table(train.shard(run.folder, test_set, ""), made(test_set, 1, "x"), facts)
    scores.pack("theirs", [Line("Baseline", "xception", "", "", (run,))])
    with pytest.raises(DfnbError, match="saw different data as synth-a; score one again"):
        compare.between(scores.Report("mine"), scores.Report("theirs"))


HARD = pd.DataFrame(
    {"a_b": ["x|y", "50 % & #1 ~ <b> Δ−1 {z} \\"], "n": [1, None]}, index=pd.Index(["r", "s"], name="row")
)


def test_texts_are_escaped_for_each_format_but_csv(home):
    files = tables.save(HARD, "hand", "hard", "A caption_with 5 % & `code`.")
    csv, markdown, tex, caption = (path.read_text(encoding="utf-8") for path in files)
    assert pd.read_csv(files[0])["a_b"].tolist() == HARD["a_b"].tolist() and caption == "A caption_with 5 % & `code`.\n"
    assert r"x\|y" in markdown and markdown.endswith(f"\n\n{caption}")
    assert r"a\_b" in tex and r"50 \% \& \#1 \textasciitilde \space $<$b$>$ $\Delta$$-$1 \{z\} \textbackslash " in tex
    assert r"\caption{A caption\_with 5 \% \& \textasciigrave{}code\textasciigrave{}.}" in tex
    assert tex.count(r"\begin") == tex.count(r"\end") and "resizebox" in tex and "–" in csv
    assert r"\<b>" in markdown  # no tag, and numbers such as <.001 as they are
    table = pd.DataFrame({"x": ["=1+1", "<.001", "+.1 [-.2, +.3]"]})
    csv, markdown, tex, _ = (
        path.read_text(encoding="utf-8") for path in tables.save(table, "hand", "hard", r"\input{x} ~ ^")
    )
    assert "'=1+1" in csv and ",<.001" in csv and "+.1 [" in csv and "'+" not in csv and "| <.001" in markdown
    assert r"\caption{\textbackslash{}input\{x\} \textasciitilde{} \textasciicircum{}}" in tex


def test_what_deviates_from_the_published_settings(home):
    table = tables.deviations(Run.open(home / "runs" / "xception--s0"))
    assert table.loc["backbone", "published"] == "legacy_xception.tf_in1k" and "epochs" not in table.index
    assert table.loc["initial weights", "this run"] == "random weights"
