"""Tables and figures: from score files alone, the same bytes twice, nothing a number must carry left out."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from dfnb import attribution, core, figures, metrics, train
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import locate_and_verify, xception

TESTS = ["smoke-a", "smoke-b"]


@pytest.fixture(scope="module")
def trained(smoke_home):
    """Two tiny runs of each paper's kind, with the scores of every epoch."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DFNB_HOME", str(smoke_home))
    small = {
        "backbone": "dfnb_plain7",
        "pretrained": False,
        "image_size": 96,
        "epochs": 2,
        "batch_size": 16,
        "lr": 2e-3,
    }
    narrow = {"mpff_width": 8, "fusion_width": 16, "fusion_out": 16, "augmentation": "light"}
    runs = [
        train.train("xception", "smoke-a", xception.Settings(**small), 11, epoch_tests=TESTS),
        train.train(
            "locate_and_verify", "smoke-a", locate_and_verify.Settings(**small, **narrow), 11, epoch_tests=TESTS
        ),
    ]
    figures.style()
    yield runs
    patch.undo()


def test_the_main_table_says_what_the_score_files_say(trained):
    table = figures.cross_dataset(trained, TESTS)
    assert list(table.columns) == [*TESTS, "seeds", "left chance"] and list(table.index) == [
        "Baseline (dfnb_plain7)",
        "Locate and Verify (dfnb_plain7)",
    ]
    scores = metrics.read_scores(train.score(trained[1], "smoke-b"))
    row = metrics.auc(scores)
    assert (
        table.loc["Locate and Verify (dfnb_plain7)", "smoke-b"]
        == f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    )


def test_differences_are_paired_and_against_the_first_paper(trained):
    table = figures.differences(trained, TESTS)
    assert list(table.index) == [("Locate and Verify (dfnb_plain7)", name) for name in TESTS]
    aucs = [metrics.auc(metrics.read_scores(train.score(one, "smoke-a")))["value"] for one in trained]
    assert table["Δ video AUC"].iloc[0] == f"{aucs[1] - aucs[0]:+.3f}"


def test_selection_on_the_test_set_never_looks_worse(trained):
    table = figures.selection(trained, TESTS)
    assert len(table) == 4
    assert (table["gain"].str.split().str[0].astype(float) >= -1e-4).all()
    for (_, test_set), line in table.iterrows():
        path = trained[0].folder.parent
        epochs = [
            metrics.auc(metrics.read_scores(file))["value"]
            for one in trained
            for file in sorted((path / one.folder.name / "epochs").glob(f"*/{test_set}.parquet"))
        ]
        assert float(line["chosen on test"].split()[0]) in np.round(epochs, 3)


@pytest.fixture(scope="module")
def arms(trained):
    """Exposing the Deception with two seeds, and without LIL with one."""
    small = {name: trained[0].record["parameters"]["settings"][name] for name in ("image_size", "epochs", "batch_size")}
    small |= {"backbone": "dfnb_plain7", "pretrained": False, "lr": 2e-3, "augmentation": "light"}
    small |= {"branches": 2, "fusion_widths": (8, 8, 8), "channel_order": "corrected"}
    paper = "exposing_the_deception"
    whole, without = etd.Settings(**small), etd.Settings(**small, information_losses=("gil",))
    return {
        "main": [train.train(paper, "smoke-a", whole, seed, epoch_tests=TESTS) for seed in (11, 12)],
        "without": [train.train(paper, "smoke-a", without, 12, epoch_tests=TESTS)],
    }


def auc_of(one, test_set):
    return metrics.auc(metrics.read_scores(train.score(one, test_set)))["value"]


def test_an_arm_is_compared_with_the_same_seeds_of_the_first_one(arms):
    table = figures.differences(arms, TESTS)
    assert list(table.index) == [("without", name) for name in TESTS]
    expected = auc_of(arms["without"][0], "smoke-a") - auc_of(arms["main"][1], "smoke-a")
    assert table["Δ video AUC"].iloc[0] == f"{expected:+.3f}"
    assert list(table["seeds"]) == ["1 (exploratory)"] * 2
    best = [figures.chosen_on_test(arms[name][-1], "smoke-a") for name in ("without", "main")]
    values = [metrics.auc(scores)["value"] for _, scores in best]
    assert table["Δ, chosen on test"].iloc[0] == f"{values[0] - values[1]:+.3f}"


def test_a_line_is_the_mean_over_its_seeds(arms):
    table = figures.cross_dataset(arms, TESTS)
    values = [auc_of(one, "smoke-b") for one in arms["main"]]
    assert table.loc["main", "smoke-b"].startswith(f"{np.mean(values):.3f} [")
    assert table.loc["main", "smoke-b"].endswith(f"sd {np.std(values, ddof=1):.3f}")
    assert "sd" not in table.loc["without", "smoke-b"]


def test_without_arms_there_is_no_difference_and_no_error(arms):
    assert figures.differences({"main": arms["main"]}, TESTS).empty
    assert list(figures.cross_dataset({"main": arms["main"]}, TESTS).index) == ["main"]


def test_publish_keeps_all_scores_and_the_weights_of_the_first_seed(arms, home):
    figures.publish(arms["main"][::-1], arms["without"], "unit")
    folders = {path.name: path for path in (figures.folder("unit") / "runs").iterdir()}
    assert set(folders) == {one.folder.name for group in arms.values() for one in group}
    assert [name for name in folders if (folders[name] / "best.safetensors").exists()] == [arms["main"][0].folder.name]
    assert all((folder / "scores" / "smoke-b.parquet").exists() for folder in folders.values())


def test_without_epoch_scores_the_selection_table_is_empty(trained, home):
    plain = train.train(
        "xception",
        "smoke-a",
        xception.Settings.check({**trained[0].record["parameters"]["settings"], "epochs": 1}, ""),
        12,
    )
    assert figures.selection([plain], TESTS).empty


def test_localisation_is_of_the_papers_that_localise(trained):
    table = figures.located(trained, TESTS)
    assert {index[0] for index in table.index} == {"Locate and Verify (dfnb_plain7)"}
    scores = metrics.read_scores(train.score(trained[1], "smoke-b"))
    assert table["IoU"].iloc[1].startswith(f"{scores['iou'].mean():.3f} [")
    assert list(table.columns) == list(metrics.LOCALISATION.values())


def test_every_caption_carries_what_a_number_needs(trained):
    text = figures.conditions(trained, TESTS, "smoke")
    for part in (
        "seeds: 11",
        "95 %",
        "12 real + 12 fake videos",
        "validation split of smoke-a",
        "random weights",
        "dfnb run smoke",
    ):
        assert part in text
    record = train.load_frames("smoke-b").attrs["record"]
    assert record["fingerprint"][:8] in text and record["compression"] in text
    everything = figures.results(trained, TESTS)
    carried = {"paper", "seed", "low", "high", "n", "fingerprint", "compression", "rule", "weights_from", "clusters"}
    assert carried <= set(everything.columns) and not everything[["n", "rule", "fingerprint"]].isna().any().any()


def test_tables_come_in_three_formats_and_the_same_bytes_twice(trained):
    table = figures.cross_dataset(trained, TESTS)
    first = {p: p.read_bytes() for p in figures.save_table(table, "unit", "main", "100 % of a & b_c #1")}
    second = {p: p.read_bytes() for p in figures.save_table(table, "unit", "main", "100 % of a & b_c #1")}
    assert first == second and {p.suffix for p in first} == {".csv", ".md", ".tex", ".txt"}
    latex = next(text.decode() for path, text in first.items() if path.suffix == ".tex")
    assert r"\toprule" in latex and r"100 \% of a \& b\_c \#1" in latex
    csv = next(path for path in first if path.suffix == ".csv")
    assert pd.read_csv(csv, index_col=0).to_numpy().tolist() == table.to_numpy().tolist()


@pytest.mark.parametrize("draw", ["forest", "roc", "curves", "panel", "branches", "samples", "masks"])
def test_figures_have_the_same_bytes_twice(trained, arms, draw):
    make = {
        "forest": lambda: figures.forest(trained, TESTS),
        "roc": lambda: figures.roc(trained, TESTS),
        "curves": lambda: figures.training_curves(trained),
        "branches": lambda: attribution.figure(arms["main"][0], figures.panel_frames("smoke-b"), ["branch 1", "union"]),
        "panel": lambda: figures.located_panel(trained[1], figures.panel_frames("smoke-b")),
        "samples": lambda: figures.sample_grid("smoke-a"),
        "masks": lambda: figures.mean_masks("smoke-a"),
    }[draw]
    digests = []
    for _ in range(2):
        paths = figures.save_figure(make(), "unit", draw, "a caption")
        plt.close("all")
        digests.append([core.sha256(path) for path in paths])
    assert digests[0] == digests[1]


def test_panels_follow_a_rule(home):
    frames = figures.panel_frames("smoke-a")
    assert list(frames["method"]) == ["mouth", "resynthesis", "swap", "warp", "real"]
    assert frames["split"].eq("test").all() and frames["video"].is_unique


def test_the_page_names_only_what_exists(trained):
    figures.save_table(figures.cross_dataset(trained, TESTS), "unit", "cross_dataset", "caption <&>")
    page = figures.index("unit", "title", "about", ["cross_dataset", "never_made"], ["01_data"]).read_text()
    assert "caption &lt;&amp;&gt;" in page and "never_made" not in page and "notebooks/01_data.ipynb" in page


def test_published_runs_can_be_opened_without_training(trained, home, monkeypatch, tmp_path):
    figures.publish(trained, [], "unit")
    folder = figures.folder("unit") / "runs" / trained[1].folder.name
    assert not (folder / "last.ckpt").exists()
    opened = train.Run.open(folder)
    assert opened.network().training is False and len(opened.log) == 2
    for level in ("frame", "video"):  # only the best epochs on a test set are kept, which is all that the rule needs
        kept, whole = (figures.chosen_on_test(one, "smoke-b", level) for one in (opened, trained[1]))
        assert kept[0] == whole[0] and kept[1].equals(whole[1])


def test_a_report_that_was_not_made_says_how(home):
    with pytest.raises(core.DfnbError, match="run the profile first: dfnb run nothing"):
        figures.main_table("nothing")


def test_lines_are_runs_that_differ_in_their_seed_alone(trained, home):
    settings = xception.Settings.check({**trained[0].record["parameters"]["settings"], "epochs": 1}, "")
    more = [train.train("xception", "smoke-a", settings, seed) for seed in (12, 13)]
    named = figures.lines([trained[0], *more])
    assert sorted(len(group) for group in named.values()) == [1, 2]
    assert all(name.startswith("Baseline (dfnb_plain7), smoke-a, settings ") for name in named)
    table = figures.cross_dataset([trained[0], *more], ["smoke-b"])
    assert sorted("sd" in cell for cell in table["smoke-b"]) == [False, True]
    for run in more:  # of two phases: each seed starts from a run of its own
        run.record["parameters"]["start"] = {"run": run.folder.name}
    assert sorted(len(group) for group in figures.lines([trained[0], *more]).values()) == [1, 2]
