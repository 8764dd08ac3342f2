"""Records: ``record.json``, written last, is the only proof that a step ended.

papermill reports success even when the kernel was killed, and ``sys.exit(0)`` truncates a run with
exit status 0, so nothing else counts.
"""

import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dfnb.files import home, read_json, sha256, write_json
from dfnb.settings import Closed, Name, explained

# The packages of which a record keeps the versions.
PACKAGES = (
    "dfnb",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "scikit-learn",
    "opencv-python-headless",
    "av",
)


class Clock:
    """Wall time of a step, from the clock's construction on."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def usage(self) -> dict[str, float]:
        """The cost of the step: ``wall_s``, seconds."""
        return {"wall_s": round(time.monotonic() - self.start, 2)}


def environment() -> dict[str, Any]:
    """What a number may depend on besides data and settings. No path, no host name.

    ``commit`` is that of the checkout, and ends in -dirty where tracked files outside ``reports/``
    differ from it. It is empty where the package is not installed from a checkout.
    """
    import torch

    device = f"cpu ({platform.machine()})"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name(0)
    # The changed files, one per line. Every run writes to reports/: changes there do not count.
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports")
    commit = _git("rev-parse", "HEAD")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": f"{commit}-dirty" if dirty else commit,
        "device": device,
    }


def _git(*arguments: str) -> str:
    """The answer of git about the checkout of this package.

    It is empty without git or checkout, or where git refuses to answer.
    """
    checkout = Path(__file__).resolve().parents[1]
    # Without .git the package is installed, and git would answer about a repository around it.
    if not (checkout / ".git").exists() or not shutil.which("git"):
        return ""
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_record(
    path: Path,
    parameters: Mapping[str, Any],
    outputs: Iterable[Path],
    **entries: Any,
) -> dict[str, Any]:
    """Write the record of a step, and return its content.

    Args:
        path: ``<folder>/record.json``, where :func:`read_record` looks; a notebook's record has
            another name.
        parameters: The resolved parameters of the step.
        outputs: The files that the step left; the record has the sha256 of each, by file name.
        entries: Other entries of the record: n, seed, rule, ...
    """
    record = {
        "parameters": dict(parameters),
        **entries,
        "environment": environment(),
        "outputs": {output.name: sha256(output) for output in outputs},
    }
    write_json(path, record)
    return read_json(path)  # as every later reader gets it: tuples are lists


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a step, or None when the step did not finish.

    A step did not finish when it has no record or when an output that the record names is gone.
    Raises :class:`DfnbError` when the record is damaged.
    """
    path = folder / "record.json"
    if not path.is_file():
        return None
    record = read_json(path)
    with explained(path, "as a record", "delete it and run the step that wrote it again"):
        is_whole = all((folder / name).exists() for name in record["outputs"])
    return record if is_whole else None


def notebook_record(profile: str, notebook: str) -> Path:
    """The record of a notebook in the report of a profile, relative to the home."""
    return Path("reports", profile, "records", f"{notebook}.json")


def finish(
    notebook: str,
    p: Closed,
    clock: Clock,
    outputs: Iterable[Path] = (),
    **entries: Any,
) -> dict[str, Any]:
    """Write the record of an executed notebook as its last step; it proves that the rest ran.

    Args:
        notebook: Name of the notebook.
        p: Its parameters, of :mod:`dfnb.running.parameters`.
        clock: Started at its beginning.
        outputs: The files that it wrote; the record has the sha256 of each, by file name.
        entries: Other entries of the record, such as the ids of the runs shown.

    Returns the record.
    """
    path = home() / notebook_record(p.profile, notebook)
    return write_record(path, p.model_dump(mode="json"), outputs, **entries, **clock.usage())


# ---------------------------------------------------------------- trainings


class TrainingOptions(Closed):
    """What a reader may choose of any training, besides the settings of its paper.

    Attributes:
        paper: Module name of the paper.
        train_set: A dataset with the splits train and val.
        seed: Of the weights, the order of the images, augmentation, mixup and dropout.
        seen_methods: Manipulation methods to train on; None: all.
        frames_per_video: Use at most this many frames per video, evenly spaced; None: all.
    """

    paper: Name
    train_set: Name
    seed: int = Field(0, ge=0)
    seen_methods: list[str] | None = Field(None, min_length=1)
    frames_per_video: int | None = Field(None, ge=1)


class RunParameters(TrainingOptions):
    """Everything that identifies a training; :func:`dfnb.training.train.run_parameters` makes them.

    Attributes:
        data: A digest that identifies the frames of the training set.
        settings: Of the paper, whose schema checks them.
        start_weights: sha256 of the pretrained weights; empty: random ones.
        paper_source: A digest of the paper's file.
        numbers: See :data:`dfnb.training.train.NUMBERS`.
        devices: Always 1; it stays because the ids of runs hash it.
    """

    data: str
    settings: dict[str, Any]
    start_weights: str
    paper_source: str
    numbers: int
    devices: Literal[1] = 1


class TrainedPaper(Closed):
    """The names of a paper, see :class:`dfnb.papers.contract.Paper`, and its published settings."""

    title: str
    notebook: str
    published: str
    defaults: dict[str, Any]  # of its Settings


class Chosen(Closed):
    """The epoch whose weights count, from 1, and its AUC of validation frames."""

    epoch: int
    auc: float


class Threshold(Closed):
    """The score above which a frame is called fake, see :func:`dfnb.report.scores.threshold_of`."""

    threshold: float
    threshold_clusters: int
    threshold_replicates: list[float]


class TrainingRecord(Closed, extra="ignore"):
    """All that a report says about a training; the trainer writes it at the end.

    Entries that only earlier records have are ignored.
    """

    parameters: RunParameters
    faces: dict[str, Any]  # how they were cut, see dfnb.data.frames.faces_of
    detector: TrainedPaper
    rule: str  # by which the epoch was chosen
    chosen: Chosen | None = None  # None, as the next, of released weights: their authors chose
    validation_threshold: Threshold | None = None
    weights_from: str
    weights_sha256: str
    log: list[dict[str, int | float]] = Field([])  # one row per epoch
    n: dict[str, int] = Field({})  # frames per split
    collapsed: bool = False  # whether it learned nothing
    start: str | None = None  # id of the phase before
    images_seen: int = 0
    wall_s: float
    environment: dict[str, Any]
    outputs: dict[str, str]  # sha256 by file name
    train_set: str = ""  # in a score file: as the profile names it, ``bed-{seed}``
