"""Figures of frames: with their true masks, and with the scores and maps of a network."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from dfnb.attribution import maps
from dfnb.data.frames import load_frames, select
from dfnb.data.loading import StoredFrames, as_batch, pictures
from dfnb.papers.contract import outputs_of
from dfnb.report.figures import MAP, WIDTH
from dfnb.training.runs import Run

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


def panel_frames(name: str, columns: int = 6) -> pd.DataFrame:
    """About ``columns`` frames of a dataset's test split: some of each method, real ones last.

    Every method, "real" among them, has equally many if it has enough videos, at least one. A frame
    is the first of its video, and no video is shown twice.
    """
    first_frames = select(load_frames(name), "test").drop_duplicates("video")
    by_method = first_frames.groupby("method", observed=True)
    videos_per_method = max(1, columns // by_method.ngroups)
    chosen = by_method.head(videos_per_method)
    return chosen.sort_values("label", ascending=False, kind="stable")  # label 1 is fake


def frames_panel(
    run: Run,
    frames: pd.DataFrame,
    shown_maps: Sequence[str] = (),
) -> Figure:
    """Frames with their true masks and P(fake), and maps of them.

    A frame is a column. The rows are the frames, without and with the outline, the map of
    ``Network.localise``, and ``shown_maps``.

    Args:
        run: A finished training.
        frames: A small frames table.
        shown_maps: Names of maps for :func:`dfnb.attribution.maps.of`.
    """
    network = run.network()
    batch = as_batch(frames, run.settings)
    with torch.inference_mode():
        scores = network.score(outputs_of(network, batch["image"]))  # (n,) P(fake)
    masks = batch["mask"][:, 0].numpy()  # (n, H, W), all zero where unknown or real
    crops = pictures(batch, run.settings)
    rows = [("frame", crops, 0 * masks, {}), ("true mask", crops, masks, {})]
    # Network.maps says how each map is made; "localise": by the network's method of that name.
    located = [name for name, origin in network.maps().items() if origin == "localise"]
    for name in dict.fromkeys([*located, *shown_maps]):  # each name once
        frame_maps = maps.of(run, frames, name, network)
        rows.append((name, frame_maps, masks, MAP))
    titles = []
    for method, score, mask, has_mask in zip(frames["method"], scores, masks, batch["has_mask"]):
        # Real frames have a mask, which is all zero; a fake without one has an unknown region.
        forged = f"{mask.mean():.0%} forged" if has_mask else "no mask"
        titles.append(f"{method}\nP(fake) {score:.2f}\n{forged}")
    return panel(rows, titles)


def sample_grid(name: str, split: str = "test") -> Figure:
    """Frames of a dataset without and with their true masks: one row per method, real first.

    A row has the first frames of up to two videos. Each frame is shown twice: plain, and then with
    the outline of its mask.
    """
    first_frames = select(load_frames(name), split).drop_duplicates("video")
    rows = []
    # Grouped by label, too, because real frames (label 0) then come first.
    for (_, method), of_method in first_frames.groupby(["label", "method"], observed=True):
        crops = []
        masks = []
        for sample in StoredFrames(of_method.head(2)):
            crops += [sample.image, sample.image]
            # panel draws no outline of a mask that is all 0. The first picture gets such a mask;
            # the second has one anyway if its frame is real, or is a fake without a mask.
            masks += [0 * sample.mask, sample.mask]
        rows.append((method, crops, masks, {}))
    return panel(rows)
