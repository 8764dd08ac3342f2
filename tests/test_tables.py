"""The tables of a report from score files made by hand: no model, no dataset, known figures, bad files."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib import pyplot as plt
from safetensors.torch import save_file
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from dfnb import claims, core, corrupt, figures, metrics, papers, tables, train
from dfnb import jobs as run
from dfnb.core import DfnbError, rng
from dfnb.data.frames import FrameDataset, load_frames, select
from dfnb.papers import xception

SMALL = {"backbone": "dfnb_plain7", "pretrained": False, "image_size": 96, "epochs": 1, "mixup_probability": 0.0}
PROFILE = {
    "description": "Score files made by hand.",
    "grid": {"train_sets": ["synth-a"], "test_sets": ["synth-a", "synth-b"], "seeds": [0, 1]},
    "notebooks": {
        "02_xception_baseline": SMALL,
        "04_locate_and_verify": SMALL,
        "06_cross_dataset": None,
        "08_robustness": {"test_set": "synth-a", "corruptions": ["JPEG", "blur"], "severities": [1, 5]},
        "09_report": None,
    },
    "arms": {
        "02_xception_baseline": {
            "baselines": {"resnet": {"backbone": "test_resnet"}},
            "methods": {"swap": {"seen_methods": ["swap"]}, "warp": {"seen_methods": ["warp"]}},
        },
        "04_locate_and_verify": {"annotation": {"0 %": {"sspsl": True, "annotated": 0.0, "seeds": [0, 1]}}},
    },
}
PLAIN, LOCATING = "Baseline (dfnb_plain7)", "Locate and Verify (dfnb_plain7)"


def made(test_set, strength, key, clusters=40) -> pd.DataFrame:
    """Two frames a video, a real and a fake video a cluster (so each holds both classes), methods in turn."""
    shared = rng("videos", test_set)
    label, cluster = np.tile([0, 0, 1, 1], clusters), np.repeat(np.arange(clusters), 4)
    method = np.where(label == 0, "real", np.where(cluster % 2 == 0, "swap", "warp"))
    video = [f"{kind}/{of:03d}" for kind, of in zip(method, cluster)]
    noise = shared.normal(size=2 * clusters).repeat(2) + 0.4 * rng("seed", key).normal(size=4 * clusters)
    table = pd.DataFrame(
        {"video": video, "track": 0, "frame": np.tile([0, 5], 2 * clusters), "cluster": cluster.astype(str)}
    )
    return table.assign(label=label, method=method, score=expit(noise + strength * label - strength / 2))


def put(path, table, **facts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)
    facts = {"n": len(table), "fingerprint": f"data of {path.stem}", "sha256": core.sha256(path)} | facts
    core.write_json(path.with_suffix(".json"), {"test_set": path.stem} | facts)


def strength_of(p) -> float:
    strength = 3.0 if "sspsl" in type(p).model_fields else 1.5
    return strength / 2 if p.seen_methods or getattr(p, "sspsl", False) else strength


def write_runs(home, name) -> dict:
    """Runs of a profile as a report keeps them, by job; the epoch that is best on the test set stands out on purpose."""
    folders = {}
    for job in (job for job in run.jobs(name) if job.notebook in papers.NOTEBOOKS):
        p = job.checked()
        parameters = p.model_dump(mode="json") | {"paper": papers.NOTEBOOKS[job.notebook]}
        parameters["settings"] = p.settings().model_dump(mode="json")
        folder = home / "reports" / name / "runs" / job.id.replace("%", "percent")
        facts = {"rule": "highest frame AUC on the validation split", "weights_from": "random weights"}
        facts |= {"chosen": {"epoch": 1, "auc": 0.8}, "n": {"train": 100}, "images_per_s": 10.0, "training_s": 5.0}
        core.write_json(folder / "record.json", {"parameters": parameters, "outputs": {}, **facts})
        (folder / "log.csv").write_text("epoch\n1\n2\n")
        for test_set in p.test_sets:
            strength = strength_of(p) * (1 if test_set == p.test_sets[0] else 0.5)
            put(folder / "scores" / f"{test_set}.parquet", made(test_set, strength, f"{job.id} {test_set}"))
            epoch = made(test_set, strength + 0.5, f"{job.id} {test_set}")
            metrics.write_scores(folder / "epochs" / "002" / f"{test_set}.parquet", epoch)
        folders[job.id] = folder
    return folders


@pytest.fixture
def hand(tmp_path, monkeypatch):
    """A home with a report of hand-made score files; whatever would read a model or a dataset fails."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "hand.yaml").write_text(yaml.safe_dump(PROFILE, sort_keys=False))
    for module, name in ((figures, "load_frames"), (train, "load_frames"), (xception, "Network"), (figures, "score")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("a report needs score files alone"))
    return write_runs(tmp_path, "hand")


def book():
    return tables.Book("hand", tables.published("hand"))


def video_auc(folder, test_set) -> float:
    """The AUC by scikit-learn from the file itself."""
    scores = pd.read_parquet(folder / "scores" / f"{test_set}.parquet").groupby("video")[["label", "score"]].mean()
    return roc_auc_score(scores["label"], scores["score"])


def test_a_report_is_made_again_from_score_files_alone_with_the_same_bytes(hand, tmp_path):
    for each in ("JPEG", "blur"):
        for folder in hand.values():
            path = folder / "scores" / f"synth-a@{each.lower()}.parquet"
            parts = [
                made("synth-a", 1.0 / severity, f"{folder.name}{each}").assign(severity=severity) for severity in (1, 5)
            ]
            put(path, pd.concat(parts))
    figures.folder("hand")
    digests = []
    for _ in range(2):
        page = tables.rebuild("hand")
        files = sorted(path for path in page.parent.rglob("*") if path.is_file() and "runs" not in path.parts)
        digests.append({path.name: core.sha256(path) for path in files})
    assert digests[0] == digests[1]
    made_now = {path.stem for path in (page.parent / "tables").glob("*.csv")}
    expected = (
        "cross_dataset cross_dataset_frame differences ranks within_dataset cross_manipulation metrics metrics_of_runs "
    )
    expected += "selection power robustness claims overview lv_annotation lv_annotation_differences"
    assert made_now == set(expected.split())
    assert {path.stem for path in (page.parent / "figures").glob("*.png")} == {"cross_dataset", "roc", "robustness"}
    captions = [path.read_text() for path in (page.parent / "tables").glob("*.txt")]
    for part in (
        "seeds: 0",
        "40 real + 40 fake videos in 40 clusters",
        "data of",
        "validation split",
        "`dfnb run hand`",
    ):
        assert all(part in text for text in captions), part
    assert all(
        f"tables/{name}.csv" in page.read_text() for name in made_now - {"metrics_of_runs", "cross_dataset_frame"}
    )


def test_tables_recomputed_from_the_files(hand):
    table = book().table("cross_dataset")
    assert list(table.index) == [PLAIN, "Baseline (test_resnet)", LOCATING]
    folders = [hand["02_xception_baseline-synth-a-s0"], hand["02_xception_baseline-synth-a-s1"]]
    aucs = [video_auc(folder, "synth-b") for folder in folders]
    assert table.loc[PLAIN, "synth-b"].startswith(f"{np.mean(aucs):.3f} [")
    assert table.loc[PLAIN, "synth-b"].endswith(f"sd {np.std(aucs, ddof=1):.3f}")
    single = video_auc(hand["02_xception_baseline-synth-a-baselines-resnet-s0"], "synth-b")
    assert table.loc["Baseline (test_resnet)", "synth-b"].startswith(f"{single:.3f} [")
    annotation = book().table("lv_annotation")
    assert list(annotation.index) == ["main", "0 %"] and annotation.loc["0 %", "seeds"] == 2


def test_every_pair_is_compared_by_the_seeds_they_share_and_corrected_for_their_number(hand):
    table = book().table("differences")
    assert table.index.nlevels == 3 and len(table) == 3 * 2
    row = table.loc[LOCATING, "Baseline (test_resnet)", "synth-b"]
    of = [
        video_auc(hand[f"{name}-s0"], "synth-b")
        for name in ("04_locate_and_verify-synth-a", "02_xception_baseline-synth-a-baselines-resnet")
    ]
    assert row["Δ video AUC"] == f"{of[0] - of[1]:+.3f}" and row["seeds"] == "1 (exploratory)"
    p = table["p"].str.removeprefix("< ").astype(float)
    corrected = table["p, Holm"].str.removeprefix("< ").astype(float)
    assert (corrected >= p).all() and (corrected > p).any()
    assert figures.verdicts(table).count("\n") == 2


def test_ranks_by_hand(hand):
    table = book().table("ranks")
    first = table.loc["synth-a"]
    assert first["line"].iloc[0] == LOCATING and list(first.index) == [1, 2, 3]
    swap = first["swaps with next, other videos (%)"]
    pair = [[figures.read(trained, "synth-a") for trained in book().lines[name]] for name in first["line"][:2]]
    d = metrics.paired_difference(*pair)
    z = d["value"] / ((d["high"] - d["low"]) / 2 / norm.ppf(0.975))
    assert swap[1] == f"{100 * norm.sf(z):.1f}" and swap[3] == "–"
    wider = table.set_index("line", append=True)["wider"]
    assert set(wider.xs("Baseline (test_resnet)", level="line")) == {"–"}
    assert set(wider.xs(PLAIN, level="line")) <= {"videos", "seeds"}


def test_trained_on_one_method_tested_on_each(hand):
    table = book().table("cross_manipulation")
    assert list(table.loc["Baseline", "trained on"]) == ["all", "swap", "warp"]
    scores = pd.read_parquet(hand["02_xception_baseline-synth-a-methods-swap-s0"] / "scores" / "synth-a.parquet")
    own = scores[scores["method"] != "swap"].groupby("video")[["label", "score"]].mean()
    cell = table.loc[("Baseline", "swap"), "warp"]
    assert cell.startswith(f"{roc_auc_score(own['label'], own['score']):.3f} [")
    assert list(book().table("within_dataset").columns) == ["trained on", "swap", "warp", "all"]


def test_the_rule_of_the_published_codes_stands_beside_ours(hand):
    table = book().table("selection").loc[PLAIN, "synth-a"]
    assert table["that epoch"] == "2, 2" and float(table["gain"].split()[0]) > 0


def test_runs_that_were_not_trained_are_a_visible_hole(hand):
    import shutil

    shutil.rmtree(hand["04_locate_and_verify-synth-a-s1"])
    table = book().table("cross_dataset")
    assert list(table.loc[LOCATING, ["synth-a", "synth-b"]]) == [figures.REFUSED] * 2
    assert "0.8" in table.loc[PLAIN, "synth-a"] or "0.9" in table.loc[PLAIN, "synth-a"]
    text = (figures.folder("hand") / "tables" / "cross_dataset.txt").read_text()
    assert "is not there; train and score the run" in text
    shutil.rmtree(figures.folder("hand") / "runs")
    with pytest.raises(DfnbError, match="holds no runs; run the profile first: dfnb run hand"):
        book()


BAD = {
    "missing video": (lambda x: x[x.video != "real/000"], {}, "158 frames .* not 160 .* as most others"),
    "one class": (lambda x: x[x.label == 0], {}, "only real frames"),
    "NaN": (lambda x: x.assign(score=x.score.where(x.index != 3)), {}, "a score that is NaN"),
    "labels turned": (lambda x: x.assign(label=1 - x.label), {}, "contradicts the method"),
    "frames twice": (lambda x: pd.concat([x, x]), {}, "was there before"),
    "other version": (lambda x: x, {"fingerprint": "another"}, "of version another of synth-b, not"),
    "altered": (lambda x: x, {"sha256": "0"}, "not the file that its record describes"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_score_file_is_a_hole_and_the_rest_of_the_tables_is_built(hand, what):
    change, facts, message = BAD[what]
    before = book().table("cross_dataset")
    path = hand["04_locate_and_verify-synth-a-s1"] / "scores" / "synth-b.parquet"
    put(path, change(pd.read_parquet(path)), **{"fingerprint": "data of synth-b"} | facts)
    after = book()
    table = after.table("cross_dataset")
    assert table.loc[LOCATING, "synth-b"] == figures.REFUSED
    assert table.drop(columns="synth-b").equals(before.drop(columns="synth-b"))
    assert table.drop(index=LOCATING).equals(before.drop(index=LOCATING))
    text = (figures.folder("hand") / "tables" / "cross_dataset.txt").read_text()
    assert re.search(
        f"Refused: reports/hand/runs/04_locate_and_verify-synth-a-s1/scores/synth-b.parquet .*{message}", text
    )
    pairs = after.table("differences")["Δ video AUC"]
    assert list(pairs.xs("synth-b", level="test set") == figures.REFUSED) == [
        False,
        True,
        False,
    ]  # the last shares the sound seed
    assert (pairs.xs("synth-a", level="test set") != figures.REFUSED).all()
    for name in ("ranks", "claims", "selection", *["metrics", "power"] * (what == "NaN")):
        assert len(after.table(name))
    after.figure("cross_dataset"), after.figure("roc")
    plt.close("all")


def other(hand, kind=".csv", change=lambda x: x, frames=False):
    """A file of another tool for synth-a: the baseline's own scores."""
    scores = pd.read_parquet(hand["02_xception_baseline-synth-a-s0"] / "scores" / "synth-a.parquet")
    columns = ["video", "label", "score"] + ["frame"] * frames
    table = change(scores[columns] if frames else scores.groupby("video", as_index=False)[columns[1:]].mean())
    path = figures.folder("hand") / "other" / "sometool" / f"synth-a{kind}"
    path.parent.mkdir(parents=True)
    table.to_csv(path, index=False) if kind == ".csv" else table.to_parquet(path)
    return path


@pytest.mark.parametrize(("kind", "frames"), [(".csv", False), (".parquet", True)])
def test_scores_of_another_tool_are_a_line_of_the_same_tables(hand, kind, frames):
    other(hand, kind, frames=frames)
    table = book().table("cross_dataset")
    expected = video_auc(hand["02_xception_baseline-synth-a-s0"], "synth-a")
    assert table.loc["sometool", "synth-a"].startswith(f"{expected:.3f} [")
    assert table.loc["sometool", "synth-b"] == figures.REFUSED  # it has none
    frame = book().table("cross_dataset_frame").loc["sometool", "synth-a"]
    assert (frame == figures.REFUSED) is not frames
    difference = book().table("differences").loc["sometool", PLAIN, "synth-a"]
    both = np.mean([video_auc(hand[f"02_xception_baseline-synth-a-s{seed}"], "synth-a") for seed in (0, 1)])
    assert difference["Δ video AUC"] == f"{expected - both:+.3f}"
    assert "sometool from elsewhere" in (figures.folder("hand") / "tables" / "cross_dataset.txt").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[1:], r"do not have the same videos, 1 differ \(first: real/000\)"),
        (lambda x: x.assign(video=x.video.str.upper()), "do not have the same videos"),
        (lambda x: x[x.label == 1], "do not have the same videos, 40 differ"),
        (
            lambda x: x.assign(label=1 - x.label),
            "has 80 labels that are not the test set's, where 0 is real and 1 fake",
        ),
        (lambda x: x.assign(label=np.where(x.label == 1, "fake", "real")), "cannot be read .*label .0 real, 1 fake"),
        (lambda x: x.assign(score=x.score.where(x.index != 3)), "a score that is NaN or outside"),
        (lambda x: x.assign(score=20 * x.score - 10), "a score that is NaN or outside"),
        (lambda x: pd.concat([x, x]), "was there before"),
        (lambda x: x.drop(columns="score"), "cannot be read .*score"),
        (lambda x: x.assign(fingerprint="of old"), "is of another version than data of synth-a"),
    ],
)
def test_a_bad_file_of_another_tool_is_refused_in_one_sentence(hand, change, message):
    path = other(hand, change=change)
    table = book().table("cross_dataset")
    assert table.loc["sometool", "synth-a"] == figures.REFUSED and figures.REFUSED not in table.loc[PLAIN].tolist()
    with pytest.raises(DfnbError, match=message) as error:
        figures.read(book().lines["sometool"][0], "synth-a")
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def write_claims(tmp_path, *entries) -> None:
    base = {"id": "x", "paper": "locate_and_verify", "says": "It is good.", "source": "abstract", "metric": "AUC"}
    listed = [
        {**base, "says": f"Claim {i}.", "sets": ["home"], "partly": 0.5, **entry} for i, entry in enumerate(entries)
    ]
    (tmp_path / "data_manifest").mkdir(exist_ok=True)
    (tmp_path / "data_manifest" / "claims.yaml").write_text(yaml.safe_dump({"datasets": {}, "claims": listed}))


def test_verdicts_follow_from_the_rule_and_both_ends_of_the_interval(hand, tmp_path):
    found = book()
    auc = metrics.auc([figures.read(trained, "synth-a") for trained in found.lines[LOCATING]])
    write_claims(
        tmp_path,
        {"reproduced": 0.6},
        {"reproduced": 1.1, "partly": 0.6},
        {"reproduced": 1.2, "partly": 1.1},
        {"reproduced": auc["value"] + 0.004, "published": 0.9},
        {"reproduced": 0.6, "sets": ["celeb-df-v2"], "published": 0.86},
        {"reproduced": 0.0, "line": "annotation/0 %", "against": "main", "partly": -0.01},
        {"reproduced": 0.6, "line": "annotation/7 %", "against": "main"},
        {"reproduced": 0.6, "paper": "lae"},
        {"reproduced": 0.02, "partly": 0.0, "against": "xception", "sets": ["away"], "metric": "accuracy"},
        {"reproduced": 0.6, "metric": "energy"},
        {"reproduced": 0.6, "metric": "robustness"},
        {
            "reproduced": 0.6,
            "metric": "balanced accuracy",
            "level": "frame",
            "line": "xception:methods/swap",
            "method": "warp",
        },
    )
    table = claims.judged(found).reset_index(level=["paper", "on"])
    verdict = table["verdict"].tolist()
    assert verdict[:3] == ["reproduced", "partly", "not reproduced"]
    assert verdict[3] == "undecided at this n (partly to reproduced)"
    assert verdict[4] == "not testable without celeb-df-v2" and table["ours"].iloc[4] == "–"
    assert verdict[5] == "not reproduced"
    assert verdict[6] == "not testable here: no line annotation/7 %" and verdict[7] == "not testable here: no line lae"
    assert table["on"].iloc[8] == "synth-b" and verdict[8] != "–"
    assert "has no energy" in verdict[9] and "run notebook 08 again" in verdict[10]
    scores = pd.read_parquet(hand["02_xception_baseline-synth-a-methods-swap-s0"] / "scores" / "synth-a.parquet")
    right = (scores["score"] > 0.5) == (scores["label"] == 1)
    balanced = (right[scores["label"] == 0].mean() + right[scores["method"] == "warp"].mean()) / 2
    assert table["ours"].iloc[11].startswith(f"{balanced:.3f} [")
    value, low, high = map(float, re.findall(r"-?\d\.\d+", table["ours"].iloc[3]))
    shift = table["ours − published"].iloc[3]
    np.testing.assert_allclose(
        [float(x) for x in re.findall(r"-?\d\.\d+", shift)], np.array([value, low, high]) - 0.9, atol=2e-3
    )
    assert low < auc["low"] and high > auc["high"]  # two seeds widen it
    assert table["videos to decide"].iloc[3] == "more seeds"


def test_the_n_that_decides_is_the_n_at_which_the_interval_fits(hand, tmp_path):
    limit = metrics.auc(figures.read(book().lines["Baseline (test_resnet)"][0], "synth-a"))
    one = {"paper": "xception", "reproduced": limit["value"] - 0.01}
    write_claims(tmp_path, one)
    found = book()
    found.lines = {"Baseline (test_resnet)": found.lines["Baseline (test_resnet)"]}  # one seed: videos alone
    row = claims.judged(found).iloc[0]
    assert row["verdict"] == "undecided at this n (partly to reproduced)" and row["videos"] == "80"
    half = (limit["high"] - limit["low"]) / 2
    assert half * np.sqrt(80 / float(row["videos to decide"])) == pytest.approx(0.01, rel=0.02)


def test_the_claims_that_are_committed_are_read_and_name_published_figures(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    datasets, listed = claims.manifest()
    assert {claim["paper"] for claim in listed} >= {"lae", "locate_and_verify", "exposing_the_deception"}
    assert (
        len({claim["id"] for claim in listed})
        == len({(claim["paper"], claim["says"]) for claim in listed})
        == len(listed)
    )
    known = pd.read_csv(checkout / "data_manifest" / "published.csv")
    for claim in (claim for claim in listed if claim["published"] is not None):
        names = [name for each in claim["sets"] for name in datasets[each]]
        same = known[known["test_set"].isin(names) & (known["level(frame/video/image)"] == claim["level"])]
        assert claim["published"] in same["value"].tolist(), claim["id"]


def test_every_arm_that_a_claim_names_is_in_the_study(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    arms = run.profile("study")["arms"]
    for claim in claims.manifest()[1]:
        for name in (name for name in (claim["line"], claim["against"]) if name and "/" in name):
            paper, _, arm = name.rpartition(":")
            group, arm = arm.split("/", 1)
            assert arm in {"main", *arms[papers.PAPERS[paper or claim["paper"]].notebook][group]}, claim["id"]


@pytest.mark.parametrize("entry", [{"reproduced": 0.6, "lines": "main"}, {"reproduced": 0.5}])
def test_a_mistyped_claim_is_named(tmp_path, monkeypatch, entry):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    write_claims(tmp_path, entry)
    with pytest.raises(DfnbError, match=r"claims.yaml: claim x must have partly below reproduced and the fields"):
        claims.manifest()


def test_published_and_ours_stand_side_by_side_for_real_datasets_only(hand, tmp_path):
    assert book().table("published_and_ours").empty
    assert not (figures.folder("hand") / "tables" / "published_and_ours.csv").exists()
    real = {**PROFILE, "arms": {"02_xception_baseline": {"baselines": {"resnet": {"backbone": "resnet50"}}}}}
    real["grid"] = {
        "train_sets": ["faceforensics-c23"],
        "test_sets": ["faceforensics-c23", "celeb-df-v1"],
        "seeds": [0],
    }
    real["notebooks"] = {"02_xception_baseline": {"backbone": "legacy_xception"}, "06_cross_dataset": None}
    (tmp_path / "notebooks" / "profiles" / "real.yaml").write_text(yaml.safe_dump(real, sort_keys=False))
    folder = write_runs(tmp_path, "real")["02_xception_baseline-faceforensics-c23-s0"]
    table = tables.Book("real", tables.published("real")).table("published_and_ours")
    row = table.loc["Baseline (legacy_xception)", "celeb-df-v1", "frame"]
    scores = pd.read_parquet(folder / "scores" / "celeb-df-v1.parquet")
    auc = roc_auc_score(scores["label"], scores["score"])
    assert row["published"] == "0.779" and row["ours, source validation"].startswith(f"{auc:.3f} [")
    assert row["Δ"].startswith(f"{auc - 0.7794:.3f} [") and "8a4a7bf" in row["source"]
    assert float(row["ours, chosen on test"].split()[0]) > auc
    unknown = table.loc["Baseline (legacy_xception)", "celeb-df-v1", "video"]
    assert (unknown["published"], unknown["Δ"]) == ("not known", "–") and "[" in unknown["ours, source validation"]
    assert set(table.loc["Baseline (resnet50)", "published"]) == {"not known"}  # the figure is Xception's


def test_tables_are_readable_in_every_format(hand):
    paired = book().table("differences")
    stem = figures.folder("hand") / "tables" / "differences"
    lines = stem.with_suffix(".md").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:4]] == ["line", "minus", "test set"]
    assert "('" not in lines[2] and f" {paired['Δ video AUC'].iloc[0]} " in lines[2]
    latex = stem.with_suffix(".tex").read_text()
    assert latex.isascii() or set(re.findall(r"[^\x00-\x7f]", latex)) <= {"–"}
    assert r"\multirow" not in latex and latex.count(r"\resizebox") == latex.count(r"\end{tabular}}") == 1
    assert r"$\Delta$ video AUC" in latex and r"\toprule" in latex and "5 % " not in latex


# ------------------------------------------------------------------------------------------------------- robustness


@pytest.fixture
def pictures(home):
    return select(load_frames("smoke-a"), "test")


@pytest.fixture
def untrained(home):
    """A run of the baseline with random weights, as training would leave it."""
    settings = xception.Settings(**SMALL, batch_size=16)
    torch.manual_seed(0)
    folder = home / "runs" / "xception-smoke-a-untrained"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(xception.Network(settings).state_dict(), folder / "best.safetensors")
    parameters = {"paper": "xception", "train_set": "smoke-a", "seed": 0, "settings": settings.model_dump(mode="json")}
    core.write_record(folder, parameters, ["best.safetensors"], rule="none", weights_from="random weights", chosen={})
    return train.Run.open(folder)


@pytest.mark.parametrize("name", corrupt.CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_is_the_same_each_time(pictures, name):
    row = pictures.iloc[3]
    plain = corrupt.Pixels(pictures.attrs["folder"]).crop(row["path"], row["row"])
    lost = []
    for severity in range(1, 6):
        crops = [corrupt.Corrupted(pictures, name, severity).crop(row["path"], row["row"]) for _ in range(2)]
        assert np.array_equal(*crops) and crops[0].dtype == np.uint8
        back = torch.from_numpy(crops[0]).permute(2, 0, 1)
        back = corrupt.TF.resize(back, list(plain.shape[:2])).permute(1, 2, 0).numpy()
        lost.append(np.abs(back.astype(float) - plain).mean())
    assert lost[0] > 0 and lost[4] > 1.5 * lost[0]
    if name != "occlusion":  # the block moves
        assert lost == sorted(lost)


def test_h264_is_a_video_codec_and_takes_odd_sides():
    clip = torch.from_numpy(rng(0).integers(0, 255, (3, 3, 31, 45), dtype=np.uint8))
    apply = corrupt.CORRUPTIONS["H.264"][2]
    assert apply(clip, 23, rng(0)).shape == clip.shape
    assert not torch.equal(apply(clip, 43, rng(0))[1], apply(clip[1:2], 43, rng(0))[0])  # it depends on its neighbours
    assert (apply(clip, 43, rng(0)).float() - clip).abs().mean() > (apply(clip, 23, rng(0)).float() - clip).abs().mean()


def test_masks_follow_what_becomes_of_the_picture(pictures):
    fakes = pictures[pictures["label"] == 1]
    plain = FrameDataset(fakes, 96, (0.5,) * 3, (0.5,) * 3)
    for name, check in {"resize": "same place", "occlusion": "less", "blur": "same"}.items():
        data = FrameDataset(fakes, 96, (0.5,) * 3, (0.5,) * 3)
        data.pixels = corrupt.Corrupted(fakes, name, 5)
        masks = torch.stack([torch.stack([of[(0, i, i)]["mask"] for of in (plain, data)]) for i in range(len(fakes))])
        before, after = masks.bool().unbind(1)
        if check == "same":
            assert torch.equal(before, after)
        elif check == "less":
            images = torch.stack([data[(0, i, i)]["image"] for i in range(len(fakes))])
            hidden = ((images * 0.5 + 0.5) * 255).round().eq(128).all(1, keepdim=True)
            assert (after & ~before).sum() == 0 and after.sum() < before.sum() and not (after & hidden).any()
        else:  # 15 % of the side: coarse, but where it was
            assert (before & after).sum() / (before | after).sum() > 0.5
            moved = np.roll(after.numpy(), 14, axis=-1)  # two of the fourteen pixels: a mask of another place
            assert (before.numpy() & moved).sum() / (before.numpy() | moved).sum() < 0.4
    frame = corrupt.Corrupted(fakes, "resize", 5).crop(fakes["path"].iloc[0], 0)
    assert frame.shape == (14, 14, 3)


def test_a_scoring_pass_is_made_once_and_belongs_to_its_weights(untrained, pictures, monkeypatch):
    path = corrupt.score(untrained, "smoke-a", "JPEG", [1, 5])
    scores = pd.read_parquet(path)
    assert list(scores["severity"].unique()) == [1, 5] and len(scores) == 2 * len(pictures)
    clean = train.predict(untrained.network(), pictures, untrained.settings)
    assert not np.allclose(scores[scores["severity"] == 5]["score"], clean["score"])
    facts = core.read_json(path.with_suffix(".json"))
    assert facts["values"] == [80, 10] and facts["weights"] == untrained.record["outputs"]["best.safetensors"]
    calls = []
    monkeypatch.setattr(corrupt, "predict", lambda *given: calls.append(1) or train.predict(*given))
    corrupt.score(untrained, "smoke-a", "JPEG", [1, 5])
    assert not calls
    corrupt.score(untrained, "smoke-a", "JPEG", [5])
    assert len(calls) == 1


def test_the_area_is_the_mean_over_severities_and_paired(hand):
    folders = [hand[f"{name}-synth-a-s0"] for name in ("02_xception_baseline", "04_locate_and_verify")]
    for folder, strength in zip(folders, (1.0, 2.0)):
        for name in ("jpeg", "blur"):
            parts = [made("synth-a", strength / k, f"{folder.name}{name}").assign(severity=k) for k in (1, 5)]
            put(folder / "scores" / f"synth-a@{name}.parquet", pd.concat(parts))
    table = book().table("robustness")
    files = [pd.read_parquet(folder / "scores" / "synth-a@jpeg.parquet") for folder in folders]
    areas = []
    for folder, file in zip(folders, files):
        parts = [part.groupby("video")[["label", "score"]].mean() for _, part in file.groupby("severity")]
        areas.append(np.mean([video_auc(folder, "synth-a"), *(roc_auc_score(x["label"], x["score"]) for x in parts)]))
    assert table.loc[("JPEG", PLAIN), "area (mean AUC)"].startswith(f"{areas[0]:.3f} [")
    assert table.loc[("JPEG", LOCATING), "Δ area"].startswith(f"{areas[1] - areas[0]:+.3f} [")
    assert "Baseline (test_resnet)" not in table.index.get_level_values("line")  # nothing was scored for it
    path = folders[1] / "scores" / "synth-a@blur.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert LOCATING not in book().table("robustness").index.get_level_values("line")


# -------------------------------------------------------------------------------------------------- a further model


def test_a_further_model_from_timm_is_one_line_in_a_profile(home, monkeypatch):
    small = {**SMALL, "images_per_epoch": 32, "batch_size": 16, "lr": 0.002, "augmentation": "none"}
    content = {
        "description": "One line more.",
        "grid": {"train_sets": ["smoke-a"], "test_sets": ["smoke-a", "smoke-b"], "seeds": [0]},
        "notebooks": {"02_xception_baseline": small, "06_cross_dataset": None},
        "arms": {"02_xception_baseline": {"baselines": {"mine": {"backbone": "test_vit", "image_size": 160}}}},
    }
    (home / "notebooks" / "profiles").mkdir(parents=True, exist_ok=True)
    (home / "notebooks" / "profiles" / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    table = tables.Book("mine").table("cross_dataset")
    assert list(table.index) == ["Baseline (dfnb_plain7)", "Baseline (test_vit)"] and (table["seeds"] == 1).all()
    assert table[["smoke-a", "smoke-b"]].map(lambda cell: "[" in cell).all(axis=None)
