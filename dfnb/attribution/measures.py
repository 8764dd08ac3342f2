"""How good a map is: does it find the forgery, and does it depend on the decision and the network?

:func:`measure_map` and :func:`compare_with_random` give one row per forged frame;
:mod:`dfnb.results` makes means and intervals of them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb.attribution import maps
from dfnb.data.loading import as_batch
from dfnb.device import DEVICE, fixed_threads
from dfnb.papers.contract import Network
from dfnb.store.units import KEYS
from dfnb.training.localisation import localisation
from dfnb.training.runs import Run
from facesets.frames import load_frames, select
from facesets.seeds import rng, torch_seed

DRAWS = 12  # random networks with which a map is compared


def sample(
    test_set: str,
    forged: int,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Test frames of a dataset: equally many per method, evenly spread over the method's rows.

    Real frames count as a method, "real". No random numbers: the same table gives the same frames.

    Args:
        test_set: Name of a dataset.
        forged: About how many forged frames there are in all. There are as many real frames as
            frames of one manipulation method, and at least one of each.
        methods: The manipulation methods; by default all.

    Returns a frames table, without rows if the test split has no fake of these methods. Raises
    :class:`DfnbError` where there is no test split.
    """
    test = select(load_frames(test_set), "test")
    if methods is not None:
        test = test[test["method"].isin([*methods, "real"])]
    # Positions in ``test`` by method; observed: without methods that only other splits have.
    rows_by_method = test.groupby("method", observed=True).indices
    n_methods = len(rows_by_method.keys() - {"real"})
    if n_methods == 0:
        return test.head(0)
    count = max(1, round(forged / n_methods))  # frames per method
    chosen = []
    for rows in rows_by_method.values():
        places = np.linspace(0, len(rows) - 1, count).round()
        chosen.extend(rows[places.astype(int)])
    # In the order of the table, each row once: a method with few rows has some several times.
    return test.iloc[np.unique(chosen)]


# ---------------------------------------------------------------- localisation and faithfulness


@fixed_threads()
def measure_map(
    run: Run,
    frames: pd.DataFrame,
    name: str,
) -> pd.DataFrame:
    """The measures of a map on the forged rows of a frames table, one row per forged frame.

    Columns beside :data:`dfnb.store.scores.KEYS`:

    - ``iou``, ``pixel_auc`` and the others of :func:`dfnb.training.localisation.localisation`: how
      well the map finds the mask; NaN if the frame has no mask;
    - where the mean mask of the training is known, the same of this mean mask in place of the map,
      as ``constant iou`` and so on;
    - ``deletion`` and ``deletion 0`` to ``deletion 100``, see :func:`deletion`;
    - for a map that is the maximum of others, those of ``Network.compare``.

    Args:
        run: A finished training.
        frames: Rows of a frames table; real ones are left out.
        name: A map's name, see :func:`dfnb.attribution.maps.of`.
    """
    # Numbered from 0, as the tables that are joined to it below.
    forged = frames[frames["label"] == 1].reset_index(drop=True)
    network = run.network().to(DEVICE)
    frame_maps = maps.of(run, forged, name, network)
    batch = as_batch(forged, run.settings)  # in the order of frame_maps
    images = batch["image"].to(DEVICE)
    masks = batch["mask"][:, 0].numpy() > 0  # (n, H, W); all False: the frame has no mask
    mean_mask = run.mean_mask()  # (H, W); None where no mask is known: then no constant map
    located = [localisation(frame_map, mask) for frame_map, mask in zip(frame_maps, masks)]
    table = forged[list(KEYS)].join(pd.DataFrame(located))
    if mean_mask is not None:
        constant = pd.DataFrame([localisation(mean_mask, mask) for mask in masks])
        table = table.join(constant.add_prefix("constant "))
    curves = [deletion(network, image, frame_map) for image, frame_map in zip(images, frame_maps)]
    table = table.join(pd.DataFrame(curves))
    parts = network.maps().get(name)  # a tuple: the names of the maps that this one is made of
    if isinstance(parts, tuple):
        part_maps = [maps.of(run, forged, part, network) for part in parts]
        table = table.assign(**network.compare(part_maps, images))
    return table


@torch.inference_mode()
def deletion(
    network: Network,
    image: Tensor,
    frame_map: np.ndarray,
) -> dict[str, float]:
    """P(fake) while pixels are hidden in the order of a map (Petsiuk et al., BMVC 2018, sec. 3.3).

    The first pixels by :func:`ranks` are hidden: 0, 10, ..., 100 % of all. Hidden pixels have the
    colour ``mean`` of the settings, mostly grey. They are not blurred, because detectors take a
    blurred picture for a fake.

    Args:
        network: A detector.
        image: (3, H, W), normalised.
        frame_map: (h, w) in [0, 1]; only the order of the values counts.

    Returns:
        P(fake) as ``deletion 0``, ``deletion 10``, ..., ``deletion 100``, and the area under this
        curve over the hidden share, 0 to 1, as ``deletion``. It is in [0, 1], and low if the
        decision rests on what the map marks.
    """
    rank = ranks(frame_map, image.shape[1:])
    percents = range(0, 101, 10)
    kept = [rank >= percent / 100 * rank.size for percent in percents]
    kept_pixels = torch.from_numpy(np.stack(kept))[:, None]  # (11, 1, H, W)
    images = image * kept_pixels.to(image.device)  # 0 is the colour ``mean``
    scores = network.score(network(images)).tolist()
    names = [f"deletion {percent}" for percent in percents]
    area = np.trapezoid(scores, dx=0.1)  # from one score to the next, 10 % more are hidden
    return dict(zip(names, scores), deletion=area)


def ranks(frame_map: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The place of each pixel of a frame (H, W) in the order of a map (h, w): 0, the highest value.

    Equal values are ordered at random, by a fixed seed. ``size`` is that of the frame.
    """
    coarse = torch.from_numpy(frame_map)[None, None]
    values = F.interpolate(coarse, tuple(size), mode="bilinear").numpy()  # (1, 1, H, W)
    tie_break = rng("ties").random(tuple(size)) * 1e-6  # reorders only values that are nearly equal
    order = (-values - tie_break).argsort(axis=None)  # flat pixel indices
    return order.argsort().reshape(tuple(size))


# ---------------------------------------------------------------- sanity


@fixed_threads()
def compare_with_random(
    run: Run,
    frames: pd.DataFrame,
    names: Sequence[str],
    for_statistics: pd.DataFrame,
) -> pd.DataFrame:
    """How alike maps are to those of random networks, a row per forged frame and map.

    All layers are initialised anew (:func:`randomise`), DRAWS times. Columns beside
    :data:`dfnb.store.scores.KEYS` and ``map``, its name:

    - ``random 1`` to ``random 12``: the rank correlation (:func:`similarity`) of the map with that
      of each random network, 1 if the map ignores the weights, about 0 if it depends on them
      wholly; NaN if one of the two is blank, that is, has the same value everywhere;
    - ``signed 1`` to ``signed 12``: the same with the negative values, which maps are shown
      without; NaN for a map that has none;
    - ``grey``, the rank correlation with the map of a grey image, 1 if the map ignores the image;
      NaN if one of the two is blank;
    - ``blank``, 1 if the map itself is blank, else 0.

    Args:
        run: A finished training.
        frames: Rows of a frames table; real ones are left out.
        names: Those of the maps, see :func:`dfnb.attribution.maps.of`.
        for_statistics: Frames, real and forged, from which random networks take the statistics of
            their BatchNorm.
    """
    forged = frames[frames["label"] == 1].reset_index(drop=True)
    images = as_batch(for_statistics, run.settings)["image"]
    network = run.network().to(DEVICE)
    trained = {name: maps.of(run, forged, name, network, signed=True) for name in names}
    tables = {}
    for name, before in trained.items():
        shown = before.clip(min=0)
        grey = shown  # the map "random" looks at no image
        if name != "random":  # 0 is the colour ``mean`` of the settings
            of_grey = maps.compute(network, torch.zeros_like(images[:1], device=DEVICE), name)
            grey = of_grey.repeat(len(shown), axis=0)
        is_blank = np.ptp(shown, axis=(1, 2)) < 1e-6  # highest minus lowest value
        measures = {"map": name, "grey": similarity(shown, grey), "blank": is_blank.astype(float)}
        tables[name] = forged[list(KEYS)].assign(**measures)
    for draw in range(1, 1 + DRAWS):
        network = run.network()
        randomise(network, images, draw)
        for name, before in trained.items():
            after = maps.of(run, forged, name, network, signed=True)
            shown = before.clip(min=0), after.clip(min=0)
            tables[name][f"random {draw}"] = similarity(*shown)
            if before.min() < 0:
                tables[name][f"signed {draw}"] = similarity(before, after)
    return pd.concat(tables.values(), ignore_index=True)


@torch.no_grad()
def randomise(
    network: Network,
    images: Tensor,
    draw: int = 1,
    layers: Iterable[nn.Module] | None = None,
) -> None:
    """Initialise layers of a network anew, in place (Adebayo et al., NeurIPS 2018, sec. 3.1).

    Each layer gets weights as PyTorch makes them for a new one (``reset_parameters``). Weights of
    a module without this method, such as a learned gate, become normally distributed numbers of the
    same mean square. A BatchNorm takes its statistics from ``images``: with those of the training,
    or with others by chance, it would silence channels, and maps would be blank. The network ends
    in evaluation mode on DEVICE.

    Args:
        network: A detector.
        images: (n, 3, H, W), normalised, two or more.
        draw: Its number is the seed: the same draw gives the same network.
        layers: Modules of the network; None: all. Only their own weights change, not those of the
            modules within them.
    """
    layers = list(network.modules() if layers is None else layers)
    network.cpu()  # where a seed gives the same numbers on every machine
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("sanity", draw))
        for layer in layers:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
                continue
            for weights in layer.parameters(recurse=False):
                root_mean_square = weights.square().mean().sqrt()
                weights.normal_().mul_(root_mean_square)
    for layer in layers:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None  # the statistics become those of this one batch
            layer.train()
    network.to(DEVICE)(images.to(DEVICE))
    network.eval()


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation (n,) in [-1, 1] of maps (n, h, w) with maps (n, h', w').

    Both are averaged to :func:`cell_means` first, because their sizes may differ. It is Pearson's
    correlation of the cells' ranks, and NaN if one of two maps has the same value everywhere.
    """
    ranks = []
    for frame_maps in (a, b):
        # Rounded, so that cells that differ by rounding alone are ties.
        values = cell_means(frame_maps).reshape(len(frame_maps), -1).round(6)
        ranks.append(pd.DataFrame(values).rank(axis=1))  # (n, 576)
    return ranks[0].corrwith(ranks[1], axis=1).to_numpy()


def cell_means(frame_maps: np.ndarray) -> np.ndarray:
    """Maps (n, h, w) as means of 24 × 24 cells, (n, 24, 24)."""
    return F.adaptive_avg_pool2d(torch.from_numpy(frame_maps), 24).numpy()
