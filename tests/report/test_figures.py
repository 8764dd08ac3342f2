"""Figures show the numbers that they are given, and are saved with the same bytes."""

from pathlib import Path

import numpy as np
import pandas as pd
import planted
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from sklearn.metrics import roc_auc_score

from dfnb.report import figures
from dfnb.store.runs import StoredRun


@pytest.fixture(autouse=True)
def styled(empty_home):
    figures.style()
    yield
    plt.close("all")


def numbers(names, minus=""):
    """Numbers of these detectors in two places."""
    rows = []
    for count, name in enumerate(names):
        for place in ("within", "across"):
            value = 0.3 + 0.6 * count / len(names)
            row = {"detector": name, "place": place, "value": value}
            rows.append({**row, "low": value - 0.05, "high": value + 0.05})
    return pd.DataFrame(rows).assign(minus=minus, metric="AUC")


@pytest.mark.parametrize("count", [1, 12])
def test_names_and_labels_are_inside(count):
    names = [f"annotation: {k} %, eyes − Locate and Verify" for k in range(count)]
    figure = figures.forest(numbers(names))
    figure.canvas.draw()
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == names
    for axes, place in zip(figure.axes, ["within", "across"]):
        assert axes.get_title() == place
        for part in (axes.title, *labels):
            box = part.get_window_extent()
            canvas = figure.bbox.padded(1)
            assert canvas.contains(box.x0, box.y0) and canvas.contains(box.x1, box.y1)


def test_values_intervals_and_seeds_are_drawn_where_they_are():
    rows = numbers("AB").iloc[:3]
    by_seed = pd.concat([rows.assign(value=rows["value"] + error) for error in (-0.01, 0.01)])
    figure = figures.forest(rows, by_seed)
    assert figure.get_supxlabel() == "AUC"
    for panel, of_place in zip(figure.axes, ("within", "across")):
        expected = rows[rows["place"] == of_place]
        heights = ["AB".index(name) for name in expected["detector"]]
        assert panel.get_ylim() == (1.5, -0.5)  # the first detector is above
        dots, points = panel.lines
        assert [*points.get_ydata()] == heights and [*points.get_xdata()] == [*expected["value"]]
        assert [*dots.get_ydata()] == [height + 0.25 for height in 2 * heights]
        np.testing.assert_allclose(
            sorted(dots.get_xdata()),
            sorted([*(expected["value"] - 0.01), *(expected["value"] + 0.01)]),
        )
        ends = [segment[:, 0].tolist() for segment in panel.collections[-1].get_segments()]
        assert ends == expected[["low", "high"]].to_numpy().tolist()


def test_differences_have_a_line_at_zero_and_a_band_of_what_is_immaterial():
    figure = figures.forest(numbers("AB", minus="C"), material=0.02)
    for axes in figure.axes:
        assert [*axes.lines[0].get_xdata()] == [0, 0]
        assert axes.patches[0].get_extents().transformed(axes.transData.inverted()).width > 0
    assert figure.get_supxlabel() == "AUC minus that of C"
    rows = numbers("AB", minus="C")
    rows.loc[rows["place"] == "across", "minus"] = "D"  # another is subtracted in the other panel
    assert figures.forest(rows, material=0.02).get_supxlabel() == "difference in AUC"


def test_a_shown_figure_is_saved_with_the_same_bytes_and_its_caption(monkeypatch):
    displayed = []
    monkeypatch.setattr(figures, "display", lambda *shown, **more: displayed.append((shown, more)))
    saved = []
    for _ in range(2):
        figure, axes = plt.subplots(figsize=(figures.width(), 2))
        axes.plot([1, 2])
        paths = figures.show(figure, "unit", "a", "What it <shows>.")
        saved.append([path.read_bytes() for path in paths])
    assert saved[0] == saved[1]
    assert [path.name for path in paths] == ["a.png", "a.pdf"]
    (shown, more), (caption, _) = displayed[2:]
    assert shown == (figure,) and more["metadata"]["image/jpeg"]["alt"] == "What it <shows>."
    assert caption[0].data == "*What it <shows>.*"
    assert any(text.get_text().strip() == "What it <shows>." for text in figure.texts)
    with Image.open(paths[0]) as picture:  # one inch has 300 pixels, in all colours
        assert picture.mode == "RGBA" and picture.width > 6 * 300
    assert not plt.get_fignums()


def test_the_curves_of_a_training_mark_the_chosen_epoch():
    log = []
    for k in (1, 2, 3):  # the only term is the whole loss
        losses = dict.fromkeys(["loss_cls", "loss_total"], 1 / k)
        log.append({"epoch": k, **losses, "validation_auc": 0.5 + k / 10})
    record = planted.record("xception", log=log, chosen={"epoch": 2, "auc": 0.7})
    figure = figures.training_curves(StoredRun("a", record))
    curves = [list(line.get_xdata()) for line in figure.axes[1].lines]
    assert curves == [[1, 2, 3], [2, 2]]
    assert [axes.get_title() for axes in figure.axes] == ["cls", "validation"]


def test_distributions_and_curves_show_the_scores():
    draw = np.random.default_rng(0)
    label = np.arange(400) % 2
    rows = {"detector": "A", "place": "within", "label": label, "seed": 0}
    scores = pd.DataFrame({**rows, "score": np.clip(0.3 * label + 0.7 * draw.random(400), 0, 1)})
    scores = pd.concat([scores, scores.assign(place="across", score=draw.random(400))])
    figure = figures.distributions(scores, {("A", 0): np.array([0.6]), ("B", 0): np.array([0.1])})
    for axes in figure.axes:
        assert [*axes.lines[0].get_xdata()] == [0.6, 0.6]
        for shape in axes.patches:  # the shares add up to one
            assert shape.get_extents().height > 0
    for axes, place in zip(figures.roc(scores).axes, ("across", "within")):
        false_alarms, found = axes.lines[0].get_data()
        of_place = scores[scores["place"] == place]
        area = np.trapezoid(found, false_alarms)
        assert area == pytest.approx(roc_auc_score(of_place["label"], of_place["score"]))


def test_a_detector_of_one_panel_keeps_its_look_and_is_in_the_legend():
    rows = {"label": [0, 1], "score": [0.2, 0.8]}
    scores = [
        pd.DataFrame({**rows, "detector": detector, "place": place})
        for detector, place in (("A", "within"), ("B", "within"), ("B", "across"), ("C", "across"))
    ]
    with plt.style.context(Path(figures.__file__).with_suffix(".mplstyle")):
        figure = figures.roc(pd.concat(scores))
    across, within = figure.axes  # in the order of the alphabet
    looks = [
        [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines[:2]]
        for axes in (within, across)
    ]
    assert looks[0][1] == looks[1][0] and looks[0][0] != looks[1][1]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == ["A", "B", "C", "chance"] and names[-1] == "chance"


def test_each_severity_stands_above_its_name_in_any_order():
    rows = pd.DataFrame({"corruption": ["JPEG", "", "JPEG", "blur"], "severity": [5, 0, 1, 5]})
    curves = rows.assign(detector="A", value=[0.6, 0.9, 0.8, 0.7], low=0.5, high=1.0)
    for panel, expected in zip(figures.by_severity(curves).axes, ([0, 2, 1], [0, 2])):
        points = panel.containers[0][0]
        assert [*points.get_xdata()] == expected
        names = [label.get_text() for label in panel.get_xticklabels()]
        assert names == ["clean", "1", "5"]


def test_a_deletion_curve_is_the_mean_of_its_frames():
    columns = [f"deletion {share}" for share in range(0, 101, 10)]
    values = np.random.default_rng(0).random((20, 11))
    maps = pd.DataFrame(values, columns=columns).assign(detector="A", seed=0)
    maps["map"] = ["Grad-CAM", "random"] * 10
    other_seed = maps[maps["map"] == "Grad-CAM"].assign(seed=1, **{columns[0]: 9})
    figure = figures.deletion_curves(pd.concat([maps, other_seed]))
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), values[::2].mean(0))
    assert len(figure.axes[0].collections) == 1  # the band of random blocks
