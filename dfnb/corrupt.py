"""How much of a detector's AUC is left under corruption: eight corruptions in five severities, defined here.

A corruption takes the frames of a stored video together, (n, 3, H, W) uint8, because a video codec does; the same video,
severity and corruption give the same bytes. Masks follow: a smaller picture has a smaller mask, and what a block hides is
no longer forged.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dfnb import core, figures, metrics, synth
from dfnb import jobs as run
from dfnb.data.frames import Pixels, load_frames, select
from dfnb.train import Run, predict

AREAS = "Area under the curve of video AUC over severity: mean over the severities from 0, none; first seeds."
CURVES = "Video AUC by severity of the corruption, 95 % bands; first seeds."
VERSION = 1  # raise it when a corruption gives other pixels
Draw = np.random.Generator


def _h264(clip: Tensor, crf: int, draw: Draw) -> Tensor:
    return torch.from_numpy(synth.h264(clip.permute(0, 2, 3, 1).numpy(), crf)).permute(0, 3, 1, 2)


def _blur(clip: Tensor, share: float, draw: Draw) -> Tensor:
    deviation = share / 100 * clip.shape[-1]
    return TF.gaussian_blur(clip, [2 * int(np.ceil(3 * deviation)) + 1] * 2, [deviation] * 2)


def _noise(clip: Tensor, deviation: float, draw: Draw) -> Tensor:
    return (clip + torch.from_numpy(draw.normal(0, deviation, clip.shape))).round().clamp(0, 255).byte()


def _block(height: int, width: int, share: float, draw: Draw) -> tuple[slice, slice]:
    sides = [round(side * (share / 100) ** 0.5) for side in (height, width)]
    starts = [int(draw.integers(0, whole - side + 1)) for whole, side in zip((height, width), sides)]
    return slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])


def _occlude(clip: Tensor, share: float, draw: Draw) -> Tensor:
    hidden = clip.clone()
    hidden[(..., *_block(*clip.shape[-2:], share, draw))] = 128
    return hidden


# Unit of the parameter, its values at severities 1 to 5, and what becomes of a clip: (clip, value, random stream).
CORRUPTIONS = {
    "JPEG": ("quality", (80, 60, 40, 20, 10), lambda clip, q, draw: torch.stack([TF.jpeg(frame, q) for frame in clip])),
    "H.264": ("constant rate factor", (23, 28, 33, 38, 43), _h264),
    "blur": ("deviation, % of the width", (0.5, 1, 1.5, 2, 3), _blur),
    "noise": ("deviation, of 255", (4, 8, 16, 24, 32), _noise),
    "resize": ("side left, %", (75, 50, 35, 25, 15), lambda clip, share, draw: TF.resize(clip, _sides(clip, share))),
    "contrast": ("factor", (0.8, 0.6, 0.4, 0.3, 0.2), lambda clip, factor, draw: TF.adjust_contrast(clip, factor)),
    "saturation": ("factor", (0.8, 0.6, 0.4, 0.2, 0), lambda clip, factor, draw: TF.adjust_saturation(clip, factor)),
    "occlusion": ("area under a grey block, %", (2, 5, 10, 20, 30), _occlude),
}


def _sides(clip: Tensor, share: float) -> list[int]:
    return [max(8, round(side * share / 100)) for side in clip.shape[-2:]]


def parameters() -> pd.DataFrame:
    """The table of all corruptions: unit, and the parameter at each severity."""
    rows = {name: {"unit": unit, **dict(enumerate(values, 1))} for name, (unit, values, _) in CORRUPTIONS.items()}
    return pd.DataFrame(rows).T.rename_axis("corruption, severity")


class Corrupted(Pixels):
    """The pixels of a frames table under a corruption of :data:`CORRUPTIONS` at a severity, 1 to 5."""

    def __init__(self, frames: pd.DataFrame, name: str, severity: int) -> None:
        super().__init__(frames.attrs["folder"])
        self.key, (_, values, self.apply), self.video = (name, severity), CORRUPTIONS[name], ("", Tensor())
        self.value = values[severity - 1]
        self.crop_of = dict(zip(zip(frames["mask"].astype(str), frames["row"]), frames["path"].astype(str)))

    def _draw(self, path: str) -> Draw:
        return core.rng("corruption", *self.key, path)

    def crop(self, path: str, row: int) -> np.ndarray:
        """One corrupted crop (H, W, 3) uint8 RGB; smaller where the corruption is a resize."""
        stored = path.endswith(".npy")
        if self.video[0] != path:
            clip = np.array(self._array(path)) if stored else super().crop(path, row)[None]
            self.video = path, self.apply(torch.from_numpy(clip).permute(0, 3, 1, 2), self.value, self._draw(path))
        return self.video[1][row if stored else 0].permute(1, 2, 0).contiguous().numpy()

    def mask(self, path: str, row: int, shape: tuple[int, int]) -> np.ndarray:
        """The mask (H, W) bool of the corrupted crop, which has the given shape."""
        if not path:
            return super().mask(path, row, shape)
        crop = self.crop_of[path, row]
        whole = self._array(crop).shape[1:3] if crop.endswith(".npy") else shape
        mask = torch.from_numpy(super().mask(path, row, whole))[None].byte()
        mask = TF.resize(mask, list(shape), TF.InterpolationMode.NEAREST)[0].bool().numpy()
        if self.apply is _occlude:
            mask[_block(*shape, self.value, self._draw(crop))] = False
        return mask


def samples(frame: pd.DataFrame, names: list[str], severity: int = 3) -> Figure:
    """One frame (a table of one row) as it is and under each corruption, its mask outlined."""
    figure, axes = plt.subplots(1, len(names) + 1, figsize=(figures.WIDTH, figures.WIDTH / (len(names) + 1) + 0.3))
    row, plain = frame.iloc[0], Pixels(frame.attrs["folder"])
    for axis, name in zip(axes, ["as it is", *names]):
        pixels = plain if axis is axes[0] else Corrupted(frame, name, severity)
        axis.imshow(crop := pixels.crop(row["path"], row["row"]))
        figures.outline(axis, pixels.mask(row["mask"], row["row"], crop.shape[:2]))
        axis.set(title=name, xticks=[], yticks=[])
    return figure


def _path(trained: Run, test_set: str, name: str) -> Path:
    return trained.folder / "scores" / f"{test_set}@{name.lower().replace('.', '')}.parquet"


def score(trained: Run, test_set: str, name: str, severities: list[int]) -> Path:
    """Score the test split under a corruption with a run's checkpoint, or find the scores when they were made before.

    Returns ``runs/<id>/scores/<test_set>@<corruption>.parquet``, scores with a column ``severity``; the ``.json`` beside
    it, written last, is its record.
    """
    frames, path = select(load_frames(test_set), "test"), _path(trained, test_set, name)
    weights, values = trained.record["outputs"]["best.safetensors"], [CORRUPTIONS[name][1][k - 1] for k in severities]
    facts = {"fingerprint": frames.attrs["fingerprint"], "weights": weights, "n": len(frames), "version": VERSION}
    facts |= {"corruption": name, "severities": severities, "values": values}
    record = path.with_suffix(".json")
    if record.exists() and path.exists() and facts.items() <= core.read_json(record).items():
        return path
    clock, device = core.Clock(), "cuda" if torch.cuda.is_available() else "cpu"
    record.unlink(missing_ok=True)
    network, parts = trained.network().to(device), []
    for severity in severities:
        table = predict(network, frames, trained.settings, device, Corrupted(frames, name, severity))
        kept = [*metrics.COLUMNS]  # no table tells how well a corrupted frame is located
        parts.append(metrics.check_scores(table, path)[kept].assign(severity=severity))
    scores = pd.concat(parts)
    scores.attrs = {}  # where the frames lie is no part of the scores
    with core.atomic(path) as temporary:
        scores.to_parquet(temporary, index=False, compression="zstd")
    core.write_json(record, {**facts, "sha256": core.sha256(path), **clock.facts()})
    return path


def read(profile: str, trained: Run, test_set: str | None = None) -> dict[str, dict[int, pd.DataFrame]]:
    """The scores under the corruptions that a profile's notebook 08 asks for, by corruption and severity, 0 without.

    :class:`core.DfnbError` where the profile asks for none of ``test_set``, or they were not made or are altered.
    """
    p = run.asked(profile, "08_robustness")
    if p is None or test_set not in (None, p.test_set):
        raise core.DfnbError(f"profile {profile} asks for no corruptions of {test_set or 'any test set'}")
    found = {}
    for name in p.corruptions:
        path = _path(trained, p.test_set, name)
        record = path.with_suffix(".json")
        if not record.exists() or core.read_json(record)["sha256"] != core.sha256(path):
            raise core.DfnbError(f"{path} is not there or not what its record describes; run notebook 08 again")
        found[name] = {0: figures.read(trained, p.test_set)} | dict(list(pd.read_parquet(path).groupby("severity")))
    return found


def _read_all(book: Any) -> dict[tuple[str, str], dict[int, pd.DataFrame]]:
    """By (corruption, line) of a :class:`dfnb.tables.Book`: the first seed of each line that was scored."""
    lines = {line: figures._try(read, book.profile, group[0], hole={}) for line, group in book.lines.items()}
    return {(name, line): of for line, tables in lines.items() for name, of in tables.items()}


def areas(book: Any) -> pd.DataFrame:
    """Area under the curve of video AUC over severity: its mean over the severities from 0, and minus the first line's."""
    found, rows, first = _read_all(book), {}, next(iter(book.lines))
    for (name, line), of in sorted(found.items(), key=lambda item: list(CORRUPTIONS).index(item[0][0])):
        row, (clean, *_, worst) = metrics.auc(list(of.values())), [metrics.auc(table) for table in of.values()]
        cells = {"area (mean AUC)": metrics.interval(row["value"], row["low"], row["high"])}
        cells["AUC, clean to worst"] = f"{clean['value']:.3f} → {worst['value']:.3f}"
        if line != first and (name, first) in found:
            d = metrics.paired_difference(list(of.values()), list(found[name, first].values()))
            cells["Δ area"] = f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"
        rows[name, line] = cells
    return pd.DataFrame(rows).T.rename_axis(["corruption", "line"]).fillna("–") if rows else pd.DataFrame()


def curves(book: Any) -> Figure | None:
    """Video AUC against severity with 95 % bands, one panel a corruption; None where nothing was scored."""
    found = _read_all(book)
    names, lines = [name for name in CORRUPTIONS if name in {name for name, _ in found}], list(book.lines)
    if not names:
        return None
    columns, height = min(4, len(names)), -(-len(names) // 4)
    size = (figures.WIDTH, 1.9 * height + 0.5)
    figure, panels = plt.subplots(height, columns, figsize=size, sharey=True, squeeze=False)
    for (name, line), of in found.items():
        axes, i = panels.flat[names.index(name)], lines.index(line)
        rows = pd.DataFrame([metrics.auc(table) for table in of.values()], index=list(of))
        look = {"color": figures.PALETTE[i % len(figures.PALETTE)], "marker": "osD^vP*Xph"[i % 10]}
        axes.plot(rows["value"], **look, markersize=3, label=line)
        axes.fill_between(rows.index, rows["low"], rows["high"], color=look["color"], alpha=0.15, linewidth=0)
        axes.set(title=name, xlabel="severity", xticks=rows.index, ylim=(0.3, 1.0))
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    panels[0, 0].set_ylabel("video AUC")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
