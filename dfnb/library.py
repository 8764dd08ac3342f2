"""Functions for a notebook of your own; ``import dfnb`` offers them as ``dfnb.predict`` etc.

They read the datasets and trained detectors of :func:`facesets.files.home`, and leave torch's
settings and your model as they are. :mod:`dfnb.results.own` measures scores.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from fnmatch import filter as matching
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_model
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torchvision.transforms import v2

from dfnb import device
from dfnb.attribution import maps
from dfnb.data.loading import StoredFrames, frames_in_memory, to_input
from dfnb.papers.contract import INPUT
from dfnb.results.reading import of_file
from dfnb.store.runs import TrainingRecord
from dfnb.store.units import KEYS
from dfnb.training import scoring
from dfnb.training.runs import Run
from facesets import manifests, sources
from facesets.checks import DfnbError, read_yaml, suggestion
from facesets.files import dataset_folder, find, home, in_reports, read_json, sha256, write_json
from facesets.frames import SPLITS, load_frames, select
from facesets.pictures import plain_rgb
from facesets.records import read_record

log = logging.getLogger(__name__)

AT_ONCE = 64  # crops that a module or function gets in one call, at most
Pictures = np.ndarray | Image.Image | Sequence[np.ndarray] | Sequence[Image.Image]


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
            torchvision or of timm. :func:`predict` reads the crops themselves.

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
    pixels; ``in-dataset`` and ``cross-dataset``, the AUC of videos on datasets like that of the
    training and the mean over others, NaN where no report has scores; ``weights``, whether they are
    here, and the paper that can open them.
    """
    ids = _ids()
    rows = []
    for name in matching(ids, pattern):
        if run := Run.find(ids[name]):
            size, title = run.parameters.settings["image_size"], run.record.detector.title
            rows.append((name, title, run.train_set, size, *_aucs(run), run.has_weights))
    columns = ["name", "paper", "train_set", "image_size", "in-dataset", "cross-dataset", "weights"]
    return pd.DataFrame(rows, columns=columns)


def _ids() -> dict[str, str]:
    """The ids of trained detectors by name: short names first, then ids that have weights here."""
    ids = read_yaml(find("data_manifest/models.yaml"))
    here = [path.parent.name for path in sorted(home().glob("runs/*/best.safetensors"))]
    here += [path.stem for path in in_reports("weights/*.safetensors")]
    return ids | {run_id: run_id for run_id in here if run_id not in ids.values()}


def _aucs(run: Run) -> tuple[float, float]:
    """The AUC of videos of a run in- and cross-dataset, by the report with most of its scores."""
    tables = [of_file(run, path) for path in in_reports(f"scores/{run.id}.parquet")]
    scores = max(tables, key=len, default=pd.DataFrame())
    if scores.empty:
        return np.nan, np.nan
    sets = scores[scores["corruption"] == ""].groupby(["place", "test_set"], observed=True)
    aucs = sets[["label", "score"]].apply(lambda rows: roc_auc_score(*rows.to_numpy().T))
    means = aucs.groupby("place", observed=True).mean()
    return means.get("in-dataset", np.nan), means.get("cross-dataset", np.nan)


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

    def logits(self, images: Tensor) -> Tensor:
        """As a call, for tools that ask for a function of this name."""
        return self(images)

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
        if self.info["faces"].get("drawn"):
            text += ", drawn faces: it is no judge of real ones"
        return f"{text}."

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, which :func:`create_model` reads.

        The config is ``info``. Of weights that have changed since, it has their own sha256, and the
        id says so.
        """
        weights = Path(folder).expanduser() / "model.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_model(self.network, str(weights))
        info = {**self.info, "weights_sha256": sha256(weights)}
        if info["weights_sha256"] != self.info["weights_sha256"]:
            info["id"] = f"{info['id'].removesuffix('-changed')}-changed"
        write_json(weights.with_name("config.json"), info)


def create_model(name: str | Path, pretrained: bool = True) -> Detector:
    """A trained :class:`Detector`: a torch module in evaluation mode, on the CPU.

    Args:
        name: Of :func:`list_models`; or the id of a run, in ``runs/`` or a report; or a folder that
            ``save_pretrained`` wrote.
        pretrained: As of timm; every detector here is trained.

    Raises :class:`DfnbError`, which names the nearest, if there is none, and where its weights are
    not on this machine.

    Example::

        model = dfnb.create_model("plain7.drawn")
        model(model.transform(face)[None]).softmax(1)[:, 1]  # P(fake)
    """
    if not pretrained:
        raise DfnbError("dfnb.create_model has trained detectors alone; leave pretrained out")
    config = Path(name).expanduser() / "config.json"
    if config.is_file():
        content = read_json(config)
        run = Run(content["id"], TrainingRecord.check(content, config))
        return Detector(run, config.with_name("model.safetensors"))
    return Detector(_opened(str(name)))


def _opened(name: str) -> Run:
    """The run that has a name of :func:`create_model`; raises as that does."""
    ids = _ids()
    run = Run.find(ids.get(name, name))
    if run is None:
        raise DfnbError(f"there is no trained detector {name!r}{suggestion(name, ids)}")
    return run


# ---------------------------------------------------------------- scores


# The caller's random state stays: reading the frames for a network of ours draws from torch's.
@torch.random.fork_rng(devices=[])
def predict(
    model: str | Path | Run | nn.Module | Callable,
    data: str | Path | StoredFrames | Pictures,
    transform: Callable | None = None,
) -> pd.DataFrame:
    """P(fake) of each frame, by any detector.

    Args:
        model: Of :func:`create_model`, or its name: it resizes and normalises crops, and computes
            in the precision, as in its training. Or a torch module in evaluation mode: it takes
            images (B, 3, H, W) and returns logits of being fake, (B,) or (B, 1), or two per image,
            real first, (B, 2); or a dict or an object with such ``logits`` or ``cls``. Or a
            function: it takes crops (B, H, W, 3) uint8 RGB, or a batch of what ``transform``
            returns, and returns P(fake) in [0, 1], (B,) or (B, 1), or P(real) and P(fake), (B, 2).
        data: The name of a dataset, whose split test is scored; or one of :func:`load_dataset`, or
            a slice of it. Or a video, a picture, or a folder of these; or a PIL image, or a list of
            them, which are read as picture files are: of each, the largest face in at most 32
            frames is cut out as ``dfnb prepare`` does. Or faces that are cut out already: an array
            (H, W, 3) uint8 RGB, or a list of them.
        transform: Turns a PIL image in RGB into what the model takes, for a module (3, H, W), as
            the transforms of torchvision and timm do. A module that is not ours needs one, a
            function only where crops differ in size. Tensors are stacked to a tensor, anything else
            to an array.

    Returns:
        One row per frame: ``video``, ``track``, ``frame``, ``cluster``, ``label`` (NaN but for a
        dataset), ``method`` and ``score`` = P(fake); for a detector of :func:`create_model` also
        ``log_odds``, the ``train_set``, since elsewhere a score says less, and, if it locates
        forged regions, how well, see :func:`dfnb.training.scoring.predict_frames`.

    Says once what a detector of :func:`create_model` is, and on what it was trained. Logs a warning
    where all outputs of a module are in [0, 1], as if they were probabilities, and
    for each file of a folder that has no face or cannot be read. Raises :class:`DfnbError` for one
    picture without a face, and for outputs that are not finite, of another shape or, of a function,
    outside [0, 1].

    Example::

        dfnb.predict("plain7.drawn", "clip.mp4")["score"].mean()
    """
    model = create_model(model) if isinstance(model, str | Path) else model
    if isinstance(model, Detector):
        _say_once(model.about)
    if isinstance(model, Detector):
        _say_once(model.about)
    model = Detector(model) if isinstance(model, Run) else model
    if isinstance(model, nn.Module) and model.training:
        raise DfnbError("the module is in training mode, which gives other scores; call its eval()")
    is_ours = isinstance(model, Detector) and not transform
    faces = model.info["faces"] if is_ours else {}
    if is_ours:
        network = deepcopy(model.network).to(device.DEVICE)
    tables = []
    for frames in _datasets(data, faces):
        if is_ours:
            scores = scoring.predict_frames(network, frames.table, model.settings, frames.read)
            tables.append(scores.assign(train_set=model.info["parameters"]["train_set"]))
        else:
            tables.append(_scores(model, frames, transform))
    return pd.concat(tables, ignore_index=True)


@cache
def _say_once(about: str) -> None:
    """Log what a detector is, where it has not been said."""
    log.warning(about)


def _datasets(data: Any, faces: Mapping[str, Any]) -> Iterator[StoredFrames]:
    """The frames of :func:`predict`: of one dataset, or per file, cut as ``faces``.

    Raises :class:`DfnbError` where there is nothing to score.
    """
    if isinstance(data, StoredFrames):
        yield data
    elif not isinstance(data, str | Path):
        images = [data] if isinstance(data, Image.Image) else data
        if isinstance(images, Sequence) and all(isinstance(each, Image.Image) for each in images):
            yield from _of_images(images, faces)
        else:
            is_many = isinstance(data, Sequence) or getattr(data, "ndim", 0) == 4
            yield frames_in_memory([plain_rgb(crop) for crop in (data if is_many else [data])])
    else:
        # The one door to what finds faces; it imports PyAV.
        from facesets import decode, prepare, videos

        path = Path(data).expanduser()
        if (path / "frames.parquet").exists() or not (
            path.exists() or decode.MEDIA.fullmatch(path.name)
        ):
            yield load_dataset(str(data))
        elif not path.is_dir():
            yield StoredFrames(*prepare.prepare_picture(path, faces, sources.TEST_FRAMES))
        else:
            names = filter(decode.MEDIA.fullmatch, videos.files_below(path))
            count = 0
            for name in names:
                try:
                    picture = prepare.prepare_picture(path / name, faces, sources.TEST_FRAMES)
                    yield StoredFrames(*picture)
                    count += 1
                except DfnbError as error:
                    log.warning("not scored: %s", error)
            if not count:
                raise DfnbError(f"{path} has no video or picture with a face; name another folder")


def _of_images(images: Sequence[Image.Image], faces: Mapping[str, Any]) -> Iterator[StoredFrames]:
    """The frames of PIL images, each named by its number, as of files with the same pixels."""
    from facesets import prepare

    with TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            path = Path(folder, f"{number}.png")
            Image.fromarray(plain_rgb(image)).save(path)
            table, read = prepare.prepare_picture(path, faces)
            name = {"video": str(number), "cluster": str(number), "method": "not known"}
            yield StoredFrames(table.assign(**name), read)


def _scores(model: Callable, frames: StoredFrames, transform: Callable | None) -> pd.DataFrame:
    """KEYS and P(fake) of frames by a module or function that is not of this package."""
    batches = []
    for start in range(0, len(frames), AT_ONCE):
        crops = [frames.read(path) for path in frames.paths[start : start + AT_ONCE]]
        batches.append(_outputs(model, crops, transform))
    outputs = np.concatenate(batches)
    scores = outputs[:, -1]
    if isinstance(model, nn.Module):
        if outputs.min() >= 0 and outputs.max() <= 1:
            log.warning("All outputs are in [0, 1]: are they probabilities instead of logits?")
        # The logit of being fake minus that of being real, which is 0 where there is none.
        scores = expit(np.diff(outputs, prepend=0)[:, -1])
    return frames.table[[*KEYS]].reset_index(drop=True).assign(score=scores)


def _outputs(
    model: Callable,
    crops: Sequence[np.ndarray],
    transform: Callable | None,
) -> np.ndarray:
    """What a module or function returns for crops (H, W, 3) uint8: (B, 1), or (B, 2), real first.

    They are logits of a module and probabilities of a function, see :func:`predict`.
    """
    is_module = isinstance(model, nn.Module)
    if is_module and not transform:
        raise DfnbError(
            "a module that is not of dfnb.create_model needs transform=, from a PIL image to its "
            "input; that of timm: create_transform(**resolve_model_data_config(module))"
        )
    if is_module or transform:
        items = [transform(Image.fromarray(crop)) for crop in crops]
    else:
        items = crops
    is_tensor = is_module or isinstance(items[0], torch.Tensor)
    batch = torch.stack(items) if is_tensor else np.stack(items)
    with torch.inference_mode():
        if is_module:
            if not batch.is_floating_point():
                raise DfnbError(f"transform leaves {batch.dtype}; let it scale images to floats")
            # Of the type and on the device of the module's first parameter, if it has one.
            batch = batch.to(next(model.parameters(), batch))
            outputs = maps.logits(model, batch)
        else:
            outputs = model(batch)
    if isinstance(outputs, torch.Tensor):
        outputs = outputs.cpu()  # first: Apple's GPUs have no float64
    values = torch.as_tensor(outputs, dtype=torch.float64).numpy(force=True)
    if len(crops) == 1:  # squeeze() at the end of a detector leaves no batch
        values = values.reshape(1, -1)
    lowest, highest = values.min(), values.max()
    is_valid = np.isfinite(values) if is_module else (values >= 0) & (values <= 1)  # NaN: False
    count = len(crops)
    if values.shape not in {(count,), (count, 1), (count, 2)} or not is_valid.all():
        raise DfnbError(
            f"the detector returns shape {values.shape}, {lowest:.2f} to {highest:.2f}, for "
            f"{count} images; return one number per image: a function P(fake) in [0, 1], a module "
            "finite logits"
        )
    return values.reshape(count, -1)
