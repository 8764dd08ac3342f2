"""How well a map finds the forgery, whether the decision rests on it, and whether it depends on the network at all.

:func:`measure` and :func:`sanity` write one row per frame into the store, under the conditions ``map <name>`` and
``sanity <name>``; means, intervals and tables are made from there.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb import core, metrics, scores
from dfnb.attribution import maps
from dfnb.data import prepare, sources
from dfnb.data.frames import dataset_record, in_order, load_frames, select
from dfnb.train import DEVICE, Run, region

STEPS = 10  # of the curves: 0, 10, ..., 100 % of the pixels
# The means from which a map fails the sanity test: of rank correlations, and of the share of empty maps.
FAILS = {"all": 0.5, "shuffled labels": 0.5, "empty": 0.5}


def sample(test_set: str, forged: int, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """Test frames of a dataset, evenly spread over their rows: about ``forged`` of the methods, equally many of each.

    Of real frames there are as many as of one method; of each at least one.
    """
    test = select(load_frames(test_set), "test", methods).reset_index(drop=True)
    groups = test.astype({"method": str}).groupby("method").indices.values()
    n = max(1, round(forged / (len(groups) - 1)))
    rows = [group[np.linspace(0, len(group) - 1, n).round().astype(int)] for group in groups]
    return test.iloc[np.unique(np.concatenate(rows))]


def _keep(run: Run, frames: pd.DataFrame, condition: str, facts: dict, make: Callable) -> pd.DataFrame:
    """The run's scores of these frames, in their order, with the measures that ``make`` computes; kept in the store."""
    test_set = Path(frames.attrs["folder"]).name

    def joined() -> pd.DataFrame:
        clean = scores.score(run, test_set).astype({"video": str})
        return frames[metrics.KEY["frame"]].astype({"video": str}).merge(clean)[list(metrics.COLUMNS)].join(make())

    return scores.keep(run, test_set, condition, maps.describe(run, frames) | facts, joined)


@torch.inference_mode()
def faithfulness(network: nn.Module, images: Tensor, found: np.ndarray) -> dict[str, np.ndarray]:
    """P(fake) (n, 11) while the pixels ranked highest by maps (n, h, w) are grey (deletion) or alone are shown (insertion).

    At 0, 10, ..., 100 % of the pixels (Petsiuk et al., BMVC 2018, sec. 3.3). Equal values are ordered at random. Grey,
    since a detector takes a blurred picture itself for a fake.
    """
    large = F.interpolate(torch.from_numpy(found)[:, None].to(images.device), images.shape[-2:], mode="bilinear")
    ties = torch.from_numpy(core.rng("ties").random(images.shape[-2:])).to(images.device) * 1e-6
    rank = (large + ties).flatten(1).argsort(1, descending=True).argsort(1).view_as(large)
    tops = [rank < step / STEPS * rank[0].numel() for step in range(STEPS + 1)]

    def score(shown: Tensor) -> np.ndarray:
        return network.score(network(images * shown)).cpu().numpy()

    deletion, insertion = [score(~top) for top in tops], [score(top) for top in tops]
    return {"deletion": np.stack(deletion, 1), "insertion": np.stack(insertion, 1)}


def measure(run: Run, frames: pd.DataFrame, name: str, curves: bool = True) -> pd.DataFrame:
    """Measure a map on the forged rows of a frames table; kept in the store as ``map <name>``, one row per forged frame.

    Columns beside those of a score table: the localisation measures and ``chance``, the forged share of the frame (NaN
    without a mask); with ``curves`` the mean P(fake) under ``deletion`` (low is good) and ``insertion``, and the curves
    themselves ("deletion 0", "deletion 10", ...); for a map that is the maximum of others ``apart``, one minus their mean
    :func:`overlap`, and ``CKA``, the mean :func:`branch_likeness` of the branches, the same in all rows.
    """
    forged = frames[frames["label"] == 1]

    def measures() -> pd.DataFrame:
        network, found, constant = run.network().to(DEVICE), maps.of(run, forged, name), run.mean_mask()
        rows: list[dict[str, float]] = []
        for batch in maps.batches(forged, run.settings):
            images = batch["image"].to(DEVICE)
            chunk = found[len(rows) : len(rows) + len(images)]
            hidden = faithfulness(network, images, chunk) if curves else {}
            for i, mask in enumerate(batch["mask"][:, 0].numpy() > 0):
                row = region(chunk[i], mask, constant)
                row["chance"] = mask.mean() if mask.any() else np.nan
                for kind, values in hidden.items():
                    row[kind] = np.trapezoid(values[i], dx=1 / STEPS)
                    row |= {f"{kind} {100 * step // STEPS}": value for step, value in enumerate(values[i])}
                rows.append(row)
        table, own = pd.DataFrame(rows, dtype=float), network.maps().get(name)
        if isinstance(own, tuple):
            pairs = combinations([maps.of(run, forged, part) for part in own], 2)
            table["apart"] = 1 - pd.DataFrame([overlap(a, b) for a, b in pairs]).mean()
            alike = branch_likeness(network, torch.cat([b["image"] for b in in_order(forged, run.settings)]).to(DEVICE))
            table["CKA"] = alike.to_numpy()[np.triu_indices(len(alike), 1)].mean()
        return table

    return _keep(run, forged, f"map {name}", {"curves": curves}, measures)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ min / Σ max of maps (n, h, w) and (n, h, w): (n,) in [0, 1], NaN where one of the two is empty."""
    shared, whole = np.minimum(a, b).sum((1, 2)), np.maximum(a, b).sum((1, 2))
    return np.where(a.any((1, 2)) & b.any((1, 2)), shared / np.maximum(whole, 1e-12), np.nan)


def cascade(network: nn.Module, image: Tensor) -> dict[str, nn.Module]:
    """Copies of a network with random weights from the decision down: in a ``quarter`` of its layers, ``half``, ``all``.

    Adebayo et al., NeurIPS 2018, sec. 3.1. The order is that of execution on ``image`` (1, 3, H, W). A layer that cannot
    reset itself gets normal numbers with the mean square of its weights.
    """
    probe, executed = copy.deepcopy(network), {}
    layers = [name for name, layer in network.named_modules() if list(layer.parameters(recurse=False))]
    for name in layers:
        probe.get_submodule(name).register_forward_hook(lambda *_, name=name: executed.setdefault(name))
    with torch.inference_mode():
        probe(image)
    from_the_top = [*(name for name in layers if name not in executed), *executed][::-1]
    n, copies = len(from_the_top), {}
    for stage, count in {"quarter": n // 4, "half": n // 2, "all": n}.items():
        copies[stage] = copy.deepcopy(network)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(core.torch_seed("sanity"))
            for name in from_the_top[:count]:
                _randomise(copies[stage].get_submodule(name))
    return copies


def _randomise(layer: nn.Module) -> None:
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
        return
    for weights in layer.parameters(recurse=False):
        weights.copy_(torch.randn_like(weights) * weights.square().mean().sqrt())


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation (n,) in [-1, 1] of maps (n, h, w) and (n, h', w') on a grid of 24 × 24; 0 where one is the same everywhere."""
    small = [F.interpolate(torch.from_numpy(whole)[:, None].float(), (24, 24), mode="area") for whole in (a, b)]
    ranks = rankdata(torch.stack(small).flatten(2).numpy().round(6), axis=2)
    ranks -= ranks.mean(2, keepdims=True)
    ranks /= np.maximum(np.linalg.norm(ranks, axis=2, keepdims=True), 1e-9)
    return ranks.prod(0).sum(1)


def sanity(run: Run, frames: pd.DataFrame, names: list[str], others: Mapping[str, Run]) -> None:
    """Whether maps change with the weights: tables in the store as ``sanity <name>``, a row per forged frame.

    Columns: the rank correlation of the map with itself after :func:`cascade` (``quarter``, ``half``, ``all``) and with that
    of the ``others``, runs of the same paper, by name ("shuffled labels", "another seed"); ``empty``, 1 where it is the
    same everywhere. A map fails where a mean is at least that of :data:`FAILS`.
    """
    forged = frames[frames["label"] == 1]
    image = next(in_order(forged.head(1), run.settings))["image"]

    def changes(name: str) -> pd.DataFrame:
        found, copies = maps.of(run, forged, name), cascade(run.network(), image)
        compared = {stage: maps.explain(network, run.settings, forged, name) for stage, network in copies.items()}
        compared |= {title: maps.of(other, forged, name) for title, other in others.items()}
        table = pd.DataFrame({title: similarity(found, changed) for title, changed in compared.items()})
        return table.assign(empty=(np.ptp(found, axis=(1, 2)) < 1e-6).astype(float))

    facts = {"others": {title: other.id for title, other in others.items()}}
    for name in names:
        _keep(run, forged, f"sanity {name}", facts, lambda name=name: changes(name))


def branch_likeness(network: nn.Module, images: Tensor) -> pd.DataFrame:
    """How alike the features of a network's branches are on images (n, 3, H, W): linear CKA in [0, 1], branches by branches.

    1 for the same up to rotation and scale (Kornblith et al., ICML 2019, sec. 3). The features are ``local`` of the network's
    outputs, (branches, n, D). How far apart the branches look is the measure ``apart`` of their maps' maximum.
    """
    with torch.no_grad():  # in parts, to bound the memory of the activations
        local = torch.cat([network(part)["local"].double() for part in images.split(32)], 1)
    local -= local.mean(1, keepdim=True)
    gram = F.normalize((local @ local.mT).flatten(1))
    branches = [f"branch {i + 1}" for i in range(len(local))]
    return pd.DataFrame((gram @ gram.T).cpu().numpy(), branches, branches)


def picture(path: str | Path, train_set: str, frames: int = 1) -> pd.DataFrame:
    """The face in a reader's image, or in so many evenly spaced ``frames`` of a video, as a frames table.

    Prepared as ``dfnb prepare`` does, with the crop size and scale of the training set where its record has them. Of several
    faces the largest is taken, in a video the one that is seen longest. Raises :class:`DfnbError` where there is no file, no
    picture or no face.
    """
    crop = {key: value for key, value in dataset_record(train_set)["parameters"].items() if key in ("size", "scale")}
    settings = prepare.Settings.check({"frames_per_video": frames, **crop}, f"{path}, number of frames")
    with core.reading(path, "here", "give the path of an image or a video that can be read"):
        path = Path(path).expanduser()
        if not path.is_file():
            raise core.DfnbError(f"there is no file {path}; give the path of an image or a video")
        name = f"picture-{core.digest([core.sha256(path), crop, frames], 8)}"
    try:
        prepare.prepare(name, [sources.Source("picture", path, 0, "real")], settings, workers=1, progress=False)
    except core.DfnbError as error:
        raise core.DfnbError(f"{path}: {error}; only faces of {settings.min_face} pixels or more are used") from None
    return load_frames(name).assign(method=sources.printable(Path(path.name)))
