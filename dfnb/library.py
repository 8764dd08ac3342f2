"""Functions for a notebook of your own; ``import dfnb`` offers them as ``dfnb.predict`` etc.

They read the datasets and trained detectors of :func:`facesets.files.home`, and leave torch's
settings and your model as they are. :mod:`dfnb.results.own` measures scores.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from fnmatch import filter as matching
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_model
from scipy.special import expit
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dfnb import device
from dfnb.attribution import maps
from dfnb.data.loading import StoredFrames, to_input
from dfnb.papers.contract import INPUT
from dfnb.results.reading import of_file
from dfnb.results.tables import by_place, cell
from dfnb.store.runs import TrainingRecord
from dfnb.store.units import KEYS
from dfnb.training import scoring
from dfnb.training.runs import Run
from facesets import manifests, sources
from facesets.checks import DfnbError, read_yaml, suggestion
from facesets.files import dataset_folder, find, home, in_reports, read_json, sha256, write_json
from facesets.frames import SPLITS, load_frames, select
from facesets.records import read_record

log = logging.getLogger(__name__)

AT_ONCE = 64  # images that a module gets in one call, at most


# ---------------------------------------------------------------- datasets


def list_datasets(pattern: str = "*") -> pd.DataFrame:
    """The datasets whose names match, such as ``"smoke-*"``: the prepared ones, then all others.

    Columns: ``name``; ``kind``: embedded (:func:`load_dataset` makes it), published (``dfnb data``
    says how to get it) or your own; the ``splits`` and the number of ``frames`` that are prepared.
    """
    kinds = dict.fromkeys(manifests.embedded_names(), "embedded")
    kinds |= dict.fromkeys(manifests.published_names(), "published")
    prepared = [path.parent.name for path in sorted(home().glob("datasets/*/record.json"))]
    rows = []
    for name in matching(dict.fromkeys([*prepared, *kinds]), pattern):
        record = read_record(dataset_folder(name)) or {"fingerprints": {}, "n": {}}
        splits = ", ".join(split for split in SPLITS if split in record["fingerprints"])
        frames = sum(each["frames"] for each in record["n"].values())
        rows.append((name, kinds.get(name, "your own"), splits, frames))
    return pd.DataFrame(rows, columns=["name", "kind", "splits", "frames"])


def load_dataset(
    name: str,
    split: str = "test",
    transform: Callable[[Image.Image], Any] | None = None,
) -> StoredFrames:
    """The frames of a prepared dataset as a torch ``Dataset``; its ``table`` has a row per frame.

    Item i is an image, (H, W, 3) uint8 RGB without a ``transform``, and its label, 0 real, 1 fake.
    Its ``sample(i)`` also has ``mask`` (H, W) bool (True where forged), ``landmarks`` (5, 2) in
    pixels (NaN where unknown) and ``has_mask`` (False where it is unknown what was forged). Of a
    test video the dataset has at most 32 frames, evenly spaced, as in the reports; train and val
    are complete.

    Args:
        name: A dataset that ``dfnb prepare`` made, or the path of its folder; or one that ``dfnb
            synth`` makes, which is made now if it is missing.
        split: train, val or test.
        transform: Makes an image from a PIL image of the crop: a model's ``transform``, one of
            torchvision or of timm.

    Raises :class:`DfnbError` where there is no such dataset or split.

    Example::

        dataset = dfnb.load_dataset("smoke-b", "test")
        dataset[0][0].shape, dataset.table["method"].value_counts()
    """
    if "/" not in name:
        manifests.check_known([name], "dfnb.load_dataset")
        sources.ensure_datasets(name)
    is_test = split == "test"
    frames = sources.frames_to_score(name) if is_test else select(load_frames(name), split)
    return StoredFrames(frames, transform=transform)


# ---------------------------------------------------------------- models


def list_models(pattern: str = "*") -> pd.DataFrame:
    """The trained detectors whose names match, such as ``"lae*"``.

    They are those that come with the package, then each run that has weights on this machine.

    Columns: ``name``, for :func:`create_model`; the ``paper``; ``train_set``; ``image_size`` in
    pixels; ``weights``, whether they are here, and the paper that can open them. Then, where a
    report has scores: one per place, such as ``in-dataset`` and ``cross-dataset``, a text with the
    AUC of videos and its 95 % interval over people, which says "chance" where .5 is in it, and with
    the share of real videos above the detector's threshold.
    """
    ids = _ids()
    rows = []
    for name in matching(ids, pattern):
        if run := Run.find(ids[name]):
            row = {"name": name, "paper": run.record.detector.title, "train_set": run.train_set}
            row["image_size"] = run.parameters.settings["image_size"]
            rows.append({**row, "weights": run.has_weights, **_at_places(run)})
    columns = ["name", "paper", "train_set", "image_size", "weights"]
    return pd.DataFrame(rows).fillna("–") if rows else pd.DataFrame(columns=columns)


def _ids() -> dict[str, str]:
    """The ids of trained detectors by name: short names first, then ids that have weights here."""
    ids = read_yaml(find("data_manifest/models.yaml"))
    here = [path.parent.name for path in sorted(home().glob("runs/*/best.safetensors"))]
    here += [path.stem for path in in_reports("weights/*.safetensors")]
    return ids | {run_id: run_id for run_id in here if run_id not in ids.values()}


def _at_places(run: Run) -> dict[str, str]:
    """What a run does at each place, see :func:`list_models`, by the report with most scores."""
    tables = [of_file(run, path) for path in in_reports(f"scores/{run.id}.parquet")]
    scores = max(tables, key=len, default=pd.DataFrame())
    if scores.empty:
        return {}
    scores = scores[scores["corruption"] == ""]
    real = scores[scores["label"] == 0]
    called = (real["score"] > run.limit).groupby(real["place"], observed=True).mean()
    texts = {}
    for row in by_place(scores).itertuples():
        text = cell(row.value, row.low, row.high)
        text += ", chance" if row.low < 0.5 < row.high else ""
        texts[row.place] = f"{text}; {called[row.place]:.0%} of real called fake"
    return texts


class Detector(nn.Module):
    """A trained network for use outside of this package: images to logits, as timm's models.

    It is in evaluation mode, on the CPU.

    Attributes:
        network: The paper's :class:`dfnb.papers.contract.Network`: its call returns all outputs.
        settings: Those of the training.
        info: The record of the training, as JSON has it, with its ``id``.
    """

    def __init__(self, run: Run, weights: Path | None = None) -> None:
        super().__init__()
        # As scoring.predict_frames has it: in bfloat16, another order of the sums gives other
        # scores.
        self.network = run.network(weights).to(memory_format=device.LAYOUT)
        self.settings = run.settings
        self.info = {"id": run.id, **run.record.model_dump(mode="json")}
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 2), real first, of images (B, 3, S, S), which ``transform`` makes.

        Their softmax is P(real) and P(fake), as tables show it: like them, it is computed in the
        precision of the training. Warns of images of another size, which say little.
        """
        side = self.settings.image_size
        if images.shape[2:] != (side, side):
            size = "×".join(map(str, images.shape[2:]))
            text = f"trained on {side}×{side} pixels, not {size}: use transform"
            warnings.warn(text, stacklevel=2)
        is_mixed = self.settings.precision == "bf16-mixed"
        with torch.autocast(images.device.type, torch.bfloat16, is_mixed):
            outputs = self.network(images)
        outputs = {name: value.float() for name, value in outputs.items()}
        half = self.network.log_odds(outputs).float() / 2
        return torch.stack([-half, half], dim=1)

    @property
    def transform(self) -> v2.Transform:
        """From a PIL image of a face, cut out, or its crop (H, W, 3) uint8 RGB, to an image."""
        return to_input(self.settings)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The same in timm's words, for ``timm.data.resolve_model_data_config(model)``.

        timm smooths a crop that it makes smaller, also where ``antialias`` is off.
        """
        side = self.settings.image_size
        of_input = {name: getattr(self.settings, name) for name in INPUT}
        # "squash": the whole crop becomes a square, and nothing is cut off.
        crop = {"input_size": (3, side, side), "crop_pct": 1.0, "crop_mode": "squash"}
        return {**of_input, **crop, "architecture": self.settings.backbone, "num_classes": 2}

    @property
    def about(self) -> str:
        """What it is, and on what it was trained, in a sentence."""
        weights = sum(each.numel() for each in self.parameters())
        title, data = self.info["detector"]["title"], self.info["parameters"]["train_set"]
        side = self.settings.image_size
        text = f"{title}, {weights:,} weights for {side} × {side} pixels, trained on {data}"
        if sources.shows_generated_faces(data):
            text += ", generated portraits: it is no judge of real faces"
        return f"{text}."

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, which :func:`create_model` reads.

        The config is ``info``. Of weights that have changed since, it has their own sha256, and the
        id says so.
        """
        weights = Path(folder).expanduser() / "model.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_model(self._as_trained(), str(weights))
        info = {**self.info, "weights_sha256": sha256(weights)}
        if info["weights_sha256"] != self.info["weights_sha256"]:
            info["id"] = f"{info['id'].removesuffix('-changed')}-changed"
        write_json(weights.with_name("config.json"), info)

    def _as_trained(self) -> nn.Module:
        """The network in the precision in which the trainer keeps its weights.

        That is float16 with ``half_weights``, unless they have changed since and would lose digits.
        """
        if not self.settings.half_weights:
            return self.network
        halves = deepcopy(self.network).half()
        restored = deepcopy(halves).float().state_dict()
        weights = self.network.state_dict()
        is_same = all(torch.equal(value, restored[name]) for name, value in weights.items())
        return halves if is_same else self.network


def create_model(name: str | Path) -> Detector:
    """A trained :class:`Detector`: a torch module in evaluation mode, on the CPU.

    Args:
        name: Of :func:`list_models`; or the id of a run, in ``runs/`` or a report; or a folder that
            ``save_pretrained`` wrote.

    Raises :class:`DfnbError`, which names the nearest, if there is none, and where its weights are
    not on this machine.

    Example::

        model = dfnb.create_model("baseline.portraits")
        model(model.transform(face)[None]).softmax(1)[:, 1]  # P(fake)
    """
    config = Path(name).expanduser() / "config.json"
    if config.is_file():
        content = read_json(config)
        run = Run(content["id"], TrainingRecord.check(content, config))
        return Detector(run, config.with_name("model.safetensors"))
    ids = _ids()
    run = Run.find(ids.get(str(name), str(name)))
    if run is None:
        raise DfnbError(f"there is no trained detector {str(name)!r}{suggestion(str(name), ids)}")
    return Detector(run)


# ---------------------------------------------------------------- scores


# The caller's random state stays: loaders of frames draw from torch's.
@torch.random.fork_rng(devices=[])
def predict(
    model: str | Path | nn.Module, data: str | Path | StoredFrames | Tensor
) -> pd.DataFrame:
    """P(fake) of each frame, by a detector of this package or by any torch module.

    Args:
        model: Of :func:`create_model`, or its name. Or a torch module in evaluation mode that takes
            images (B, 3, H, W), and returns logits of being fake, (B,) or (B, 1), or two per image,
            real first, (B, 2); or a dict or an object with such ``logits`` or ``cls``.
        data: One of three things. (1) A dataset: the name of one, whose split test is scored, or
            one of :func:`load_dataset`, or a slice of it. A detector of ours reads the crops
            themselves, any other module gets the items that the dataset's ``transform`` makes.
            (2) For a detector of ours, the path of a video, of a picture, or of a folder of these:
            of each, the largest face in at most 32 frames is cut out as ``dfnb prepare`` does.
            (3) A batch (B, 3, H, W) that the model's own ``transform`` has made of faces.

    Returns:
        One row per frame: ``video``, ``track``, ``frame``, ``cluster``, ``label`` (NaN but for a
        dataset), ``method`` and ``score`` = P(fake); for a detector of :func:`create_model` also
        ``log_odds``, the ``train_set``, since elsewhere a score says less, and, if it locates
        forged regions, how well, see :func:`dfnb.training.scoring.predict_frames`. Of a batch,
        ``score`` alone, one row per image.

    Says once what a detector of :func:`create_model` is, and on what it was trained. Logs a warning
    where all outputs of a module are in [0, 1], as if they were probabilities, and for each file of
    a folder that has no face or cannot be read. Raises :class:`DfnbError` for a picture without a
    face, for a module in training mode, and for logits that are not finite or of another shape.

    Example::

        dfnb.predict("baseline.portraits", "clip.mp4")["score"].mean()
    """
    model = model if isinstance(model, nn.Module) else create_model(model)
    if model.training:
        raise DfnbError("the module is in training mode, which gives other scores; call its eval()")
    is_ours = isinstance(model, Detector)
    if is_ours:
        _say_once(model.about)
    if isinstance(data, Tensor):
        return pd.DataFrame({"score": _p_fake(model, [(data, None)])})
    network = deepcopy(model.network).to(device.DEVICE) if is_ours else None
    tables = []
    for frames in _datasets(data, model.info["faces"] if is_ours else {}):
        if is_ours:
            table = scoring.predict_frames(network, frames.table, model.settings, frames.read)
            table = table.assign(train_set=model.info["parameters"]["train_set"])
        elif frames.transform:
            table = frames.table[[*KEYS]].reset_index(drop=True)
            table["score"] = _p_fake(model, DataLoader(frames, AT_ONCE))
        else:
            raise DfnbError(
                "a module that is not of dfnb.create_model needs a dataset of its images: "
                "dfnb.load_dataset(NAME, transform=...), from a PIL image to (3, H, W)"
            )
        tables.append(table)
    if not tables:
        raise DfnbError(f"{data} has no video or picture with a face; name another folder")
    return pd.concat(tables, ignore_index=True)


@cache
def _say_once(about: str) -> None:
    """Log what a detector is, where it has not been said."""
    log.warning(about)


def _datasets(data: str | Path | StoredFrames, faces: Mapping[str, Any]) -> Iterator[StoredFrames]:
    """The frames of :func:`predict`: of a dataset, or per file, cut as ``faces`` says."""
    if isinstance(data, StoredFrames):
        yield data
        return
    # The one door to what finds faces; it imports PyAV.
    from facesets import decode, prepare, videos

    path = Path(data).expanduser()
    if decode.MEDIA.fullmatch(path.name) and not path.is_dir():
        yield StoredFrames(*prepare.prepare_picture(path, faces, sources.TEST_FRAMES))
    elif not path.is_dir() or (path / "frames.parquet").exists():
        yield load_dataset(str(data))
    else:
        for name in filter(decode.MEDIA.fullmatch, videos.files_below(path)):
            try:
                picture = prepare.prepare_picture(path / name, faces, sources.TEST_FRAMES)
                yield StoredFrames(*picture)
            except DfnbError as error:
                log.warning("not scored: %s", error)


@torch.inference_mode()
def _p_fake(module: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> np.ndarray:
    """P(fake) (n,) of all images in these batches (B, 3, H, W) by a module that gives logits."""
    logits = []
    for images, _ in batches:
        outputs = maps.logits(module, images.to(next(module.parameters(), images).device))
        # As (B, columns), also where squeeze() at the end of a module leaves no batch of one. On
        # the CPU first: Apple's GPUs have no float64.
        logits.append(outputs.cpu().double().numpy().reshape(len(images), -1))
    logits = np.concatenate(logits)
    if logits.shape[1] > 2 or not np.isfinite(logits).all():
        raise DfnbError(
            f"the module returns {logits.shape[1]} numbers per image, {logits.min():.2f} to "
            f"{logits.max():.2f}; return one finite logit of being fake, or two, real first"
        )
    if logits.min() >= 0 and logits.max() <= 1:
        log.warning("All outputs are in [0, 1]: are they probabilities instead of logits?")
    # The logit of being fake minus that of being real, which is 0 where there is none.
    return expit(np.diff(logits, prepend=0)[:, -1])
