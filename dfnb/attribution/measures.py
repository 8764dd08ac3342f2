"""How good a map is: whether it finds the forgery, and depends on the decision and on the network.

:func:`measure` and :func:`sanity` give one row per forged frame; means, intervals and tables are
made from these rows.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb.attribution import maps
from dfnb.data.frames import load_frames, select
from dfnb.data.loading import as_batch
from dfnb.papers.contract import Network
from dfnb.runs import Run
from dfnb.scoring import DEVICE, region, single_thread, test_set_facts
from dfnb.seeds import rng, torch_seed
from dfnb.store import KEYS

STEPS = 10  # of the curves: 0, 10, ..., 100 % of the pixels


def sample(
    test_set: str,
    forged: int,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Test frames of a dataset, evenly spread over its rows.

    Args:
        test_set: Name of a dataset.
        forged: About how many forged frames, equally many of each manipulation method. Real frames
            there are as many as of one method. Of each there is at least one.
        methods: The manipulation methods; by default all.
    """
    frames = load_frames(test_set)
    test = select(frames, "test", methods)
    method = test["method"].astype(str)
    rows_by_method = test.groupby(method).indices
    forgery_methods = len(rows_by_method) - 1
    count = max(1, round(forged / forgery_methods))
    chosen = []
    for rows in rows_by_method.values():
        last = len(rows) - 1
        places = np.linspace(0, last, count).round()
        places = places.astype(int)
        chosen.append(rows[places])
    every_row = np.concatenate(chosen)
    return test.iloc[np.unique(every_row)]


# ---------------------------------------------------------------- localisation and faithfulness


@single_thread()
def measure(run: Run, frames: pd.DataFrame, name: str) -> pd.DataFrame:
    """The measures of a map on the forged rows of a frames table, one row per forged frame.

    Columns beside :data:`dfnb.store.KEYS`:

    - those of :func:`dfnb.scoring.region`, with the mean mask of the training as the constant map;
      NaN without a mask;
    - ``chance``, the forged share of the frame; NaN without a mask;
    - those of :func:`faithfulness`;
    - for a map that is the maximum of others, those of ``Network.compare``.
    """
    forged = frames[frames["label"] == 1].reset_index(drop=True)
    frame_maps = maps.of(run, forged, name)
    network = run.network().to(DEVICE)
    batch = as_batch(forged, run.settings)
    images = batch["image"].to(DEVICE)
    masks = batch["mask"][:, 0].numpy() > 0
    mean_mask = run.mean_mask()
    regions = []
    for frame_map, mask in zip(frame_maps, masks):
        measures = region(frame_map, mask, mean_mask)
        measures["chance"] = np.nan
        if mask.any():
            measures["chance"] = mask.mean()
        regions.append(measures)
    curves = []
    at_once = maps.at_once(run.settings)
    for start in range(0, len(images), at_once):
        some = slice(start, start + at_once)
        curve = faithfulness(network, images[some], frame_maps[some])
        curves.append(curve)
    table = forged[list(KEYS)]
    table = table.join(pd.DataFrame(regions))
    table = table.join(pd.concat(curves, ignore_index=True))
    parts = network.maps().get(name)
    if isinstance(parts, tuple):
        part_maps = [maps.of(run, forged, part) for part in parts]
        comparison = network.compare(part_maps, images)
        table = table.assign(**comparison)
    table.attrs = test_set_facts(forged)
    return table


@torch.inference_mode()
def faithfulness(
    network: Network,
    images: Tensor,
    frame_maps: np.ndarray,
) -> pd.DataFrame:
    """P(fake) while pixels are hidden in the order of a map (Petsiuk et al., BMVC 2018, sec. 3.3).

    The pixels that a map ranks highest are made grey (``deletion``), or they alone are shown
    (``insertion``): 0, 10, ..., 100 % of all. Equal values are ordered at random. Hidden pixels are
    grey and not blurred, because a detector takes a blurred picture itself for a fake.

    Args:
        network: A detector.
        images: (n, 3, H, W), normalised.
        frame_maps: (n, h, w).

    Returns:
        One row per image: P(fake) as ``deletion 0``, ``deletion 10``, ..., ``insertion 100``, and
        the areas under the two curves as ``deletion``, low where the map is good, and
        ``insertion``.
    """
    size = images.shape[-2:]
    device = images.device
    coarse = torch.from_numpy(frame_maps)[:, None].to(device)
    values = F.interpolate(coarse, size, mode="bilinear")
    draw = rng("ties").random(size)
    ties = torch.from_numpy(draw).to(device) * 1e-6
    without_ties = (values + ties).flatten(1)
    order = without_ties.argsort(1, descending=True)
    rank = order.argsort(1).view_as(values)  # 0: the highest pixel
    pixels = rank[0].numel()
    columns = {}
    for step in range(STEPS + 1):
        percent = 100 * step // STEPS
        share = step / STEPS
        top = rank < share * pixels
        for kind, shown in (("deletion", ~top), ("insertion", top)):
            scores = network.score(network(images * shown))
            columns[f"{kind} {percent}"] = scores.tolist()
    table = pd.DataFrame(columns)
    for kind in ("deletion", "insertion"):
        curve = table.filter(like=f"{kind} ")
        table[kind] = np.trapezoid(curve, dx=1 / STEPS)
    return table


# ---------------------------------------------------------------- sanity


def sanity(
    run: Run,
    frames: pd.DataFrame,
    names: Sequence[str],
    others: Mapping[str, Run],
) -> dict[str, pd.DataFrame]:
    """Whether maps change with the weights: by map, a table with one row per forged frame.

    Columns beside :data:`dfnb.store.KEYS`: the rank correlation (:func:`similarity`) of the map
    with the one after :func:`cascade` (``quarter``, ``half``, ``all``), and with those of the
    ``others``, runs of the same paper, by their names; ``empty``, 1 where the map has the same
    value everywhere. :data:`dfnb.metrics.SANITY_LIMITS` says from which means on a map fails.
    """
    forged = frames[frames["label"] == 1].reset_index(drop=True)
    first = as_batch(forged.head(1), run.settings)
    randomised = cascade(run.network(), first["image"])
    tables = {}
    for name in names:
        frame_maps = maps.of(run, forged, name)
        table = forged[list(KEYS)].copy()
        for stage, network in randomised.items():
            changed = maps.explain(network, run.settings, forged, name)
            table[stage] = similarity(frame_maps, changed)
        for title, other in others.items():
            changed = maps.of(other, forged, name)
            table[title] = similarity(frame_maps, changed)
        is_empty = np.ptp(frame_maps, axis=(1, 2)) < 1e-6
        table["empty"] = is_empty.astype(float)
        table.attrs = test_set_facts(forged)
        tables[name] = table
    return tables


def cascade(network: Network, image: Tensor) -> dict[str, Network]:
    """Copies of a network with random weights in its last ``quarter``, ``half`` or ``all`` layers.

    Layers are counted from the decision down, in the order in which they are executed on ``image``
    (1, 3, H, W) (Adebayo et al., NeurIPS 2018, sec. 3.1). A layer that cannot reset itself gets
    normal numbers with the mean square of its weights.
    """
    layers = _layers_in_order(network, image)
    total = len(layers)
    counts = {
        "quarter": total // 4,
        "half": total // 2,
        "all": total,
    }
    copies = {}
    for stage, count in counts.items():
        randomised = copy.deepcopy(network)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(torch_seed("sanity"))
            for name in layers[:count]:
                _randomise(randomised.get_submodule(name))
        copies[stage] = randomised
    return copies


@torch.inference_mode()
def _layers_in_order(network: Network, image: Tensor) -> list[str]:
    """Names of the layers with weights, last executed first; at the end those that are not used."""
    executed: dict[nn.Module, None] = {}

    def remember(layer: nn.Module, inputs: tuple, output: object) -> None:
        executed.setdefault(layer)

    with nn.modules.module.register_module_forward_hook(remember):
        network(image)
    places = {layer: place for place, layer in enumerate(executed)}
    names = {}
    for name, layer in network.named_modules():
        weights = list(layer.parameters(recurse=False))
        if weights:
            names[name] = places.get(layer, -1)
    return sorted(names, key=names.get, reverse=True)


def _randomise(layer: nn.Module) -> None:
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
        return
    for weights in layer.parameters(recurse=False):
        size = weights.square().mean().sqrt()
        normal = torch.randn_like(weights)
        weights.copy_(normal * size)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation (n,) in [-1, 1] of maps (n, h, w) and (n, h', w') on a grid of 24 × 24.

    0 where one of the two has the same value everywhere.
    """
    correlations = _ranks(a).corrwith(_ranks(b), axis=1)
    return correlations.fillna(0).to_numpy()


def _ranks(frame_maps: np.ndarray) -> pd.DataFrame:
    """The ranks (n, 576) of the values of maps on the grid."""
    full_size = torch.from_numpy(frame_maps)[:, None].float()
    small = F.interpolate(full_size, (24, 24), mode="area")
    values = small.flatten(1).numpy()
    table = pd.DataFrame(values.round(6))
    return table.rank(axis=1)
