"""Figures of frames: with their true masks, and with the scores and maps of a network."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from dfnb.attribution import maps
from dfnb.data.loading import StoredFrames
from dfnb.device import DEVICE
from dfnb.papers.contract import Network
from dfnb.results.figures import width
from dfnb.training.runs import Run
from dfnb.training.scoring import predict_frames
from facesets import sources

# A map lies on the face: transparent where it is 0, so that the face is seen, and then from yellow
# to red, which colour-blind people see on a grey face, and a black-and-white print as darker. The
# face is a light grey, from DARKEST (of black) to white, so that a map never makes it brighter.
HEAT = plt.get_cmap("YlOrRd")(np.linspace(0.15, 1, 256))
HEAT[:, 3] = np.linspace(0, 0.85, 256)
DARKEST = 0.45
SKIN = 0.9  # grey of a bright part of a face: the ground of the colour bar
# Keywords of imshow for maps in [0, 1].
MAP = {"cmap": ListedColormap(HEAT), "vmin": 0, "vmax": 1, "interpolation": "bilinear"}
FEW_PIXELS = "Integrated Gradients"  # the map that has most of its mass in single pixels
LABEL = 13  # letters of a line of a row's label
MOST_PARTS = 30  # of a map above half of its scale, around which lines are drawn
SMALLEST = 0.004  # share of a picture; what is smaller has no line around it


class Row(NamedTuple):
    """A row of a panel.

    Attributes:
        name: Its label.
        images: Pictures (n, h, w) or (n, h, w, 3). They may have another size than their masks, as
            maps have.
        masks: True masks (n, H, W), whose outlines are drawn; all zero: none.
        keywords: Of imshow, such as :data:`MAP`.
        faces: Pictures (n, H, W, 3) that lie beneath in grey; None: nothing does.
        scale: What the values of the images are; a colour bar says it. Empty: no bar.
    """

    name: str
    images: Sequence
    masks: Sequence
    keywords: Mapping[str, Any] = {}
    faces: Sequence | None = None
    scale: str = ""


def panel(
    rows: Sequence[Row | tuple], titles: Sequence[str] = (), datasets: Iterable[str] = ()
) -> Figure:
    """A grid of pictures, each with the outline of its true mask, and a colour bar per scale.

    A map that lies on a face has a dashed line around what is above half of the scale, so that a
    grey print shows it, too. Rows may have fewer pictures than others. Rows of one scale share a
    colour bar, so their keywords must set the same range of values.

    Args:
        rows: The rows of the grid from top to bottom; a tuple has the fields of a :class:`Row`.
        titles: One per column; none by default.
        datasets: Whose faces are shown: the figure's label, which becomes a part of its caption,
            says where they were generated.
    """
    rows = [Row(*row) for row in rows]
    columns = max(len(row.images) for row in rows)
    labels = [textwrap.fill(row.name, LABEL, break_long_words=False) for row in rows]
    # In inches. A letter of this size is .06 wide, and a bar with its text .6. At most a fifth of
    # the rest for a picture: few columns would else give huge ones.
    beside = 0.06 * max(len(line) for label in labels for line in f"{label} ".splitlines())
    beside += 0.6 * any(row.scale for row in rows)
    side = (width() - beside) / max(columns, 5)
    letters = int(side / 0.055)  # of a title
    titles = [_wrapped(title, letters) for title in titles]
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(min(width(), columns * side + beside), 0.13 * lines + len(rows) * side),
        squeeze=False,
        subplot_kw={"xticks": [], "yticks": [], "frame_on": False},
        layout="compressed",  # no space but what the square pictures need
    )
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.01, hspace=0.01)
    bars = {}  # scale -> a picture in its colours, and the axes of all rows that have this scale
    for axes_of_row, row, label in zip(axes, rows, labels):
        look = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 7}
        axes_of_row[0].set_ylabel(label, **look)
        for place, (axis, image) in enumerate(zip(axes_of_row, row.images)):
            face = None if row.faces is None else row.faces[place]
            _draw(axis, image, row.masks[place], row.keywords, face)
        if row.scale:
            bars.setdefault(row.scale, (row.keywords, []))[1].extend(axes_of_row)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=7, fontweight="normal")
    for scale, (keywords, axes_of_scale) in bars.items():
        _draw_bar(figure, axes_of_scale, keywords, scale)
    if any(map(sources.shows_generated_faces, {*datasets})):
        figure.set_label("AI-generated portraits (Stable Diffusion 3, CC0).")
    return figure


def _wrapped(title: str, letters: int) -> str:
    """A title in lines of about so many letters; a longer word keeps its line."""
    lines = title.split("\n")
    return "\n".join(textwrap.fill(line, letters, break_long_words=False) for line in lines)


def _draw_bar(
    figure: Figure, axes: Sequence[Axes], keywords: Mapping[str, Any], scale: str
) -> None:
    """Draw the colour bar of a ``scale`` beside these axes: opaque, as its colours look on SKIN."""
    colours = plt.get_cmap(keywords.get("cmap"))(np.linspace(0, 1, 256))
    opacity = colours[:, 3:]
    opaque = ListedColormap(opacity * colours[:, :3] + (1 - opacity) * SKIN)
    values = Normalize(keywords.get("vmin"), keywords.get("vmax"))
    rows = len({axis.get_subplotspec().rowspan.start for axis in axes})
    bar = figure.colorbar(
        ScalarMappable(values, opaque), ax=axes, aspect=12 * rows, fraction=0.05, pad=0.01
    )
    bar.set_label(textwrap.fill(scale, 18 * rows), fontsize=7)
    bar.ax.tick_params(labelsize=6)
    bar.solids.set(rasterized=True)  # else a PDF shows a line per colour
    bar.outline.set_visible(False)


def _draw(
    axis: Axes,
    image: np.ndarray,
    mask: np.ndarray,
    keywords: Mapping[str, Any],
    face: np.ndarray | None,
) -> None:
    """Draw a picture of a :class:`Row`, over its face, and the outline of its mask."""
    rows, columns = np.shape(mask)
    # The picture is stretched to the mask's pixels, so that the outline fits.
    extent_of_mask = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    if face is not None:
        light = DARKEST + (1 - DARKEST) * np.mean(face, -1) / 255
        axis.imshow(light, extent=extent_of_mask, cmap="gray", vmin=0, vmax=1)
        if np.ndim(image) == 2:  # a map; in a row of maps, a picture may stand beside them
            _draw_line_at_half(axis, np.asarray(image), rows, columns)
    axis.imshow(image, extent=extent_of_mask, **keywords)
    if np.min(mask) < np.max(mask):  # else there is no outline
        # A black and a white line: one of them is visible on any background. The mask is 0 or 1,
        # so both levels lie at its edge.
        colours = {"colors": ["black", "white"], "linewidths": [2.2, 1]}
        axis.contour(mask, levels=[0.4, 0.6], **colours)


def _draw_line_at_half(axis: Axes, values: np.ndarray, rows: int, columns: int) -> None:
    """Draw a dashed line around a map's values (h, w) above .5, on a face of (rows, columns).

    Parts with less than SMALLEST of the picture, inside or outside, have none: a line around a
    single pixel is a black speck. So a map of more than MOST_PARTS scattered parts has none at all.
    """
    height, width = values.shape
    if min(height, width) < 2 or cv2.connectedComponents(np.uint8(values > 0.5))[0] > MOST_PARTS:
        return
    is_above = _without_small_parts(values > 0.5, SMALLEST * values.size)
    # A pixel that changed sides is just beyond .5.
    values = np.where(is_above == (values > 0.5), values, 0.5 + (is_above - 0.5) * 0.01)
    if is_above.any() and not is_above.all():
        # The middles of the map's pixels, in pixels of the face.
        y = (np.arange(height) + 0.5) * rows / height - 0.5
        x = (np.arange(width) + 0.5) * columns / width - 0.5
        axis.contour(x, y, values, [0.5], colors="black", linestyles="--", linewidths=0.7)


def _without_small_parts(is_inside: np.ndarray, fewest: float) -> np.ndarray:
    """A mask (h, w) in which connected parts of less than ``fewest`` pixels have changed sides."""
    for side in (1, 0):
        _, parts, stats, _ = cv2.connectedComponentsWithStats(np.uint8(is_inside == side))
        is_small = stats[:, cv2.CC_STAT_AREA] < fewest
        is_small[0] = False  # the part 0 is the other side
        is_inside = is_inside ^ is_small[parts]
    return is_inside


def panel_frames(frames: pd.DataFrame, columns: int = 6) -> pd.DataFrame:
    """About ``columns`` of these frames: some of each method, real ones last.

    Every method, "real" among them, has the same number, at least one; a method with fewer videos
    has one frame of each. Only the first frame of a video is used. Each frame shows another person,
    as long as there are enough.
    """
    by_method = frames.drop_duplicates("video").groupby("method", observed=True)
    videos_per_method = max(1, columns // by_method.ngroups)
    chosen = []
    shown = set()
    for _, of_method in by_method:
        person = of_method["identity"].astype(str)
        is_repeated = (person.isin(shown) | person.duplicated()) & (person != "")  # "": not known
        new_first = pd.concat([of_method[~is_repeated], of_method[is_repeated]])
        chosen.append(new_first.head(videos_per_method))
        shown |= {*chosen[-1]["identity"].astype(str)}
    return pd.concat(chosen).sort_values("label", ascending=False, kind="stable")  # fakes first


def frames_panel(
    frames: pd.DataFrame,
    run: Run | None = None,
    map_names: Sequence[str] = (),
) -> Figure:
    """Frames without and with the outlines of their true masks; with a run, its scores and maps.

    A frame is a column: its method and P(fake), the frame, and a row per map, which lies on the
    frame and has the outline. Without maps the second row is the frame with the outline.

    Args:
        frames: A small frames table.
        run: A finished training; without one there are no scores and maps.
        map_names: For :func:`dfnb.attribution.maps.of`.
    """
    crops, masks = crops_and_masks(frames)
    rows = [Row("frame", crops, [0 * mask for mask in masks])]
    if not (run and map_names):  # else the maps have the outlines
        rows.append(Row("true mask", crops, masks))
    titles = titles_of(frames)
    if run:
        network = run.network().to(DEVICE)
        for name in map_names:
            views = visible(maps.of(run, frames, name, network), name)
            rows.append(Row(name, views, masks, MAP, crops, scale_of(network, name)))
        # Last, because predict() converts the weights in inference mode: they take no gradients
        # any more, which the maps need.
        scores = predict_frames(network, frames, run.settings, locate=False)["score"]
        titles = [f"{method}\nP(fake) {score:.2f}" for method, score in zip(titles, scores)]
    return panel(rows, titles, frames["dataset"])


def titles_of(frames: pd.DataFrame) -> list[str]:
    """The method of each frame; "original" of one that is not forged, where faces are generated."""
    is_generated = frames["dataset"].map(sources.shows_generated_faces).astype(bool)
    methods = frames["method"].astype(str)
    return methods.mask(is_generated & (methods == "real"), "original").tolist()


def crops_and_masks(frames: pd.DataFrame) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The images of frames and their true masks, which are all zero where unknown or real."""
    samples = [*map(StoredFrames(frames).sample, range(len(frames)))]
    return [sample.image for sample in samples], [sample.mask for sample in samples]


def visible(views: np.ndarray, map_name: str) -> np.ndarray:
    """Maps (n, h, w) as pictures show them: those of FEW_PIXELS up to their 99th percentile.

    Divided by their maximum, as all maps are, they would look empty.
    """
    if map_name != FEW_PIXELS:
        return views
    highest = np.percentile(views, 99, axis=(1, 2), keepdims=True)
    return (views / highest.clip(1e-12)).clip(0, 1)


def scale_of(network: Network, map_name: str) -> str:
    """What the values of a map of a paper's network are, as the label of a colour bar."""
    if map_name == FEW_PIXELS:
        return "share of the map's 99th percentile"
    is_own_output = network.maps().get(map_name) == "localise"
    return "value of the map" if is_own_output else "share of the map's maximum"
