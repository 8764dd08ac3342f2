"""The store: made once, made again for other weights or data, packed into a report that stands by itself."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from records import SAID
from safetensors.torch import save_file
from scipy.special import logit

from dfnb import core, metrics, scores, train
from dfnb.core import DfnbError
from dfnb.data.frames import as_batch, load_frames, mean_mask, select
from dfnb.papers import locate_and_verify, xception
from dfnb.scores import Line, Report

SMALL = {"backbone": "dfnb_plain7", "pretrained": False, "image_size": 64, "batch_size": 16}


@pytest.fixture
def fresh(home, tmp_path, monkeypatch):
    """A home of its own with the smoke datasets, copied where a test changes them."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "datasets").symlink_to(home / "datasets")
    return tmp_path


def untrained(seed=0, paper=xception, **settings):
    """A run with random weights, as training would leave it."""
    recipe = paper.Settings(**SMALL, **settings)
    name = paper.__name__.rpartition(".")[2]
    folder = core.home() / "runs" / f"{name}-smoke-a-s{seed}-untrained"
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    save_file(paper.Network(recipe).state_dict(), folder / "best.safetensors")
    parameters = {
        "paper": name,
        "train_set": "smoke-a",
        "seed": seed,
        "seen_methods": None,
        "settings": recipe.model_dump(mode="json"),
    }
    facts = SAID | {"weights_sha256": core.sha256(folder / "best.safetensors")}
    core.write_record(folder, parameters, ["best.safetensors"], **facts)
    return train.Run.open(folder)


def read(run, test_set):
    return core.read_table(train.shard(run.folder, test_set))


def line(*runs, name="Baseline", paper="xception", group="", arm=""):
    return Line(name, paper, group, arm, runs)


def conditions(report, line, test_set):
    return {table.attrs["condition"] for table in report.tables(line, test_set)}


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.suffix}


def test_scores_are_made_once_and_again_for_other_weights_or_data(fresh, home, monkeypatch):
    run = untrained(paper=locate_and_verify, mpff_width=8, fusion_width=16, fusion_out=16)
    constant = mean_mask(select(load_frames("smoke-a"), "train"))
    calls = []
    monkeypatch.setattr(scores, "predict", lambda *given: calls.append(1) or train.predict(*given))
    table = scores.score(run, "smoke-a")
    fake = table["label"] == 1
    assert table["iou"][fake].notna().all() and table["iou"][~fake].isna().all() and len(calls) == 1
    frames = select(load_frames("smoke-a"), "test")
    shown = as_batch(frames, run.settings)["mask"][:, 0].numpy() > 0.5
    for row in np.flatnonzero(fake)[::20]:
        measured = table.filter(like="constant ").iloc[row]
        expected = metrics.localisation(constant, shown[row])
        assert measured.tolist() == [round(expected[name], scores.DIGITS) for name in metrics.LOCALISATION]
    assert table.filter(like="constant ")[~fake].isna().all(axis=None)
    assert (table.attrs["threshold"], table.attrs["threshold_clusters"]) == (0.75, 9)
    pd.testing.assert_frame_equal(scores.score(run, "smoke-a"), table)
    pd.testing.assert_frame_equal(read(run, "smoke-a"), table)
    assert len(calls) == 1 and table.attrs["weights"] == run.record["weights_sha256"]
    (fresh / "datasets").unlink()
    shutil.copytree(home / "datasets", fresh / "datasets")
    record = core.read_json(fresh / "datasets/smoke-a/record.json")
    core.write_json(fresh / "datasets/smoke-a/record.json", {**record, "fingerprint": "rounded otherwise"})
    assert scores.score(run, "smoke-a").attrs == table.attrs and len(calls) == 1
    drawn_otherwise = {**record["parameters"], "frames": 7}
    core.write_json(fresh / "datasets/smoke-a/record.json", {**record, "parameters": drawn_otherwise})
    assert scores.score(run, "smoke-a").attrs["fingerprint"] != table.attrs["fingerprint"] and len(calls) == 2
    with pytest.raises(DfnbError, match="is not what the record"):
        scores.score(train.Run(run.folder, {**run.record, "weights_sha256": "of another training"}), "smoke-a")
    with pytest.raises(DfnbError, match=r"there is no .*smoke-b.parquet"):
        read(run, "smoke-b")


def test_scores_under_corruption(fresh, monkeypatch):
    run = untrained()
    monkeypatch.setattr(scores, "LOGIT", 1e-6)  # an untrained network hardly tells two pictures apart
    clean, mild, strong = scores.score(run, "smoke-a"), *(scores.score(run, "smoke-a", "JPEG", k) for k in (1, 5))
    assert list(strong) == list(metrics.COLUMNS) and len(strong) == len(clean) and strong.attrs["condition"] == "JPEG 5"
    distance = [np.abs(table["score"] - clean["score"]).mean() for table in (mild, strong)]
    assert 0 < distance[0] < distance[1]
    assert (run.folder / "scores" / "smoke-a@jpeg-5.parquet").exists()
    with pytest.raises(DfnbError, match="there is no corruption fog 1"):
        scores.score(run, "smoke-a", "fog", 1)


def test_a_prediction_is_that_of_the_network_for_each_frame(fresh):
    run = untrained()
    frames = select(load_frames("smoke-a"), "test")
    table = train.predict(run.network(), frames, run.settings)
    turned = train.predict(run.network(), frames.iloc[::-1], run.settings)
    np.testing.assert_allclose(table["score"], turned["score"].iloc[::-1], atol=1e-6)
    kept = logit(scores.score(run, "smoke-a")["score"])
    np.testing.assert_allclose(kept, kept.div(scores.LOGIT).round() * scores.LOGIT, atol=1e-6)
    np.testing.assert_allclose(kept, logit(table["score"]), atol=scores.LOGIT / 2 + 1e-6)
    assert table["video"].tolist() == frames["video"].tolist() and table["score"].nunique() > len(table) / 2


def test_a_report_stands_by_itself(fresh):
    runs = [untrained(seed) for seed in (3, 1)]
    for run in runs:
        scores.score(run, "smoke-a")
        scores.score(run, "smoke-a", "JPEG", 5)
    scores.score(runs[0], "smoke-b")
    measured = read(runs[0], "smoke-a").assign(seen=True, **{"deletion 10": 0.25})
    scores.keep(runs[0], "smoke-a", "map Grad-CAM", {"frames": 12}, lambda: measured)
    expected = {run.parameters["seed"]: read(run, "smoke-a") for run in runs}
    weights = runs[1].network().state_dict()
    scores.pack("demo", [line(*runs), line(runs[0], name="Baseline, dose: 3 %", group="dose", arm="3 %")])
    (fresh / "datasets").unlink()
    shutil.rmtree(fresh / "runs")
    report = Report("demo")
    main, arm = report.lines()
    assert (main.name, main.group, [run.parameters["seed"] for run in main.runs]) == ("Baseline", "", [1, 3])
    assert (arm.group, arm.arm) == ("dose", "3 %") and main.runs[0].log["loss_total"].tolist() == [0.7]
    assert report.test_sets(main) == ["smoke-a", "smoke-b"]
    assert conditions(report, main, "smoke-b") == {""}
    assert conditions(report, main, "smoke-a") == {"", "JPEG 5", "map Grad-CAM"}
    tables = report.read(main, "smoke-a")
    assert [table.attrs["seed"] for table in tables] == [1, 3]
    for table in tables:
        kept = expected[table.attrs["seed"]].astype(dict.fromkeys(["video", "cluster", "method"], str))
        same = table[list(kept)].astype(dict.fromkeys(["video", "cluster", "method"], str))
        pd.testing.assert_frame_equal(same, kept, check_exact=True, check_dtype=False)
        assert table.attrs["fingerprint"] and table.attrs["condition"] == ""
    (map_table,) = report.read(main, "smoke-a", "map Grad-CAM")
    assert map_table.attrs["frames"] == 12 and set(map_table["deletion 10"]) == {0.25} and "seen" in map_table
    (of_arm,) = report.read(arm, "smoke-a", "map Grad-CAM")
    assert set(map_table) - set(of_arm) == {"deletion 10"}  # of an arm no points of curves are kept
    assert all(torch.equal(value, weights[name]) for name, value in report.network(main).state_dict().items())
    for test_set, condition in (("smoke-a", "JPEG 4"), ("synth-z", "")):
        with pytest.raises(DfnbError, match=f"{test_set}") as error:
            report.read(main, test_set, condition)
        assert "\n" not in str(error.value)


def test_a_report_keeps_localisation_per_video_and_maps_per_frame(fresh):
    run = untrained()
    table = scores.score(run, "smoke-a")
    values = np.random.default_rng(0).random(len(table)).round(scores.DIGITS)
    table["iou"] = np.where(table["label"] == 1, values, np.nan)
    core.write_table(train.shard(run.folder, "smoke-a", ""), table, table.attrs)
    scores.keep(run, "smoke-a", "map Grad-CAM", {}, lambda: table)
    scores.pack("demo", [line(run)])
    report = Report("demo")
    (packed,), (of_map,) = (report.read(report.lines()[0], "smoke-a", each) for each in ("", "map Grad-CAM"))
    assert packed["score"].tolist() == pytest.approx(table["score"].tolist(), abs=1e-7)
    for _, video in packed.assign(frames=table["iou"].to_numpy()).groupby("video"):
        if video["label"].iloc[0]:
            assert video["iou"].iloc[0] == pytest.approx(
                video["frames"].mean(), abs=0.5 * 10**-scores.PACKED_DIGITS + 1e-6
            )
        assert video["iou"].iloc[1:].isna().all()
    np.testing.assert_allclose(of_map["iou"], table["iou"].round(scores.PACKED_DIGITS), atol=1e-6)
    again = packed.drop(columns=scores.KEYS)
    pd.testing.assert_frame_equal(scores._per_video(again.copy()), again)  # packed twice is packed once


def test_packing_adds_replaces_and_prunes(fresh):
    first, second = untrained(0), untrained(1)
    scores.score(first, "smoke-a")
    folder = scores.report_folder("demo")
    scores.pack("demo", [line(first)])
    before = files(folder)
    scores.pack("demo", [line(first)])
    assert files(folder) == before and len(before) == 3
    scores.score(second, "smoke-a")
    scores.score(second, "smoke-b")
    scores.pack("demo", [line(second, name="other")])
    assert [each.name for each in Report("demo").lines()] == ["Baseline", "other"]
    scores.pack("demo", [line(first, second)])
    report = Report("demo")
    (both,) = (each for each in report.lines() if each.name == "Baseline")
    assert len(report.read(both, "smoke-a")) == 2 and len(list(folder.glob("weights/*"))) == 2
    scores.pack("demo", [line(first)], prune=True)
    assert files(folder) == before
    table = core.read_table(first.folder / "scores/smoke-a.parquet")
    core.write_table(first.folder / "scores/smoke-b.parquet", table, {**table.attrs, "weights": "of a training before"})
    scores.pack("demo", [line(first)])
    assert files(folder) == before


def test_lines_stand_in_the_order_in_which_they_are_given_whichever_ended_first(fresh):
    first, second = untrained(0), untrained(1)
    for run in (first, second):
        scores.score(run, "smoke-a")
    scores.pack("demo", [line(second, name="other")])
    scores.pack("demo", [line(first), line(second, name="other")])
    assert [each.name for each in Report("demo").lines()] == ["Baseline", "other"]


def test_the_arms_of_a_group_share_a_file_and_one_that_is_gone_leaves_it(fresh):
    runs = [untrained(seed) for seed in range(3)]
    for run in runs:
        scores.score(run, "smoke-a")
    arms = [line(run, name=f"dose: {arm}", group="dose", arm=arm) for run, arm in zip(runs, ("3 %", "0 %"))]
    scores.pack("demo", [line(runs[2]), *arms])
    folder = scores.report_folder("demo")
    assert {path.name for path in folder.glob("scores/*")} == {
        "baseline@smoke-a.parquet",
        "xception-dose@smoke-a.parquet",
    }
    report = Report("demo")
    for each in report.lines():
        (table,) = report.read(each, "smoke-a")
        pd.testing.assert_series_equal(table["score"], read(each.runs[0], "smoke-a")["score"], rtol=1e-6)
        assert {*table["line"]} == {each.name}
    scores.pack("demo", arms[:1])
    again = Report("demo")
    assert [each.name for each in again.lines()] == ["Baseline", "dose: 3 %"]
    for each in again.lines():
        assert again.read(each, "smoke-a")[0].equals(report.read(each, "smoke-a")[0])


def test_what_did_not_change_is_not_packed_again(fresh, monkeypatch):
    run, read = untrained(), []
    scores.score(run, "smoke-a")
    scores.score(run, "smoke-b")
    scores.pack("demo", [line(run)])
    before = files(scores.report_folder("demo"))
    read_table = core.read_table
    monkeypatch.setattr(core, "read_table", lambda path: read.append(path.name) or read_table(path))
    scores.pack("demo", [line(run)], prune=True)
    assert not read
    altered = scores.report_folder("demo") / "scores" / "baseline@smoke-a.parquet"
    altered.write_bytes(altered.read_bytes()[:-1] + b"\0")
    scores.pack("demo", [line(run)])
    assert read == ["smoke-a.parquet"] and files(scores.report_folder("demo")) == before


def test_altered_scores_and_other_versions_are_refused(fresh):
    runs = [untrained(seed) for seed in range(3)]
    lines = [line(run, name=name) for run, name in zip(runs, "abc")]
    for run in runs:
        scores.score(run, "smoke-a")
    old = core.read_table(runs[2].folder / "scores/smoke-a.parquet")
    core.write_table(runs[2].folder / "scores/smoke-a.parquet", old, {**old.attrs, "fingerprint": "old"})
    scores.pack("demo", lines)
    path = scores.report_folder("demo") / "scores" / "b@smoke-a.parquet"
    core.write_bytes(path, path.read_bytes()[:-1] + b"\0")
    report = Report("demo")
    a, b, c = report.lines()
    assert len(report.read(a, "smoke-a")) == 1
    with pytest.raises(DfnbError, match=r"b@smoke-a.parquet is missing or is not the file that runs.json describes"):
        report.read(b, "smoke-a")
    with pytest.raises(DfnbError, match=r"scores of c on another version of smoke-a than most lines"):
        report.read(c, "smoke-a")
    core.write_table(path, pd.DataFrame({"of another": ["version"]}), {})
    entries = core.read_json(path.parent.parent / "runs.json")
    entries["b"]["files"] = {f"scores/{path.name}": core.sha256(path)}
    core.write_json(path.parent.parent / "runs.json", entries)
    with pytest.raises(
        DfnbError, match=r"b@smoke-a.parquet is not valid as a table of a report .*; pack the report again"
    ) as error:
        Report("demo").read(b, "smoke-a")
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(DfnbError, match=r"b@smoke-a.parquet is missing or is not the file"):
        Report("demo").read(b, "smoke-a")
    assert Report("nothing").lines() == []


def test_scores_of_other_tools(fresh):
    run = untrained()
    ours = scores.score(run, "smoke-a").astype({"video": str, "method": str, "cluster": str})
    scores.pack("demo", [line(run)])
    folder = scores.report_folder("demo") / "other" / "their tool"
    folder.mkdir(parents=True)
    path = folder / "smoke-a.csv"

    def table(content, suffix=".csv"):
        for old in folder.glob("*"):
            old.unlink()
        if suffix == ".csv":
            content.to_csv(path, index=False)
        else:
            content.to_parquet(path.with_suffix(suffix), index=False)
        report = Report("demo")
        tool = report.lines()[-1]
        assert (tool.name, tool.paper, tool.runs) == ("their tool", "", ()) and report.test_sets(tool) == ["smoke-a"]
        assert conditions(report, tool, "smoke-a") == {""}
        return report.read(tool, "smoke-a")[0]

    frames = ours[["video", "track", "frame", "label", "score"]]
    key = ["video", "track", "frame"]
    found = table(frames.iloc[::-1], ".parquet").astype({"cluster": str, "method": str})
    found = found.sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(found[list(ours)], ours.sort_values(key, ignore_index=True), check_dtype=False)
    assert found.attrs["seed"] is None
    videos = frames.groupby("video", as_index=False)[["label", "score"]].mean()
    assert (table(videos)["frame"] == -1).all()
    for wrong in (
        videos.iloc[1:],
        videos.assign(video=videos["video"].replace(videos["video"][0], "unknown")),
        videos.assign(label=1 - videos["label"]),
        videos.assign(score=videos["score"] * 100),
        videos.drop(columns="label"),
    ):
        with pytest.raises(
            DfnbError, match=r"smoke-a.csv (has|is not valid as a table of scores .* it needs columns)"
        ) as error:
            table(wrong)
        assert "\n" not in str(error.value)
