"""Figures: of results made by hand, and of frames of the smallest datasets with untrained networks."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from dfnb import core, figures, papers
from dfnb.data.frames import as_batch
from dfnb.train import Run

SMALL = {"backbone": "dfnb_plain7", "pretrained": False, "image_size": 96}
NARROW = {"mpff_width": 8, "fusion_width": 16, "fusion_out": 16}


@pytest.fixture(autouse=True)
def styled():
    figures.style()
    yield
    plt.close("all")


def results(names, paper="xception", group="", **columns) -> pd.DataFrame:
    """Rows of the results on two test sets, one line per name."""
    rows = [{"line": name, "test_set": test_set} for name in names for test_set in ("home", "away")]
    table = pd.DataFrame(rows).assign(
        paper=paper, group=group, arm="", level="video", metric="AUC", condition="", method="all", mean_over=""
    )
    value = np.linspace(0.6, 0.9, len(table))
    by_seed = [f"{each - 0.01:.4f}, {each + 0.01:.4f}" for each in value]
    return table.assign(value=value, low=value - 0.05, high=value + 0.05, by_seed=by_seed, seeds=2).assign(**columns)


def everything_is_inside(figure) -> bool:
    """Whether legends, titles and labels lie within the canvas."""
    figure.canvas.draw()
    parts = [
        *figure.legends,
        *(text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)),
    ]
    boxes = [part.get_window_extent() for part in parts]
    canvas = figure.bbox.padded(1)
    return all(canvas.contains(box.x0, box.y0) and canvas.contains(box.x1, box.y1) for box in boxes if box.width)


@pytest.mark.parametrize(
    "names", [["A"], [f"Locate and Verify, annotation: {k} %, eyes" for k in range(12)], ["x" * 110, "y"]]
)
def test_legends_are_not_cut(names):
    rows = results(names)
    figure = figures.forest(rows, figures.looks(rows), None)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names and everything_is_inside(figure)


def test_a_detector_has_its_own_colour_and_marker_everywhere():
    main = pd.concat(
        [results(["Baseline", "ResNet"]), results(["Locate and Verify"], "locate_and_verify"), results(["tool"], "")]
    )
    arms = results(["main", "0 %"], "locate_and_verify", "annotation", arm=["main", "main", "0 %", "0 %"])
    look = figures.looks(pd.concat([main, arms]))
    for line, paper in {
        "Baseline": "xception",
        "Locate and Verify": "locate_and_verify",
        "main": "locate_and_verify",
    }.items():
        own = papers.module(paper).PAPER
        assert look[line] == {"color": own.colour, "marker": own.marker}
    further = [tuple(look[line].values()) for line in ("ResNet", "tool")]
    taken = {papers.module(name).PAPER.colour for name in papers.names()}
    assert len(set(further)) == 2 and not taken & {colour for colour, _ in further} and len(look) == 6


def test_a_strip_shows_lines_or_one_difference_with_its_seeds():
    rows = results(["A", "B"]).query("test_set == 'away'").assign(minus="")
    axes = figures.strip(rows, figures.looks(rows)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B"]
    assert len([line for line in axes.lines if line.get_marker() == "."]) == 2
    one = rows.head(1).assign(minus="B", value=0.1, low=0.0, high=0.2)
    difference = figures.strip(one, figures.looks(rows)).axes[0]
    assert difference.get_yticklabels()[0].get_text() == "A\n− B"
    assert any(line.get_linestyle() == ":" and set(line.get_xdata()) == {0} for line in difference.lines)


def test_a_saved_figure_is_sharp_and_small(home):
    figure = figures.sample_grid("smoke-a")
    paths = figures.save(figure, "hand", "sharp", "A caption.")
    picture = Image.open(paths[0])
    assert picture.mode == "P" and abs(picture.info["dpi"][0] - 200) < 1 and picture.width > 6 * 200
    shown = figures.described(paths)
    assert Image.open(io.BytesIO(shown.data)).width == pytest.approx(picture.width * figures.SCREEN, abs=1)


def test_values_and_intervals_are_drawn_where_they_are():
    rows = results(["A", "B"]).assign(value=[0.3, 0.8, np.nan, 0.7])
    rows = rows.assign(low=rows["value"] - [0.05, 0.1, 0, 0.1], high=rows["value"] + [0.05, 0.1, 0, 0.1])
    axes = figures.forest(rows.dropna(), figures.looks(rows), None).axes[0]
    seeds = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "."]
    assert sorted(seeds) == sorted([[float(x) for x in text.split(", ")] for text in rows.dropna()["by_seed"]])
    points = {text.get_label(): text[0].get_xdata().tolist() for text in axes.containers}
    assert sorted(x for values in points.values() for x in values) == [0.3, 0.7, 0.8]
    assert axes.get_xlim()[0] < 0.25 and [label.get_text() for label in axes.get_yticklabels()] == ["home", "away"]


def test_robustness_starts_without_corruption_and_leaves_out_who_was_not_corrupted():
    severe = [results(["A"], condition=f"{name} {k}", value=0.9 - k / 10) for name in ("JPEG", "blur") for k in (5, 1)]
    rows = pd.concat([results(["A", "B"]), *severe])
    rows = rows[rows["test_set"] == "home"]
    figure = figures.robustness_curves(rows, figures.looks(rows), None)
    assert [axes.get_title() for axes in figure.axes] == ["JPEG", "blur"] and everything_is_inside(figure)
    for axes in figure.axes:
        [line] = axes.lines
        np.testing.assert_allclose(line.get_xydata(), [[0, 0.6], [1, 0.8], [5, 0.4]])
    assert figures.robustness_curves(results(["A"]), figures.looks(rows), None) is None


def test_deletion_curves_tell_the_controls_apart():
    kinds = [
        (f"map {name}", f"{kind} {k}")
        for name in ("Grad-CAM", "edges", "random")
        for kind in ("deletion", "insertion")
        for k in (0, 50, 100)
    ]
    rows = pd.concat([results(["A", "B"], condition=condition, metric=metric) for condition, metric in kinds])
    figure = figures.deletion_curves(rows, figures.looks(rows), None)
    assert [axes.get_title() for axes in figure.axes] == ["A, deletion", "A, insertion", "B, deletion", "B, insertion"]
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == 3 and all(len(line.get_xdata()) == 3 for line in figure.axes[0].lines)
    assert everything_is_inside(figure)


def untrained(paper, seed=0, start=None, **settings) -> Run:
    """A run of a paper with a log but no weights."""
    settings = papers.module(paper).Settings(**SMALL, **settings).model_dump(mode="json")
    log = [{"epoch": k, "loss_cls": 1 / k, "loss_total": 2 / k, "validation_auc": 0.5 + k / 10} for k in (1, 2, 3)]
    parameters = {"paper": paper, "seed": seed, "settings": settings}
    record = {"parameters": parameters, "start": start, "log": log, "chosen": {"epoch": 2, "auc": 0.7}}
    return Run(core.home() / "runs" / f"{paper}-{seed}", record)


def test_a_second_phase_goes_on_where_the_first_one_ended():
    first, second = untrained("xception"), untrained("xception", seed=1, start="xception-0")
    figure = figures.training_curves([first, second])
    curves = [line.get_xdata().tolist() for line in figure.axes[1].lines]
    assert curves == [[1, 2, 3], [2], [4, 5, 6], [5]] and everything_is_inside(figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["cls", "total", "Baseline, seed 0", "Baseline, seed 1, second phase"]


@pytest.mark.parametrize(
    ("paper", "settings", "rows"),
    [("xception", {}, 1), ("locate_and_verify", NARROW, 3)],  # the frame; SRM residual and located patches besides
)
def test_a_panel_shows_frames_the_networks_own_pictures_and_maps(home, paper, settings, rows):
    run, frames = untrained(paper, **settings), figures.panel_frames("smoke-a", columns=4)
    network = papers.module(paper).Network(run.settings).eval()
    given = {"a map": np.ones((len(frames), 12, 12), np.float32)}
    figure = figures.frames_panel(run, frames, given, network)
    panels = [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]
    assert len(panels) == (rows + 1) * len(frames)
    assert panels[-len(frames)].get_ylabel() == "a\nmap" and len(figure.axes) == len(panels) + 1
    outputs = papers.outputs_of(network, as_batch(frames, run.settings)["image"])
    masks = as_batch(frames, run.settings)["mask"].numpy() > 0.5
    for axes, method, p, mask in zip(panels, frames["method"], network.score(outputs).numpy(), masks):
        forged = "" if method == "real" else f"\n{mask.mean():.0%} forged"
        assert axes.get_title() == f"{method}\nP(fake) {p:.2f}{forged}"


def test_frames_of_a_panel_follow_a_rule(home):
    frames = figures.panel_frames("smoke-a")
    assert frames["method"].iloc[-1] == "real" and frames["video"].is_unique and (frames["split"] == "test").all()
    assert len(figures.panel_frames("smoke-a", columns=1)) == frames["method"].nunique()


def test_samples_have_one_row_per_method(home):
    methods = set(figures.load_frames("smoke-a")["method"])
    grid = figures.sample_grid("smoke-a", columns=3)
    assert len(grid.axes) == 3 * len(methods) and grid.axes[0].get_ylabel() == "real"


def test_a_saved_figure_has_the_same_bytes_and_its_caption_as_text(home):
    def drawn():
        figure, axes = plt.subplots()
        axes.plot([1, 2])
        return figures.save(figure, "unit", "a", "What it <shows>.")

    first = [path.read_bytes() for path in drawn()]
    paths = drawn()
    assert [path.read_bytes() for path in paths] == first
    assert [path.name for path in paths] == ["a.png", "a.pdf", "a.txt"] and first[2] == b"What it <shows>.\n"
    assert figures.described(paths).alt == "What it <shows>."
