"""Figures show the numbers that they are given, and are saved with the same bytes."""

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import planted
import pytest
from matplotlib import get_data_path
from matplotlib import pyplot as plt
from matplotlib.font_manager import fontManager
from PIL import Image
from sklearn.metrics import roc_auc_score

import notebooks
from dfnb.results import figures
from dfnb.results.metrics import Trainings, measure
from dfnb.store.runs import StoredRun
from facesets.files import report_folder

PLACES = ("in-dataset", "cross-dataset")


@pytest.fixture(autouse=True)
def styled(empty_home):
    figures.style()
    yield
    plt.close("all")


def test_a_formula_has_its_fonts_where_the_cached_list_lacks_them(monkeypatch, caplog):
    shipped = Path(get_data_path())
    others = [font for font in fontManager.ttflist if shipped not in Path(font.fname).parents]
    assert len(others) < len(fontManager.ttflist)
    monkeypatch.setattr(fontManager, "ttflist", others)
    fontManager._findfont_cached.cache_clear()
    figures.style()
    plt.figure().text(0, 0, "a formula of this test alone, $x_{17}^{29}$")
    plt.gcf().draw_without_rendering()
    assert caplog.text == ""


def test_open_source_is_the_whole_code_without_its_docstring():
    text = figures.source(figures.source, folded=False).data
    assert '"""' not in text and "def source(" in text and "del lines" in text


def described(table):
    """Numbers, made by hand, with what those of measure say of themselves: captions need it."""
    said = {"of_trainings": (Trainings("A", "a", "last"),), "of_seeds": (0,), "of_sets": ("a",)}
    said |= {"n_real": 2, "n_fake": 2, "clusters": 4, "seeds": 1, "collapsed": 0}
    said |= {"unit": "videos", "over": "people"}
    return table.assign(**{name: [value] * len(table) for name, value in said.items()})


def numbers(names, minus=""):
    """Numbers of these detectors in two places."""
    rows = []
    for count, name in enumerate(names):
        for place in ("in-dataset", "cross-dataset"):
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
    for axes, place in zip(figure.axes, ["in-dataset", "cross-dataset"]):
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
    for panel, of_place in zip(figure.axes, ("in-dataset", "cross-dataset")):
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
    # Another detector is subtracted in the other panel.
    rows.loc[rows["place"] == "cross-dataset", "minus"] = "D"
    assert figures.forest(rows, material=0.02).get_supxlabel() == "difference in AUC"


def test_a_shown_figure_is_saved_with_the_same_bytes_and_its_caption(monkeypatch):
    displayed = []
    monkeypatch.setattr(figures, "display", lambda *shown, **more: displayed.append((shown, more)))
    saved = []
    paper = report_folder("unit") / "paper" / "figures"
    for _ in range(2):
        figure, axes = plt.subplots(figsize=(figures.width(), 2))
        axes.plot([1, 2])
        (path,) = figures.show(figure, report_folder("unit"), "a", "Drei Stühle α, <what>.")
        files = [path, *sorted(paper.iterdir())]
        saved.append({file.name: file.read_bytes() for file in files})
    assert saved[0] == saved[1] and {*saved[0]} == {"a.png", "a.pdf", "a.svg", "a-caption.tex"}
    assert saved[0]["a-caption.tex"].decode() == "Drei Stühle α, $<$what$>$.\n"
    (shown, more), (caption, _) = displayed[2:]
    assert shown == (figure,) and more["metadata"]["image/jpeg"]["alt"] == "Drei Stühle α, <what>."
    assert caption[0].data == "*Drei Stühle α, <what>.*"
    assert not figure.texts  # the caption is text beside the figure, no part of it
    with Image.open(path) as picture:  # one inch has 300 pixels, in all colours
        assert picture.mode == "RGBA" and picture.width == int(300 * figures.width())
    figures.display_stored(path)
    assert displayed[-1][0][0].data == "*Drei Stühle α, <what>.*"
    assert not plt.get_fignums()


def inches_of(path):
    """The width of a PDF or an SVG in inches."""
    text = path.read_bytes().decode("latin-1")
    is_pdf = path.suffix == ".pdf"
    pattern = r"MediaBox \[ 0 0 ([\d.]+)" if is_pdf else r'<svg [^>]*width="([\d.]+)pt"'
    (points,) = re.findall(pattern, text)
    return float(points) / 72


def test_a_figure_for_a_paper_has_the_width_of_one_and_of_two_columns(monkeypatch):
    monkeypatch.setattr(figures, "display", lambda *_, **more: None)
    places = [
        numbers(["Exposing the Deception", "B"]).assign(place=k) for k in ("a", "photographs")
    ]
    rows = pd.concat(places, ignore_index=True)
    figures.show(lambda: figures.forest(rows), report_folder("unit"), "a", "What.")
    paper = report_folder("unit") / "paper" / "figures"
    for name, width in (("a", 7.16), ("a-one-column", 3.3)):
        for suffix in ("pdf", "svg"):
            path = paper / f"{name}.{suffix}"
            assert inches_of(path) == pytest.approx(width, abs=0.01)
        pdf = path.with_suffix(".pdf").read_bytes()
        assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, embedded
    assert figures.width() == 7.16  # of what is drawn next


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


def kept_in(shown):
    """In place of figures.show: keeps each figure; one of numbers has a caption made from these."""

    def show(figure, folder, name, caption, has_frames):
        assert caption
        shown.append(figure)
        return []

    return mock.patch.object(figures, "show", show)


def drawn(name, *ids, one_column=False, **values):
    """The last figure that these cells of a notebook draw, and their namespace."""
    place = SimpleNamespace(report="unit", folder=None)
    shown = []
    with kept_in(shown):
        namespace = notebooks.cells(name, *ids, p=place, saved=[], **values)
    with plt.rc_context(figures.IN_ONE_COLUMN if one_column else None):
        figure = shown[-1]() if callable(shown[-1]) else shown[-1]
        figure.draw_without_rendering()
    return figure, namespace


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_distributions_are_shares_of_each_panel_beside_the_threshold():
    rows = {"score": [0.1, 0.5, 0.5, 0.5, 0.9], "video": ["real"] * 4 + ["fake"]}
    scores = pd.DataFrame(rows).assign(place="in-dataset")
    scores = pd.concat([scores, scores.iloc[2:].assign(place="cross-dataset")], ignore_index=True)
    figure, _ = drawn(
        "07_cross_dataset", "distributions", of_plain=scores, of_runs=[0.6, 0.8], plain="A"
    )
    for axes, place, share in zip(figure.axes, ("in-dataset", "cross-dataset"), (0.75, 1)):
        assert axes.get_title() == place
        tops = [path.get_paths()[0].vertices[:, 1].max() for path in axes.collections]
        assert sorted(tops) == sorted([share, 1])
        assert [*axes.lines[-1].get_xdata()] == pytest.approx([0.7, 0.7])
    assert legend_of(figure) == ["real", "fake"]


def test_a_place_without_frames_has_no_panel():
    rows = {"detector": ["A", "A"], "label": [0, 1], "score": [0.2, 0.8]}
    place = pd.Categorical(["in-dataset"] * 2, ["in-dataset", "cross-dataset"])
    frames = pd.DataFrame(rows).assign(place=place)
    tables = SimpleNamespace(main=lambda _: frames)
    results = SimpleNamespace(
        scores=lambda *_, **more: None,
        thresholds=lambda _: {("A", 0): np.array([0.6, 9]), ("B", 0): np.array([0.1])},
    )
    figure, namespace = drawn(
        "07_cross_dataset",
        "cell-42",
        "distributions",
        tables=tables,
        results=results,
        plain="A",
        main=frames,
    )
    assert len(figure.axes) == 1 and namespace["of_runs"] == [0.6]


def test_roc_curves_have_the_area_of_the_scores_and_one_look_per_detector():
    draw = np.random.default_rng(0)
    parts = []
    names = [
        ("_mine", "in-dataset"),
        ("B", "in-dataset"),
        ("B", "cross-dataset"),
        ("C", "cross-dataset"),
    ]
    for detector, place in names:
        rows = {"label": np.arange(400) % 2, "score": draw.random(400)}
        parts.append(pd.DataFrame(rows).assign(detector=detector, place=place, paper="a"))
    figure, _ = drawn(
        "07_cross_dataset", "roc-curves", "cell-43", "roc-shown", main=pd.concat(parts)
    )
    assert legend_of(figure) == ["B", "C", "_mine"]
    curves = {}  # (place, colour) -> the curve; the line of chance has 50 points
    for axes in figure.axes:
        for line in axes.lines:
            if len(line.get_xdata()) > 50:
                curves[axes.get_title(), line.get_color()] = line
    assert len(curves) == 4
    colours = [{colour for place, colour in curves if place == each} for each in PLACES]
    (of_both,) = colours[0] & colours[1]
    assert len({curves[place, of_both].get_marker() for place in PLACES}) == 1
    for place, part in (("in-dataset", parts[1]), ("cross-dataset", parts[2])):
        line = curves[place, of_both]
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert area == pytest.approx(roc_auc_score(part["label"], part["score"]))


def test_each_severity_stands_above_its_name_with_its_interval():
    rows = pd.DataFrame({"corruption": ["JPEG", "", "JPEG", "blur"], "severity": [5, 0, 1, 5]})
    curves = described(rows).assign(detector="_mine", low=0.5, high=1.0)
    curves["value"] = [0.6, 0.9, 0.8, 0.7]
    values = {"curves": curves, "names": ["JPEG", "blur"], "levels": [1, 5]}
    values |= {"shared": [], "test_set": "a"}
    figure, _ = drawn("09_robustness", "severity-points", "cell-20", "by-severity-shown", **values)
    (panel,) = figure.axes
    points = panel.lines[0].get_xydata()
    assert dict(points) == pytest.approx({0: 0.9, 1: 0.8, 2: 0.6, 3: 0.7})
    for bar in panel.collections[0].get_segments():
        assert [*bar[:, 1]] == [0.5, 1.0]
    labels = panel.get_xticklabels()
    assert [label.get_text() for label in labels] == ["clean", "JPEG\n1", "JPEG\n5", "blur\n5"]
    assert legend_of(figure) == ["_mine"]


def test_a_deletion_curve_is_the_mean_of_its_frames_and_a_long_title_wraps():
    name = "Locate and Verify, modules: without the second stream and the fusion"
    columns = [f"deletion {share}" for share in range(0, 101, 10)]
    values = np.random.default_rng(0).random((20, 11))
    rows = pd.DataFrame(values, columns=columns).assign(detector=name, seed=0, test_set="a")
    rows["map"] = ["_mine", "random"] * 10
    rows["cluster"] = [f"{k // 4}" for k in range(20)]  # two frames of each map per cluster
    rows = rows.assign(label=1, method="swap", collapsed=False)
    other_seed = rows[rows["map"] == "_mine"].assign(seed=1, **{columns[0]: 9})
    figure, _ = drawn(
        "08_attribution",
        "deletion-curves",
        "cell-48",
        "curves-shown",
        main=pd.concat([rows, other_seed, rows.assign(test_set="b")]),
        own=pd.DataFrame({"detector": [name], "map": ["_mine"]}),
        seeds=rows[["detector", "seed"]].drop_duplicates(),
        test_set="a",
    )
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values[::2].mean(0))
    (band,) = axes.collections  # of random blocks: the interval over clusters
    of_random = rows[rows["map"] == "random"]
    for share, column in zip(range(0, 101, 10), columns):
        number = measure(of_random, column, "detector").iloc[0]
        corners = band.get_paths()[0].vertices
        ends = corners[corners[:, 0] == share][:, 1]
        assert (ends.min(), ends.max()) == pytest.approx((number["low"], number["high"]))
    assert axes.title.get_text().replace("\n", " ") == name
    assert axes.title.get_window_extent().width < 1.2 * axes.get_window_extent().width
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["_mine"]


# ---------------------------------------------------------------- a report of seventeen detectors

PAPERS = ("xception", "lae", "locate_and_verify", "exposing_the_deception", "own")
SEVENTEEN = [
    f"Exposing the Deception, epochs {k}, batch_size 32, optimiser adamw, lr 0.001, …"
    for k in range(17)
]


def check_legible(figure):
    """Its width holds the figure, and no two names of an axis cover each other."""
    box = figure.get_tightbbox()
    assert box.x0 > -0.02 and box.x1 < figure.get_figwidth() + 0.02
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [each.get_window_extent().shrunk(0.95, 0.95) for each in labels]
            for first, second in pairwise(boxes):
                assert not first.overlaps(second) or first.width == 0


def test_seventeen_detectors_have_a_legible_forest_plot():
    figure = figures.forest(numbers(SEVENTEEN, minus=SEVENTEEN[0]))
    figure.draw_without_rendering()
    check_legible(figure)


def test_seventeen_detectors_have_legible_roc_curves():
    draw = np.random.default_rng(0)
    rows = []
    for k, detector in enumerate(SEVENTEEN):
        for place in ("in-dataset", "cross-dataset", "photographs"):
            row = {"label": np.arange(40) % 2, "score": draw.random(40), "place": place}
            rows.append(pd.DataFrame(row).assign(detector=detector, paper=PAPERS[k % 5]))
    figure, _ = drawn(
        "07_cross_dataset", "roc-curves", "cell-43", "roc-shown", main=pd.concat(rows)
    )
    check_legible(figure)
    assert len(figure.axes) == 5 * 3  # each paper's detectors have a row
    assert max(sum(len(line.get_xdata()) > 2 for line in axes.lines) for axes in figure.axes) <= 5
    assert {name.replace("\n", " ") for name in legend_of(figure)} == {*SEVENTEEN}


def test_seventeen_detectors_have_a_legible_heat_map():
    rows = [(each, test_set, 0.5) for each in SEVENTEEN for test_set in ("a", "b", "c")]
    by_set = described(pd.DataFrame(rows, columns=["detector", "test_set", "value"]))
    figure, _ = drawn(
        "07_cross_dataset", "cell-18", "heat-map", by_set=by_set, result=numbers(SEVENTEEN)
    )
    check_legible(figure)


def test_seventeen_detectors_have_legible_severities():
    rows = [(name, *each) for name in SEVENTEEN for each in (("", 0), ("JPEG", 1), ("JPEG", 5))]
    curves = pd.DataFrame(rows, columns=["detector", "corruption", "severity"])
    curves = described(curves).assign(value=0.7, low=0.6, high=0.8)
    values = {"curves": curves, "names": ["JPEG"], "levels": [1, 5]}
    values |= {"shared": [], "test_set": "a"}
    figure, _ = drawn("09_robustness", "severity-points", "cell-20", "by-severity-shown", **values)
    check_legible(figure)
    places = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert max(of[0] for of in places) < min(of[1] for of in places)  # beside their severity


# ---------------------------------------------------------------- one column of a paper

SIX = [
    "Baseline",
    "Wide baseline",
    "LAE",
    "Locate and Verify",
    "Exposing the Deception",
    "Self-Blended Images",
]


def test_a_forest_plot_is_legible_in_one_column():
    rows = pd.concat(
        [numbers(SIX), numbers(SIX).query("place == 'cross-dataset'")], ignore_index=True
    )
    rows.loc[len(rows) - len(SIX) :, "place"] = "photographs"
    with plt.rc_context(figures.IN_ONE_COLUMN):
        figure = figures.forest(rows)
    figure.draw_without_rendering()
    check_legible(figure)
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert not any(left.overlaps(right) for left, right in pairwise(titles))


def test_roc_curves_are_legible_in_one_column():
    draw = np.random.default_rng(0)
    rows = []
    for detector in SIX:
        for place in ("in-dataset", "cross-dataset"):
            row = {"label": np.arange(40) % 2, "score": draw.random(40), "place": place}
            rows.append(pd.DataFrame(row).assign(detector=detector, paper="a"))
    cells = ("roc-curves", "cell-43", "roc-shown")
    figure, _ = drawn("07_cross_dataset", *cells, one_column=True, main=pd.concat(rows))
    check_legible(figure)
    for texts in ([axes.title for axes in figure.axes], [axes.xaxis.label for axes in figure.axes]):
        boxes = [text.get_window_extent() for text in texts]
        assert not any(left.overlaps(right) for left, right in pairwise(boxes))


def test_a_heat_map_of_test_sets_is_legible_in_one_column():
    rows = [(each, test_set, 0.5) for each in SIX for test_set in ("a", "b", "photographs")]
    by_set = described(pd.DataFrame(rows, columns=["detector", "test_set", "value"]))
    cells = ("cell-18", "heat-map")
    figure, _ = drawn("07_cross_dataset", *cells, one_column=True, by_set=by_set)
    check_legible(figure)
    for text in figure.axes[0].texts:  # a number is inside its cell
        assert text.get_window_extent().width < figure.axes[0].get_window_extent().width / len(SIX)


# ---------------------------------------------------------------- trained on one, tested on each


@pytest.mark.parametrize("one_column", [False, True])
def test_each_detector_has_a_heat_map_of_methods(one_column):
    methods = ["swap", "warp", "reshape"]
    rows = []
    for k, detector in enumerate(("B", "C")):
        for i, trained in enumerate(methods[: 3 - k]):  # one method fewer was trained
            for j, method in enumerate([*methods[::-1], "other"]):
                row = {"detector": f"{detector}, methods: {trained}", "method": method}
                rows.append({**row, "value": 0.5 + (9 * k + 4 * i + j) / 100})
    scores = pd.DataFrame(rows)
    results = SimpleNamespace(
        ablations=lambda report, _: scores,
        measure=lambda scores, *_: described(scores).assign(
            low=0.4, high=0.9, minus="", metric="AUC"
        ),
    )
    place = SimpleNamespace(report="a", folder=None)
    shown = []
    with kept_in(shown):
        values = {"results": results, "p": place, "saved": [], "display": lambda _: None}
        notebooks.cells("07_cross_dataset", "manipulations", "cell-45", **values)
    with plt.rc_context(figures.IN_ONE_COLUMN if one_column else None):
        figure = shown[0]()
    figure.draw_without_rendering()
    check_legible(figure)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["B", "C"]
    cells = panels[0].collections[0].get_array()
    assert cells[0].tolist() == pytest.approx([0.52, 0.51, 0.50, 0.53])  # the diagonal: as trained
    assert cells.shape == (3, 4) and [text.get_text() for text in panels[0].texts][:2] == [
        "0.52",
        "0.51",
    ]
    assert panels[1].collections[0].get_array().mask[2].all()  # not trained
