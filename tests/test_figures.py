"""Figures: of results made by hand, and of frames of a small dataset with untrained networks."""

import networks
import numpy as np
import pandas as pd
import planted
import pytest
from matplotlib import pyplot as plt

from dfnb import figures, papers, pictures
from dfnb.data.frames import load_frames
from dfnb.data.loading import as_batch
from dfnb.papers.contract import outputs_of
from dfnb.runs import Run


@pytest.fixture(autouse=True)
def styled(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    figures.style()
    yield
    plt.close("all")


def results(names):
    """Rows of the results on two test sets, one detector per name."""
    rows = []
    for number, name in enumerate(names):
        for test_set in ("a", "b"):
            value = 0.3 + 0.6 * number / len(names)
            by_seed = f"{value - 0.01:.4f}, {value + 0.01:.4f}"
            row = {"detector": name, "test_set": test_set, "value": value, "by_seed": by_seed}
            rows.append({**row, "low": value - 0.05, "high": value + 0.05})
    return pd.DataFrame(rows).assign(minus="", mean_over="", within=False, metric="AUC")


@pytest.mark.parametrize("count", [1, 12])
def test_names_and_labels_are_inside(count):
    names = [f"annotation: {k} %, eyes − Locate and Verify" for k in range(count)]
    figure = figures.forest(results(names), "test_set", "detector")
    figure.canvas.draw()
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == names
    for axes, test_set in zip(figure.axes, "ab"):
        assert axes.get_title() == test_set
        for part in (axes.title, *labels):
            box = part.get_window_extent()
            canvas = figure.bbox.padded(1)
            assert canvas.contains(box.x0, box.y0) and canvas.contains(box.x1, box.y1)


def test_values_intervals_and_seeds_are_drawn_where_they_are():
    rows = results(["A", "B"]).iloc[:3]
    axes = figures.forest(rows, "test_set", "detector").axes
    points, intervals, seeds = [], [], []
    for panel in axes:
        assert panel.get_ylim() == (1.5, -0.5)  # the first detector is above
        points += [*zip(panel.lines[0].get_ydata(), panel.lines[0].get_xdata())]
        strips = [part.get_offsets() for part in panel.collections[:-1] if len(part.get_offsets())]
        seeds += [place for strip in strips for place in strip.tolist()]
        for (low, place), (high, _) in panel.collections[-1].get_segments():
            intervals.append(("AB"[int(place)], low, high))
    by_panel = rows.sort_values("test_set", kind="stable")
    assert points == [*zip(by_panel["detector"], by_panel["value"])]
    assert intervals == [*zip(by_panel["detector"], by_panel["low"], by_panel["high"])]
    expected = []
    for row in by_panel.itertuples():
        expected += [[row.value + error, "AB".index(row.detector)] for error in (-0.01, 0.01)]
    np.testing.assert_allclose(seeds, expected)


def test_violins_have_a_panel_per_place_and_end_where_the_scores_do():
    rows = []
    for place, most in (("across", 0.9), ("within", 0.5)):
        for label in ("fake", "real"):
            for score in np.linspace(0.1, most, 9):
                row = {"place": place, "label": label, "score": score}
                rows += [{**row, "detector": name} for name in "AB"]
    figure = figures.violins(pd.DataFrame(rows))
    assert [axes.get_title() for axes in figure.axes] == ["within", "across"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["A", "B"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["real", "fake"]
    for axes, most in zip(figure.axes, (0.5, 0.9)):
        assert len(axes.collections) == 4  # two detectors, real and fake
        for part in axes.collections:
            scores = part.get_paths()[0].vertices[:, 0]
            assert (scores.min(), scores.max()) == (pytest.approx(0.1), pytest.approx(most))


def test_a_matrix_has_a_column_per_detector_and_its_values():
    rows = results(["A", "B"])
    axes = figures.heat_map(rows, "detector", "test_set").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["A", "B"]
    texts = [text.get_text() for text in axes.texts]
    assert texts == [f"{value:.3f}" for value in rows.sort_values("test_set")["value"]]


def test_a_saved_figure_has_the_same_bytes_and_its_caption():
    saved = []
    for _ in range(2):
        figure, axes = plt.subplots(figsize=(figures.WIDTH, 2))
        axes.plot([1, 2])
        paths = figures.save(figure, "unit", "a", "What it <shows>.")
        saved.append([path.read_bytes() for path in paths])
    assert saved[0] == saved[1] and saved[0][2] == b"What it <shows>.\n"
    assert [path.name for path in paths] == ["a.png", "a.pdf", "a.txt"]
    shown = figures.shown(paths)
    assert shown.alt == "What it <shows>." and shown.data == saved[1][0]


def run_of(paper, run_id="first", start=None):
    """A run with a log and without weights."""
    log = [{"epoch": k, "loss_cls": 1 / k, "validation_auc": 0.5 + k / 10} for k in (1, 2, 3)]
    settings = networks.recipe(paper).model_dump(mode="json")
    facts = {"start": start, "log": log, "chosen": {"epoch": 2, "auc": 0.7}}
    return Run(run_id, planted.record(paper, 0, {"settings": settings}, **facts))


def test_a_second_phase_goes_on_where_the_first_one_ended():
    runs = [run_of("xception"), run_of("xception", "second", start="first")]
    figure = figures.training_curves(runs)
    curves = [list(line.get_xdata()) for line in figure.axes[1].lines]
    assert curves == [[1, 2, 3, 4, 5, 6], [5, 5]]  # the second is the chosen epoch
    names = [axes.get_legend().get_texts()[0].get_text() for axes in figure.axes[:2]]
    assert names == ["loss_cls", "validation_auc"]


@pytest.mark.parametrize(
    ("paper", "rows"),
    [("xception", 1), ("locate_and_verify", 3)],  # SRM residual and located patches besides
)
def test_a_panel_shows_frames_the_networks_own_pictures_and_maps(home, monkeypatch, paper, rows):
    frames = pictures.panel_frames("smoke-a", columns=4)
    assert frames["method"].iloc[-1] == "real" and frames["video"].is_unique
    run = run_of(paper)
    network = papers.module(paper).Network(run.settings).eval()
    monkeypatch.setattr(Run, "network", lambda run: network)
    figure = pictures.frames_panel(run, frames, ["Integrated Gradients"])
    panels = figure.axes
    assert len(panels) == (rows + 1) * len(frames)
    assert panels[-len(frames)].get_ylabel() == "Integrated\nGradients"
    batch = as_batch(frames, run.settings)
    score = network.score(outputs_of(network, batch["image"]))[0]
    forged = (batch["mask"][0] > 0.5).float().mean()
    method = frames["method"].iloc[0]
    assert panels[0].get_title() == f"{method}\nP(fake) {score:.2f}\n{forged:.0%} forged"


def test_samples_have_one_row_per_method_real_first(home):
    methods = load_frames("smoke-a")["method"].nunique()
    grid = pictures.sample_grid("smoke-a")
    assert len(grid.axes) == 4 * methods and grid.axes[0].get_ylabel() == "real"
