"""Where a detector looks, and whether the picture can be believed: maps, their measures, their sanity.

A map (H, W) in [0, 1] says which pixels speak for fake; its measures are columns of a table in the form of
:mod:`dfnb.metrics`, so that their intervals respect the clusters of videos. Maps are kept in ``runs/<id>/attribution``,
measures beside the scores as ``scores/<test set>@map <name>.parquet``; tables and figures need only the latter.
"""

import copy
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import ipywidgets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from captum.attr import FeatureAblation, IntegratedGradients, LayerGradCam, Occlusion
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb import core, figures, metrics
from dfnb.core import DfnbError
from dfnb.data import prepare
from dfnb.data.frames import SCHEMA, load_frames, select
from dfnb.data.sources import Source
from dfnb.figures import MAP, PALETTE, WIDTH, as_batch, panel
from dfnb.metrics import interval
from dfnb.train import Run, train

VERSION = 1  # raise it when a method gives other maps
PIXELS = 600_000  # of the images that are explained at once: 65 of 96², 6 of 299²
SAY_SECONDS = 20
LAYER = "Grad-CAM@"
ALIKE = 0.5  # rank correlation from which a map has not changed
NOTE = "A score is no proof: it is calibrated on no picture but those of the training set, and a detector errs with confidence."


# ------------------------------------------------------------------------------------------------------------- methods


def evidence(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Images (n, 3, H, W) to the logit of P(fake), (n,); of the score itself the gradient vanishes where a detector is sure."""
    return lambda images: network(images)["cls"].diff(dim=1)[:, 0]


def grad_cam(network: nn.Module, images: Tensor, within: nn.Module | None = None) -> Tensor:
    """Grad-CAM of the logit of P(fake), the difference of the two logits (Selvaraju et al., ICCV 2017, eq. 1-2).

    Images (n, 3, H, W), normalised, to maps (n, H, W) of any scale, at least 0. Of the last layer ``within`` a part of the
    network, or the whole, whose output is a map.
    """
    with torch.enable_grad():
        layer = last_map(network, evidence(network), images[:1], within)
        maps = LayerGradCam(evidence(network), layer).attribute(images.clone().requires_grad_(), relu_attributions=True)
    return F.interpolate(maps.detach(), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def last_map(
    network: nn.Module, evidence: Callable[[Tensor], Tensor], image: Tensor, within: nn.Module | None = None
) -> nn.Module:
    """The last layer executed whose output is a map larger than one position and has an effect on ``evidence``."""
    found: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        is_map = isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1
        if is_map and output.requires_grad and not getattr(layer, "inplace", False):
            found.append((layer, output))

    leaves = [layer for layer in (within or network).modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in leaves]
    with torch.enable_grad():
        value = evidence(image.clone().requires_grad_()).sum()
    for hook in hooks:
        hook.remove()
    outputs = [output for _, output in found]
    effects = torch.autograd.grad(value, outputs, allow_unused=True) if outputs else ()
    layers = [layer for (layer, _), effect in zip(found, effects) if effect is not None]
    if not layers:
        raise DfnbError("this part of the network has no map with an effect on the decision; choose another layer")
    return layers[-1]


def integrated_gradients(network: nn.Module, images: Tensor) -> Tensor:
    """Integrated Gradients from grey (Sundararajan et al., ICML 2017), in 24 steps, summed over the channels."""
    with torch.enable_grad():
        found = IntegratedGradients(evidence(network)).attribute(images, n_steps=24, internal_batch_size=len(images))
    return found.sum(1).detach()


def occlusion(network: nn.Module, images: Tensor) -> Tensor:
    """What the logit loses under a grey square (Zeiler and Fergus, ECCV 2014) of an eighth of the side, in half steps."""
    side = max(2, images.shape[-1] // 8)
    window, stride = (3, side, side), (3, side // 2, side // 2)
    with torch.inference_mode():
        return Occlusion(evidence(network)).attribute(images, window, stride).mean(1)


def superpixels(network: nn.Module, images: Tensor) -> Tensor:
    """What the logit loses when one of 64 superpixels is made grey, one after another (feature ablation)."""
    with torch.inference_mode():
        found = FeatureAblation(evidence(network)).attribute(images, feature_mask=segments(images).expand_as(images))
    return found.mean(1)


def segments(images: Tensor, across: int = 8) -> Tensor:
    """Superpixels (n, 1, H, W) int64 of images (n, 3, H, W): k-means of place and colour from a grid of centres.

    That is SLIC (Achanta et al., TPAMI 2012) without its limited search.
    """
    height, width = images.shape[-2:]
    rows, columns = np.mgrid[:height, :width]
    place = np.stack([rows / height, columns / width], -1).reshape(-1, 2) * across
    middle = (np.arange(across) + 0.5) / across
    start = ((middle * height).astype(int)[:, None] * width + (middle * width).astype(int)).ravel()
    found = []
    for image in images:
        features = np.hstack([place, image.permute(1, 2, 0).reshape(-1, 3).cpu().numpy()]).astype(np.float32)
        found.append(KMeans(len(start), init=features[start], n_init=1, max_iter=5).fit_predict(features))
    return torch.from_numpy(np.stack(found)).long().view(-1, 1, height, width).to(images.device)


def edges(network: nn.Module, images: Tensor) -> Tensor:
    """How steep the grey value is: an edge detector that ignores the network, which the sanity test must find."""
    return torch.linalg.vector_norm(torch.stack(torch.gradient(images.mean(1), dim=(1, 2))), dim=0)


def random(network: nn.Module, images: Tensor) -> Tensor:
    """Random blocks, 8 by 8: what chance gives."""
    blocks = torch.from_numpy(core.rng("random map").random((len(images), 1, 8, 8))).float()
    return F.interpolate(blocks, images.shape[-2:], mode="nearest")[:, 0]


METHODS = {
    "Grad-CAM": grad_cam,
    "Integrated Gradients": integrated_gradients,
    "occlusion": occlusion,
    "superpixels": superpixels,
    "edges": edges,
    "random": random,
}
CONTROLS = ("edges", "random")
# Forward passes a frame; a backward one counts two.
PASSES = {"Integrated Gradients": 72, "occlusion": 225, "superpixels": 65}
STREAMS = {"RGB stream": "rgb", "SRM stream": "srm"}
LOCATED = {"lae": "attention", "locate_and_verify": "located patches"}


def own(run: Run) -> list[str]:
    """The maps of the run's paper: LAE's attention, Locate and Verify's patches and streams, the branches and their union."""
    names = [LOCATED[run.paper]] if run.paper in LOCATED else []
    if run.paper == "locate_and_verify":
        names += list(STREAMS)[: 1 + ("second_stream" in run.settings.modules)]
    if run.paper == "exposing_the_deception":
        names += [*(f"branch {i + 1}" for i in range(run.settings.branches)), "union"]
    return names


def compute(network: nn.Module, images: Tensor, method: str) -> np.ndarray:
    """The map of a method for images (n, 3, H, W), normalised: (n, h, w) in [0, 1].

    Each is what speaks for fake, divided by its maximum, and zero throughout where nothing does; Locate and Verify's
    patches are probabilities. ``Grad-CAM@layer`` is Grad-CAM of any layer by its name. :class:`DfnbError` where there is none.
    """
    if method in LOCATED.values():
        with torch.inference_mode():
            return network.localise(network(images)).float().cpu().numpy()
    if method == "union":
        return np.max([compute(network, images, f"branch {i + 1}") for i in range(len(network.branches))], axis=0)
    if method in METHODS:
        found = METHODS[method](network, images)
    else:
        name = STREAMS.get(method, method.removeprefix(LAYER))
        name = f"branches.{int(name.removeprefix('branch ')) - 1}" if name.startswith("branch ") else name
        layers = dict(network.named_modules())
        if not name or name not in layers:
            known = ", ".join(each for each in layers if each and each.count(".") < 2)
            raise DfnbError(f"the network has no layer {name!r}; it has {known}, and those below them")
        found = grad_cam(network, images, layers[name])
    found = found.clamp(min=0)
    return (found / found.amax((1, 2), keepdim=True).clamp(min=1e-12)).cpu().numpy()


def maps(run: Run, frames: pd.DataFrame, method: str, echo: Callable[[str], None] = print) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of a method for the rows of a frames table, found where they were made before.

    A slow method says its cost first, by the time of one pass, and how far it is. :class:`DfnbError` for a method that the
    run has not.
    """
    known = [*METHODS, *own(run)]
    if method not in known and not method.startswith(LAYER):
        raise DfnbError(f"{run.folder.name} has no map {method!r}; it has {', '.join(known)}, and {LAYER}<layer>")
    facts = _facts(run, frames, map=method)
    path = run.folder / "attribution" / f"{facts['test_set']}@{_slug(method)}-{core.digest(facts, 8)}.npy"
    record = path.with_suffix(".json")
    if path.exists() and _holds(record, facts):
        return np.load(path).astype(np.float32)
    clock, device = core.Clock(), "cuda" if torch.cuda.is_available() else "cpu"
    network, parts, said = run.network().to(device), [], time.monotonic()
    step = _together(run)
    for start in range(0, len(frames), step):
        images = as_batch(run, frames.iloc[start : start + step])[0]["image"].to(device)
        if start == 0 and method in PASSES:
            with torch.inference_mode():
                network(images)
                begun = time.monotonic()
                network(images)
            seconds = (time.monotonic() - begun) / len(images) * len(frames) * PASSES[method]
            cost = f"{len(frames)} frames, {PASSES[method]} passes each, about {seconds:.0f} s"
            echo(f"{method}, {run.folder.name}: {cost}")
        parts.append(compute(network, images, method))
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            echo(f"{method}: {min(start + step, len(frames))} of {len(frames)} frames")
    with core.atomic(path) as temporary:
        np.save(temporary, np.concatenate(parts).astype(np.float16))
    core.write_json(record, {**facts, **clock.facts()})
    return np.load(path).astype(np.float32)


def _facts(run: Run, frames: pd.DataFrame, **more: Any) -> dict:
    """What maps and their measures depend on."""
    rows = frames[metrics.KEY["frame"]].astype(str).to_numpy().tolist()
    facts = {"fingerprint": frames.attrs["fingerprint"], "weights": run.record["outputs"]["best.safetensors"]}
    facts |= {"version": VERSION, "n": len(rows), "frames": core.digest(rows)}
    return facts | {"test_set": Path(frames.attrs["folder"]).name, **more}


def _holds(record: Path, facts: dict) -> bool:
    return record.exists() and facts.items() <= core.read_json(record).items()


def _together(run: Run) -> int:
    """How many of the run's images are explained at once."""
    return max(1, PIXELS // run.settings.image_size**2)


def _slug(text: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in text.lower())


def sample(test_set: str, per_method: int) -> pd.DataFrame:
    """Test frames of a dataset: so many of each method and of real, evenly spread over their rows."""
    test = select(load_frames(test_set), "test").reset_index(drop=True)
    kept = []
    for own_rows in test.groupby("method", observed=True).indices.values():
        kept += own_rows[np.unique(np.linspace(0, len(own_rows) - 1, per_method).round().astype(int))].tolist()
    return test.iloc[sorted(kept)]


def _scored(run: Run, frames: pd.DataFrame) -> pd.DataFrame:
    """Frames with plain text columns, the ``score`` of the run, and whether it has ``seen`` the method in training."""
    p, keys = run.record["parameters"], metrics.KEY["frame"]
    scores = figures.read(run, Path(frames.attrs["folder"]).name).astype({"video": str})[[*keys, "score"]]
    trained_on = p["seen_methods"] or select(load_frames(p["train_set"]), "train")["method"].unique()
    result = frames.astype({"video": str, "cluster": str, "method": str}).merge(scores, on=keys)
    result["seen"] = result["method"].isin(list(trained_on))
    result.attrs = frames.attrs
    return result


# ------------------------------------------------------------------------------------------------------------ measures


MEASURES = {
    "pointing": "pointing game",
    "energy": "energy in mask",
    "pixel_ap": "pixel AP",
    "best_iou": "best IoU",
    "pixel_auc": "pixel AUC",
    "deletion": "deletion",
    "insertion": "insertion",
}
STEPS = 10


@torch.inference_mode()
def faithfulness(network: nn.Module, images: Tensor, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(fake) (n, 11) while the pixels that a map (n, h, w) ranks highest are grey, or all others are.

    At 0, 10, …, 100 % of the pixels: deletion and insertion (Petsiuk et al., BMVC 2018, sec. 3.3). Equal values are in
    random order. Grey, since a blurred picture is itself fake to a detector.
    """
    large = F.interpolate(torch.from_numpy(maps)[:, None], images.shape[-2:], mode="bilinear", align_corners=False)
    ties = torch.from_numpy(core.rng("ties").random(large.shape)) * 1e-6
    rank = (large + ties).flatten(1).argsort(1, descending=True).argsort(1).view_as(large)
    found: tuple[list, list] = ([], [])
    for step in range(STEPS + 1):
        top = rank < step / STEPS * rank[0].numel()
        for kind, shown in zip(found, (images * ~top, images * top)):
            kind.append(network.score(network(shown)).numpy())
    return np.stack(found[0], 1), np.stack(found[1], 1)


def measure(
    run: Run, frames: pd.DataFrame, method: str, curves: bool = True, echo: Callable[[str], None] = print
) -> Path:
    """How well a map finds the forged region and what the decision rests on, one row a frame; found if made before.

    Returns ``runs/<id>/scores/<test set>@map <method>.parquet``, whose record beside it is written last: the scores of the
    frames, and where a fake has a mask the localisation measures, ``chance`` (its forged share) and, with ``curves``, the
    mean P(fake) under deletion (low is good) and insertion, and the curves. ``seen``: whether the run was trained on the
    manipulation. The union of branches has ``apart``, one minus the mean overlap Σ min / Σ max of those of
    their maps that are not empty.
    """
    facts = _facts(run, frames, map=method, curves=curves)
    path = _path(run, facts["test_set"], method)
    record = path.with_suffix(".json")
    if path.exists() and (_holds(record, facts) or _holds(record, facts | {"curves": True})):
        return path
    found, clock = maps(run, frames, method, echo), core.Clock()
    of_branches = [maps(run, frames, name) for name in own(run)[:-1]] if method == "union" else []
    network, step, rows = run.network(), _together(run), []
    for start in range(0, len(frames), step):
        chunk = slice(start, start + step)
        batch, _, masks = as_batch(run, frames.iloc[chunk])
        hidden = faithfulness(network, batch["image"], found[chunk]) if curves else ()
        for i, mask in enumerate(masks):
            row = {}
            if mask.any():
                row = metrics.localisation(found[start + i], mask) | {"chance": float(mask.mean())}
                for name, curve in zip(("deletion", "insertion"), hidden):
                    values = {f"{name} {10 * k}": float(value) for k, value in enumerate(curve[i])}
                    row |= {name: float(np.trapezoid(curve[i], dx=1 / STEPS)), **values}
                pairs = combinations([of[start + i] for of in of_branches], 2)
                if overlaps := [_overlap(a, b) for a, b in pairs if a.any() and b.any()]:
                    row["apart"] = 1 - np.mean(overlaps)
            rows.append(row)
    table = _scored(run, frames)[[*metrics.COLUMNS, "seen"]]
    with core.atomic(path) as temporary:
        table.join(pd.DataFrame(rows, dtype=float)).to_parquet(temporary, index=False, compression="zstd")
    core.write_json(record, {**facts, "sha256": core.sha256(path), **clock.facts()})
    return path


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    whole = np.maximum(a, b).sum()
    return float(np.minimum(a, b).sum() / whole) if whole else float("nan")


def _path(run: Run, test_set: str, method: str) -> Path:
    return run.folder / "scores" / f"{test_set}@map-{_slug(method)}.parquet"


def read(run: Run, test_set: str, method: str) -> pd.DataFrame:
    """The table of :func:`measure`; :class:`DfnbError` where it was not made or is not what its record describes."""
    path = _path(run, test_set, method)
    record = path.with_suffix(".json")
    if not (path.exists() and record.exists()) or core.read_json(record)["sha256"] != core.sha256(path):
        raise DfnbError(f"{path} is not there or not what its record describes; run notebook 07 again")
    return pd.read_parquet(path)


def _measured(group: Sequence[Run]) -> dict[tuple[str, str], list[pd.DataFrame]]:
    """By (map, test set): the tables of those runs of a line that were measured."""
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for run in group:
        records = [core.read_json(path) for path in sorted((run.folder / "scores").glob("*@map-*.json"))]
        order = [*own(run), *METHODS] if records else []
        order += sorted({facts["map"] for facts in records} - set(order))  # Grad-CAM of a layer
        for facts in sorted(records, key=lambda facts: (order.index(facts["map"]), facts["test_set"])):
            key = facts["map"], facts["test_set"]
            found.setdefault(key, []).append(read(run, facts["test_set"], facts["map"]))
    return found


def _cells(tables: Sequence[pd.DataFrame], names: dict[str, str] = MEASURES) -> dict[str, str]:
    """Means over frames and seeds with 95 % interval over clusters, of the measures that all tables have."""
    known = [key for key in names if all(key in table and table[key].notna().any() for table in tables)]
    found = {names[key]: metrics.auc(list(tables), "frame", metric=key) for key in known}
    cells = {name: interval(*(row[key] for key in ("value", "low", "high"))) for name, row in found.items()}
    chance = np.mean([table["chance"].mean() for table in tables]) if known else np.nan
    return cells | {"chance": f"{chance:.3f}", "fakes": str(max([row["n"] for row in found.values()], default=0))}


def against_masks(lines: dict[str, list[Run]], wanted: Sequence[str] = ()) -> pd.DataFrame:
    """The measures of every map of every line, or of the ``wanted`` maps, by test set; ``chance``: mean forged share."""
    rows = {}
    for line, group in lines.items():
        failing = fails(group[0])
        for (name, test_set), tables in _measured(group).items():
            if not wanted or name in wanted:
                cells = _cells(tables, MEASURES | {"apart": "branches apart"})
                rows[line, marked(name, failing), test_set] = cells | {"seeds": str(len(tables))}
    return _table(rows, ["line", "map", "on"])


def by_group(lines: dict[str, list[Run]]) -> pd.DataFrame:
    """The measures over all test sets by whether the manipulation was seen in training and whether the fake was found out."""
    rows = {}
    for line, group in lines.items():
        pooled: dict[str, list[pd.DataFrame]] = {}
        for (name, test_set), tables in _measured(group[:1]).items():
            table = tables[0]
            names = {key: test_set + "/" + table[key].astype(str) for key in ("video", "cluster")}
            pooled.setdefault(name, []).append(table[table["chance"].notna()].assign(**names))
        for name, parts in pooled.items():
            whole = pd.concat(parts, ignore_index=True)
            right = whole["score"] > 0.5
            groups = {"seen": whole["seen"], "unseen": ~whole["seen"], "right": right, "wrong": ~right}
            for title, chosen in groups.items():
                if chosen.any():
                    rows[line, marked(name, fails(group[0])), title] = _cells([whole[chosen]])
    return _table(rows, ["line", "map", "fakes that are"])


def _table(rows: dict, names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows).T.rename_axis(names).fillna("–") if rows else pd.DataFrame()


def curves(lines: dict[str, list[Run]]) -> Figure | None:
    """Mean P(fake) while pixels are deleted or inserted in the order of each map, over forged frames of the first test set."""
    found = {}
    for line, group in lines.items():
        tables = {
            name: of[0]
            for (name, _), of in reversed(_measured(group[:1]).items())
            if "deletion 0" in of[0] and "branch" not in name
        }
        found |= {line: tables} if tables else {}
    if not found:
        return None
    figure, panels = plt.subplots(2, len(found), figsize=(WIDTH, 4.2), sharex=True, sharey=True, squeeze=False)
    names = list(dict.fromkeys(name for tables in found.values() for name in tables))[::-1]
    for (line, tables), column in zip(found.items(), panels.T):
        for axes, kind in zip(column, ("deletion", "insertion")):
            for name, table in tables.items():
                values = [table[f"{kind} {10 * k}"].mean() for k in range(STEPS + 1)]
                i = names.index(name)
                look = {"color": "0.5", "linestyle": ":"} if name in CONTROLS else {"color": PALETTE[i % 10]}
                look |= {"marker": "osD^vP*Xph"[i % 10], "markersize": 3, "label": name}
                axes.plot(np.linspace(0, 100, STEPS + 1), values, **look)
        column[0].set_title(line.split(" (")[0], fontsize=7)
        column[1].set_xlabel("pixels, %")
    for axes, kind in zip(panels[:, 0], ("deletion", "insertion")):
        axes.set_ylabel(f"P(fake), {kind}")
    handles = {name: line for axes in panels.flat for line, name in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=7)
    return figure


# -------------------------------------------------------------------------------------------------------------- sanity


def cascade(network: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """Copies of a network whose weights are random from the decision down: a ``quarter`` of the layers, ``half``, ``all``.

    Adebayo et al., NeurIPS 2018. The order is that of execution; what has no initialisation of its own gets normal
    numbers of the same mean square.
    """
    order: list[str] = []
    with_weights = {name: layer for name, layer in network.named_modules() if list(layer.parameters(recurse=False))}
    hooks = [
        each.register_forward_hook(lambda *_, name=name: order.append(name)) for name, each in with_weights.items()
    ]
    with torch.inference_mode():
        network(images[:1])
    for hook in hooks:
        hook.remove()
    order = [*(name for name in with_weights if name not in order), *dict.fromkeys(order)][::-1]
    found = {}
    for stage, count in {"quarter": len(order) // 4, "half": len(order) // 2, "all": len(order)}.items():
        found[stage] = copy.deepcopy(network)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(core.torch_seed("sanity"))
            for layer in (found[stage].get_submodule(name) for name in order[:count]):
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
                    continue
                for weights in layer.parameters(recurse=False):
                    weights.copy_(torch.randn_like(weights) * weights.square().mean().sqrt())
    return found


def similarity(a: np.ndarray, b: np.ndarray, side: int = 24) -> np.ndarray:
    """Rank correlation (n,) in [-1, 1] of maps (n, h, w) and (n, h', w') on a grid; 0 where one is the same everywhere."""
    ranks = []
    for maps in (a, b):
        small = [cv2.resize(each.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) for each in maps]
        rank = rankdata(np.round(small, 6).reshape(len(maps), -1), axis=1)
        rank -= rank.mean(1, keepdims=True)
        ranks.append(rank / np.maximum(np.linalg.norm(rank, axis=1, keepdims=True), 1e-9))
    return (ranks[0] * ranks[1]).sum(1)


def sanity(run: Run, frames: pd.DataFrame, methods: Sequence[str], others: dict[str, Run]) -> Path:
    """Whether maps change with the weights, and how alike the methods are; ``runs/<id>/scores/sanity@maps.json``.

    Mean rank correlation over the forged frames of each map with itself after :func:`cascade`, and with that of ``others``, by
    name; those without the map are left out. And of each two methods. ``empty``: share of frames without any evidence.
    """
    path, frames = run.folder / "scores" / "sanity@maps.json", frames[frames["label"] == 1]
    facts = _facts(run, frames, methods=list(methods), others={name: of.folder.name for name, of in others.items()})
    if _holds(path, facts):
        return path
    images = as_batch(run, frames)[0]["image"]
    whole = {name: maps(run, frames, name) for name in methods}
    changed: dict[str, dict[str, float]] = {name: {} for name in methods}
    for stage, network in cascade(run.network(), images).items():
        for name in methods:
            again = np.concatenate([compute(network, part, name) for part in images.split(_together(run))])
            changed[name][stage] = float(similarity(whole[name], again).mean())
    for other, trained in others.items():
        for name in (name for name in methods if name in (*METHODS, *own(trained))):
            changed[name][other] = float(similarity(whole[name], maps(trained, frames, name)).mean())
    for name in methods:
        changed[name]["empty"] = float((np.ptp(whole[name], axis=(1, 2)) < 1e-6).mean())
    alike = {a: {b: float(similarity(whole[a], whole[b]).mean()) for b in methods} for a in methods}
    core.write_json(path, {**facts, "changed": changed, "alike": alike})
    return path


SHUFFLED = "shuffled labels"


def _sane(run: Run) -> dict:
    path = run.folder / "scores" / "sanity@maps.json"
    return core.read_json(path) if path.exists() else {"changed": {}, "alike": {}, "n": 0}


def fails(run: Run) -> set[str]:
    """The maps of a run that fail the sanity test: with all weights random, or other labels, they look the same; or empty."""
    rules = {"all": ALIKE, SHUFFLED: ALIKE, "empty": 0.5}
    changed = _sane(run)["changed"].items()
    return {name for name, of in changed if any(of.get(what, 0) >= limit for what, limit in rules.items())}


def marked(name: str, failing: set[str]) -> str:
    """A map's name in tables and figures, which says so where it fails the sanity test."""
    return f"{name} (fails sanity)" if name in failing else name


def sane(lines: dict[str, list[Run]]) -> pd.DataFrame:
    """The sanity test of each line's maps: mean rank correlations, the share of empty maps, the verdict."""
    rows = {}
    for line, group in lines.items():
        found = _sane(group[0])
        for name, of in found["changed"].items():
            cells = {what: f"{value:.2f}" for what, value in of.items()}
            cells |= {"frames": str(found["n"]), "verdict": "fails" if name in fails(group[0]) else "passes"}
            rows[line, name] = cells
    return _table(rows, ["line", "map"])


def agreement(lines: dict[str, list[Run]]) -> pd.DataFrame:
    """Mean rank correlation of each two maps of a line on the same frames."""
    rows = {}
    for line, group in lines.items():
        failing = fails(group[0])
        for name, of in _sane(group[0])["alike"].items():
            rows[line, marked(name, failing)] = {other: f"{value:.2f}" for other, value in of.items()}
    return _table(rows, ["line", "map"])


def shuffled(train_set: str, seed: int = 0) -> str:
    """A dataset of the same pictures whose training videos have each other's labels; returns its name.

    Video by video, method and label together; masks are left out of what is now real. Validation and test stay as they are.
    """
    name, frames = f"{train_set}-shuffled", load_frames(train_set)
    folder = core.home() / "datasets" / name
    parameters = {"labels of": train_set, "fingerprint": frames.attrs["fingerprint"], "seed": seed}
    if (record := core.read_record(folder)) and record["parameters"] == parameters:
        return name
    train_rows = (frames["split"] == "train").to_numpy()
    videos = frames[train_rows].astype({"video": str, "method": str}).drop_duplicates("video").set_index("video")
    order = core.rng("shuffled labels", seed).permutation(len(videos))
    new = videos[["method", "label"]].iloc[order].set_axis(videos.index)
    plain = frames.astype(dict.fromkeys(frames.select_dtypes("category"), str))
    for column in new:
        plain.loc[train_rows, column] = new[column].reindex(plain["video"][train_rows]).to_numpy()
    plain.loc[train_rows & (plain["label"] == 0), "mask"] = ""
    for column in ("path", "mask"):
        plain[column] = plain[column].where(plain[column] == "", f"../{train_set}/" + plain[column])
    with core.atomic(folder / "frames.parquet") as temporary:
        pq.write_table(pa.Table.from_pandas(plain.assign(dataset=name), SCHEMA, preserve_index=False), temporary)
    compression = frames.attrs["record"].get("compression", "as delivered")
    fingerprint = core.digest(parameters, 16)
    core.write_record(folder, parameters, ["frames.parquet"], fingerprint=fingerprint, compression=compression)
    return name


def retrained(run: Run) -> Run:
    """The run's training once more with :func:`shuffled` labels; what it learns of them is no forgery."""
    p = run.record["parameters"]
    return train(run.paper, shuffled(p["train_set"]), run.settings, p["seed"], p["seen_methods"])


# ------------------------------------------------------------------------------------------------------------ branches


def branch_likeness(network: nn.Module, images: Tensor) -> pd.DataFrame:
    """How alike each two branches of Exposing the Deception are on images (n, 3, H, W); one row a pair, in [0, 1].

    ``CKA`` of their local features, 1 for the same up to rotation and scale (linear, Kornblith et al., ICML 2019, sec. 3;
    networks trained apart share no axes, so cosines between features would say nothing); ``map overlap``, the mean
    over images of Σ min / Σ max of their maps. An image for which neither has any evidence is left out.
    """
    parts = images.split(32)  # of a large network not all activations at once
    with torch.no_grad():
        local = torch.cat([network(part)["local"].double() for part in parts], 1)
    local -= local.mean(1, keepdim=True)
    names = [f"branch {i + 1}" for i in range(len(local))]
    maps = [np.concatenate([compute(network, part, name) for part in parts]) for name in names]
    rows = {}
    for i, j in combinations(range(len(local)), 2):
        shared, one, other = (torch.linalg.norm(local[a].T @ local[b]) for a, b in ((i, j), (i, i), (j, j)))
        overlap = pd.Series([_overlap(*pair) for pair in zip(maps[i], maps[j])]).mean()
        rows[i + 1, j + 1] = {"CKA": (shared**2 / (one * other)).item(), "map overlap": float(overlap)}
    return pd.DataFrame(rows).T


@torch.inference_mode()
def attention(network: nn.Module, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """LAE's own maps (n, h, w) in [0, 1], each divided by its maximum, and P(fake) (n,) of images (n, 3, H, W)."""
    outputs = network(images)
    return network.localise(outputs).numpy(), network.score(outputs).numpy()


def branch_table(runs: figures.Lines, name: str, n: int = 200) -> pd.DataFrame:
    """How alike the branches are, by line: mean over their pairs, then over seeds with the t interval of the seeds.

    On ``n`` test frames of a dataset, evenly spread; see :func:`branch_likeness`.
    """
    test = select(load_frames(name), "test")
    n = min(n, len(test))
    chosen = test.iloc[np.linspace(0, len(test) - 1, n).round().astype(int)]
    rows = {}
    for line, group in figures.lines(runs).items():
        found = [branch_likeness(run.network(), as_batch(run, chosen)[0]["image"]).mean() for run in group]
        over = {column: metrics.over_seeds([pairs[column] for pairs in found]) for column in found[0].index}
        cells = {column: interval(*(of[key] for key in ("mean", "low", "high"))) for column, of in over.items()}
        rows[line] = cells | {"seeds": len(group), "frames": n}
    return pd.DataFrame(rows).T.rename_axis("line")


# ------------------------------------------------------------------------------------------------------------ pictures


def figure(run: Run, tables: Sequence[pd.DataFrame] | pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Frames with their true masks, and below each the maps of a run; P(fake) above. Tables may be of several datasets."""
    tables = [tables] if isinstance(tables, pd.DataFrame) else list(tables)
    batches = [as_batch(run, frames) for frames in tables]
    network, failing = run.network(), fails(run)
    with torch.inference_mode():
        scores = np.concatenate([network.score(network(batch["image"])).numpy() for batch, _, _ in batches])
    rows = [("frame, mask", np.concatenate([shown for _, shown, _ in batches]), {}, True)]
    for name in methods:
        found = [maps(run, frames, name) for frames in tables]
        title = marked(name, failing).replace(" (", "\n(")
        rows.append((title, np.concatenate(found), MAP, True))
    masks = np.concatenate([mask for _, _, mask in batches])
    return panel(pd.concat(tables), scores, masks, rows, "share of maximum")


def columns(run: Run, test_sets: Sequence[str]) -> list[pd.DataFrame]:
    """The frames of a paper's panel by rule, of each test set, home first: the first fake of a seen and of an unseen method,
    the first real, and the most confident errors on either side."""
    found = []
    for place, test_set in zip(("home", "away"), test_sets):
        test = _scored(run, select(load_frames(test_set), "test"))
        fakes, real = test[test["label"] == 1], test[test["label"] == 0]
        chosen = {"seen": fakes[fakes["seen"]].head(1), "unseen": fakes[~fakes["seen"]].head(1), "real": real.head(1)}
        chosen |= {"missed": fakes[fakes["score"] <= 0.5].nsmallest(1, "score")}
        chosen |= {"accused": real[real["score"] > 0.5].nlargest(1, "score")}
        parts = [
            part.assign(method=f"{place}\n{kind}\n" + part["method"]) for kind, part in chosen.items() if len(part)
        ]
        found.append(pd.concat(parts))
    return found


def average(run: Run, frames: pd.DataFrame, method: str) -> Figure:
    """The mean map over aligned faces, by manipulation and for errors, below the mean face: where a detector looks in general.

    Faces are laid over each other by a shift, turn and scale of their landmarks; those without are left out. The outline
    is where most masks lie.
    """
    batch, shown, masks = as_batch(run, frames)
    points, found, side = batch["landmarks"].numpy(), maps(run, frames, method), shown.shape[1]
    known = ~np.isnan(points).any((1, 2))
    if not known.any():
        raise DfnbError(f"{frames.attrs['folder']} has no landmarks to align by; prepare it with the face detector")
    mean, parts = points[known].mean(0), [np.zeros(shown.shape), np.zeros(masks.shape), np.zeros(masks.shape)]
    for i in np.flatnonzero(known):
        turn = cv2.estimateAffinePartial2D(points[i], mean, method=cv2.LMEDS)[0]
        for part, pixels in zip(parts, (shown[i], found[i], masks[i])):
            part[i] = cv2.warpAffine(cv2.resize(pixels, (side, side)), turn, (side, side))
    table = _scored(run, frames)
    fake, error = table["label"] == 1, (table["score"] > 0.5) != (table["label"] == 1)
    methods = sorted(set(table["method"]), key=lambda name: (name == "real", name))
    groups = {name: table["method"] == name for name in methods}
    groups |= {"fakes missed": fake & error, "reals accused": ~fake & error}
    groups = {name: rows & known for name, rows in groups.items() if (rows & known).any()}
    faces, looks, forged = (np.stack([part[rows].mean(0) for rows in groups.values()]) for part in parts)
    titles = pd.DataFrame({"method": [f"{name}\nn = {rows.sum()}" for name, rows in groups.items()]})
    title = marked(method, fails(run))
    rows = [("mean face", faces.astype(np.uint8), {}, False), (title.replace(" ", "\n"), looks, MAP, True)]
    return panel(titles, [table["score"][rows].mean() for rows in groups.values()], forged > 0.5, rows, "mean map")


def picture(path: str | Path, echo: Callable[[str], None] = print) -> pd.DataFrame:
    """The face of a reader's image or of the middle frame of a video, prepared as ``dfnb prepare`` does: a table of one row.

    Of several faces the largest is taken, and said so. :class:`DfnbError` where there is no file, no picture or no face.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DfnbError(f"there is no file {path}; give the path of an image or a video")
    name = f"picture-{core.sha256(path)[:8]}"
    source = Source("picture", path, 0, "real")
    settings = prepare.Settings(frames_per_video=1)
    try:
        prepare.prepare(name, [source], settings, workers=1, progress=False)
    except DfnbError:
        unused = core.home() / "datasets" / name / "quarantine.csv"
        reason = pd.read_csv(unused)["reason"].iloc[0] if unused.exists() else ""
        if not reason:
            raise
        mend = f"give a picture with a face of at least {settings.min_face} pixels"
        raise DfnbError(f"{path}: {reason}; {mend}") from None
    faces = load_frames(name)
    boxes = np.array(faces["crop_box"].tolist())
    largest = int((boxes[:, 2] - boxes[:, 0]).argmax())
    if len(faces) > 1:
        left, top, right, bottom = boxes[largest].round().astype(int)
        echo(f"{path.name} has {len(faces)} faces; the largest is taken, at x {left} to {right}, y {top} to {bottom}")
    return faces.assign(method=path.name).iloc[[largest]]


def judge(runs: dict[str, Run], face: pd.DataFrame, methods: Sequence[str] = ("Grad-CAM",)) -> Figure:
    """A reader's picture, one row a detector: P(fake), and its maps, the paper's own and those of ``methods``."""
    wanted = {name: list(dict.fromkeys([*own(run), *methods])) for name, run in runs.items()}
    width = 1 + max(map(len, wanted.values()))
    drawn, axes = plt.subplots(len(runs), width, figsize=(WIDTH, (WIDTH / width + 0.3) * len(runs)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for (name, run), line in zip(runs.items(), axes):
        batch, shown, _ = as_batch(run, face)
        network = run.network()
        with torch.inference_mode():
            score = network.score(network(batch["image"])).item()
        line[0].imshow(shown[0])
        title = name.split(" (")[0].replace(" the ", " the\n")
        line[0].set_title(f"{title}\nP(fake) {score:.2f}", fontsize=6.5)
        for axis, method in zip(line[1:], wanted[name]):
            picture = axis.imshow(cv2.resize(maps(run, face, method)[0], shown.shape[1:3]), **MAP)
            axis.set_title(marked(method, fails(run)).replace(" (", "\n("), fontsize=7, fontweight="normal")
    drawn.colorbar(picture, ax=axes, shrink=0.6).set_label("share of maximum", fontsize=7)
    drawn.supxlabel(NOTE, fontsize=7)
    return drawn


def browse(runs: dict[str, Run], frames: pd.DataFrame) -> None:
    """Choose run, map and frame by widgets in JupyterLab; elsewhere only their first choice is shown."""

    def show(detector: str, method: str, frame: int) -> None:
        try:
            maps(runs[detector], frames.iloc[[frame]], method, echo=lambda line: None)  # a widget keeps one output
            figure(runs[detector], frames.iloc[[frame]], [method])
            plt.show()
        except DfnbError as error:
            print(error)

    choices = list(dict.fromkeys([*METHODS, *(name for run in runs.values() for name in own(run))]))
    ipywidgets.interact(show, detector=list(runs), method=choices, frame=(0, len(frames) - 1))
