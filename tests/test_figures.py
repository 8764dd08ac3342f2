"""Figures: of results made by hand, and of frames of a small dataset with untrained networks."""

import networks
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from dfnb import figures, papers, pictures
from dfnb.data.frames import load_frames
from dfnb.data.loading import as_batch
from dfnb.papers.contract import outputs_of
from dfnb.runs import Run
from dfnb.store import Detector, StoredRun


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
    return pd.DataFrame(rows).assign(minus="", level="video", metric="AUC")


def detectors(names, ablation=""):
    """Detectors of one paper; the first is the main one."""
    run = StoredRun("run", {"detector": {"colour": "#0072b2", "marker": "o"}})
    made = [Detector(names[0], "paper", ablation, "main" if ablation else "", (run,))]
    for name in names[1:]:
        made.append(Detector(name, "paper", ablation, name if ablation else "", (run,)))
    return made


def test_legends_names_and_labels_are_inside():
    names = [f"Locate and Verify, annotation: {k} %, eyes" for k in range(12)]
    for shown in (["A"], names, ["x" * 110, "y"]):
        figure = figures.forest(results(shown), "test_set", figures.looks(detectors(shown)))
        assert [text.get_text() for text in figure.legends[0].get_texts()] == shown
        figure.canvas.draw()
        axes = figure.axes[0]
        for part in (*figure.legends, axes.xaxis.label, *axes.get_yticklabels()):
            box = part.get_window_extent()
            canvas = figure.bbox.padded(1)
            assert canvas.contains(box.x0, box.y0) and canvas.contains(box.x1, box.y1)


def test_main_detectors_have_the_look_of_their_paper_and_others_differ():
    tool = Detector("tool", "", "", "", ())
    main = detectors(["Baseline", "ResNet"])
    looks = figures.looks([*main, tool, *detectors(["main", "0 %"], "annotation")])
    own = {"color": "#0072b2", "marker": "o"}
    assert looks["Baseline"] == own
    others = [tuple(looks[name].values()) for name in ("ResNet", "tool", "main", "0 %")]
    assert len(set(others)) == 4 and tuple(own.values()) not in others


def test_values_and_seeds_are_drawn_where_they_are():
    rows = results(["A", "B"]).iloc[:3]
    axes = figures.forest(rows, "test_set", figures.looks(detectors(["A", "B"]))).axes[0]
    points = np.concatenate([container[0].get_xdata() for container in axes.containers])
    assert points == pytest.approx(rows["value"])
    seeds = [line.get_xdata() for line in axes.lines if line.get_marker() == "."]
    np.testing.assert_allclose(seeds, [[value - 0.01, value + 0.01] for value in rows["value"]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlim()[0] < 0.25


def test_a_saved_figure_is_small_and_has_the_same_bytes_and_its_caption():
    saved = []
    for _ in range(2):
        figure, axes = plt.subplots(figsize=(figures.WIDTH, 2))
        axes.plot([1, 2])
        paths = figures.save(figure, "unit", "a", "What it <shows>.")
        saved.append([path.read_bytes() for path in paths])
    assert saved[0] == saved[1] and saved[0][2] == b"What it <shows>.\n"
    assert [path.name for path in paths] == ["a.png", "a.pdf", "a.txt"]
    picture = Image.open(paths[0])
    assert picture.mode == "P"
    shown = figures.shown(paths)
    assert shown.alt == "What it <shows>." and shown.data == saved[1][0]


def run_of(paper, run_id="first", start=None):
    """A run with a log and without weights."""
    log = [{"epoch": k, "loss_cls": 1 / k, "validation_auc": 0.5 + k / 10} for k in (1, 2, 3)]
    settings = networks.recipe(paper).model_dump(mode="json")
    record = {
        "parameters": {"paper": paper, "seed": 0, "settings": settings},
        "detector": {"title": "A title"},
        "start": start,
        "log": log,
        "chosen": {"epoch": 2, "auc": 0.7},
    }
    return Run(run_id, record)


def test_a_second_phase_goes_on_where_the_first_one_ended():
    runs = [run_of("xception"), run_of("xception", "second", start="first")]
    figure = figures.training_curves(runs)
    curves = [line.get_xdata().tolist() for line in figure.axes[1].lines]
    assert curves == [[1, 2, 3, 4, 5, 6], [2], [5]]
    assert figure.legends[0].get_texts()[0].get_text() == "loss_cls"


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
    grid = pictures.sample_grid("smoke-a", columns=3)
    assert len(grid.axes) == 3 * methods and grid.axes[0].get_ylabel() == "real"
