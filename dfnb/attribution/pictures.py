"""Figures of frames: with their true masks, and with the scores and maps of a network."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dfnb.attribution import maps
from dfnb.data.loading import StoredFrames
from dfnb.report.figures import MAP, WIDTH
from dfnb.training.runs import Run
from dfnb.training.scoring import predict

# A row of a panel: its name, pictures (n, h, w) or (n, h, w, 3), true masks (n, H, W), and keywords
# of imshow. A picture may have another size than its mask, as a map has.
Row = tuple[str, Sequence, Sequence, Mapping[str, Any]]


def panel(rows: Sequence[Row], titles: Sequence[str] = ()) -> Figure:
    """A grid of pictures, each with the outline of its true mask.

    Args:
        rows: The rows of the grid from top to bottom, see :data:`Row`.
        titles: One per column; none by default.
    """
    columns = max(len(images) for _, images, _, _ in rows)
    # In inches. At most a fifth of the figure's width: few columns would else give huge pictures.
    row_height = WIDTH / max(columns, 5)
    figure_height = 0.4 + len(rows) * row_height  # 0.4 for the titles
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(WIDTH, figure_height),
        squeeze=False,
        subplot_kw={"xticks": [], "yticks": [], "frame_on": False},
    )
    for axes_of_row, (name, images, masks, keywords) in zip(axes, rows):
        label = name.replace(" ", "\n")  # one line would be longer than the row is high
        axes_of_row[0].set_ylabel(label, fontsize=7)
        for axis, image, mask in zip(axes_of_row, images, masks):
            height, width = np.shape(mask)
            # The picture is stretched to the mask's pixels, so that the outline fits.
            extent_of_mask = (-0.5, width - 0.5, height - 0.5, -0.5)
            axis.imshow(image, extent=extent_of_mask, **keywords)
            if np.min(mask) < np.max(mask):  # else there is no outline
                # A black and a white line: one of them is visible on any background. The mask is 0
                # or 1, so both levels lie at its edge.
                axis.contour(
                    mask,
                    levels=[0.4, 0.6],
                    colors=["black", "white"],
                    linewidths=[2.2, 1],
                )
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=7, fontweight="normal")
    return figure


def panel_frames(frames: pd.DataFrame, columns: int = 6) -> pd.DataFrame:
    """About ``columns`` of these frames: some of each method, real ones last.

    Every method, "real" among them, has equally many if it has enough videos, at least one. A frame
    is the first of its video, and no video is shown twice.
    """
    first_frames = frames.drop_duplicates("video")
    by_method = first_frames.groupby("method", observed=True)
    videos_per_method = max(1, columns // by_method.ngroups)
    chosen = by_method.head(videos_per_method)
    return chosen.sort_values("label", ascending=False, kind="stable")  # label 1 is fake


def frames_panel(
    frames: pd.DataFrame,
    run: Run | None = None,
    map_names: Sequence[str] = (),
) -> Figure:
    """Frames without and with the outlines of their true masks; with a run, its scores and maps.

    A frame is a column: its method and P(fake), the frame twice, and a row per map.

    Args:
        frames: A small frames table.
        run: A finished training; without one there are no scores and maps.
        map_names: For :func:`dfnb.attribution.maps.of`.
    """
    samples = list(StoredFrames(frames))
    crops = [sample.image for sample in samples]
    masks = [sample.mask for sample in samples]  # all zero where unknown or real
    no_masks = [0 * mask for mask in masks]
    rows = [("frame", crops, no_masks, {}), ("true mask", crops, masks, {})]
    titles = frames["method"].astype(str)
    if run:
        # Another network than that of the maps: in inference mode its weights get no gradients.
        scores = predict(run.network(), frames, run.settings, locate=False)["score"]
        titles = [f"{method}\nP(fake) {score:.2f}" for method, score in zip(titles, scores)]
        for name in map_names:
            rows.append((name, maps.of(run, frames, name), masks, MAP))
    return panel(rows, titles)
