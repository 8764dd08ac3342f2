"""Figures show the numbers that they are given, and are saved with the same bytes."""

import numpy as np
import pandas as pd
import planted
import pytest
from matplotlib import pyplot as plt

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
    assert figure.get_supxlabel() == "difference in AUC"


def test_a_shown_figure_is_saved_with_the_same_bytes_and_its_caption(monkeypatch):
    displayed = []
    monkeypatch.setattr(figures, "display", lambda *shown: displayed.extend(shown))
    saved = []
    for _ in range(2):
        figure, axes = plt.subplots(figsize=(figures.WIDTH, 2))
        axes.plot([1, 2])
        paths = figures.show(figure, "unit", "a", "What it <shows>.")
        saved.append([path.read_bytes() for path in paths])
    assert saved[0] == saved[1]
    assert [path.name for path in paths] == ["a.png", "a.pdf"]
    assert displayed[2].alt == "What it <shows>." and displayed[2].data == saved[1][0]
    assert displayed[3].data == "*What it <shows>.*"
    assert not plt.get_fignums()


def test_the_curves_of_a_training_mark_the_chosen_epoch():
    log = [{"epoch": k, "loss_cls": 1 / k, "validation_auc": 0.5 + k / 10} for k in (1, 2, 3)]
    record = planted.record("xception", log=log, chosen={"epoch": 2, "auc": 0.7})
    figure = figures.training_curves(StoredRun("a", record))
    curves = [list(line.get_xdata()) for line in figure.axes[1].lines]
    assert curves == [[1, 2, 3], [2, 2]]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["loss_cls", "validation_auc"]
