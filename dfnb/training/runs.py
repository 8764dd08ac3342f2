"""A finished training: its record, its weights, and what can be computed from them.

Torch is imported only where a network is made.
"""

from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd

from dfnb import papers
from dfnb.store.runs import StoredRun, Training, TrainingRecord
from facesets.checks import DfnbError, explained
from facesets.files import dataset_folder, in_reports, read_json, read_metadata, run_folder, sha256
from facesets.frames import data_identity, load_frames, mean_mask, select, thinned
from facesets.records import read_record

if TYPE_CHECKING:
    from dfnb.papers.contract import Network, Settings


class Run(StoredRun):
    """A finished training; :meth:`network` loads its weights where they are on this machine."""

    @classmethod
    def find(cls, which: str | Training) -> "Run | None":
        """The finished run with an id, or of a training; None where there is none.

        ``runs/`` and several reports may have it, also trained again on another machine, to other
        weights. The first record whose weights are on this machine is taken, or else the first.

        Raises :class:`DfnbError` where the training asks for other settings than those of the run,
        as after a change of a default: the id does not have them.
        """
        run_id = which if isinstance(which, str) else which.id
        name = f"the record of {run_id}"
        found = [cls(run_id, TrainingRecord.check(each, name)) for each in _records(run_id)]
        run = next((each for each in found if each.has_weights), next(iter(found), None))
        if run is not None and isinstance(which, Training):
            _check_defaults(run, which)
        return run

    @property
    def has_weights(self) -> bool:
        """Whether its weights are on this machine, in ``runs/`` or in a report.

        Those of a paper that is no longer there are of no use, and do not count.
        """
        return self.parameters.paper in papers.modules() and self._weights is not None

    @property
    def phase_before(self) -> "Run | None":
        """The run that its training started from, if its weights are on this machine."""
        start = self.record.start
        run = Run.find(start) if start else None
        return run if run and run.has_weights else None

    @property
    def folder(self) -> Path:
        """``runs/<id>``, which need not exist where the run is known from a report."""
        return run_folder(self.id)

    @cached_property
    def training(self) -> Training:
        """What was trained, with the settings as an instance of the paper's Settings.

        Raises :class:`DfnbError` when the paper refuses them today.
        """
        stored = self.parameters
        schema = papers.module(stored.paper).Settings
        settings = schema.check(stored.settings, f"settings of {stored.paper}")
        return Training(**{**dict(stored), "settings": settings})

    @property
    def settings(self) -> "Settings":
        """The paper's settings; raises as :attr:`training`."""
        return self.training.settings

    def network(self, weights: Path | None = None) -> "Network":
        """The network with the chosen weights, in evaluation mode, on the CPU.

        ``weights`` is another file that has them.

        Raises :class:`DfnbError` when neither ``runs/`` nor a report has weights with the sha256 of
        the record, and when ``weights`` has another or its tensors do not fit.
        """
        from safetensors.torch import load_model  # with torch, which opening a run does not need

        from dfnb.papers.weights import Weights

        file = weights or self.weights()
        # The file replaces all weights, so that pretrained ones need not be fetched.
        settings = self.settings.model_copy(update={"pretrained": False})
        network = papers.module(self.parameters.paper).Network(settings)
        with explained(file, f"as weights of {self.id}", "take them from a copy"):
            load_model(network, Weights(self.id, file, self.record.weights_sha256).intact())
        return network.eval()

    def weights(self) -> Path:
        """The file with the weights that the record describes; raises as :meth:`network`."""
        if self._weights is not None:
            return self._weights
        raise DfnbError(
            f"{self.folder / 'best.safetensors'} is missing or is not what the record describes, "
            "and no report has the weights, as a clone has those of data_manifest/models.yaml; put "
            "them there, or move the folder away and train again"
        )

    @property
    def _weights(self) -> Path | None:
        """The first file with the sha256 of the record; a damaged one is passed over."""
        for path in _weight_files(self.id):
            status = path.stat()
            if _file_sha256(path, status.st_mtime_ns, status.st_size) == self.record.weights_sha256:
                return path
        return None

    @cache  # noqa: B019, runs are few, and reading all masks takes long
    def mean_mask(self) -> np.ndarray | None:
        """The mean mask (H, W) in [0, 1] of the training's fakes, even if it learned without masks.

        Where the frames of the training are not on this machine, it is read from a report, in which
        it is a 16-bit image. None where no mask is known, or where neither is there.
        """
        if self.has_training_frames:
            return mean_mask(frames_of(self.parameters, "train"))
        for path in in_reports(f"weights/{self.id}-mean-mask.png"):
            # Not cv2.imread, which crashes at a name that is not UTF-8.
            return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) / 65535
        return None

    @property
    def has_training_frames(self) -> bool:
        """Whether its training set is on this machine, in the version that it was trained on.

        Of released weights that version is not known: any that has the split train counts.
        """
        record = read_record(dataset_folder(self.train_set)) or {}
        fingerprints = record.get("fingerprints", {})
        if not self.parameters.data:
            return "train" in fingerprints
        if not fingerprints:
            return False
        return data_identity(record, ("train", "val")) == self.parameters.data


def _check_defaults(run: Run, training: Training) -> None:
    """Raise :class:`DfnbError` where the run was trained with other settings than the training."""
    stored = run.parameters.settings
    for name, asked in training.settings.model_dump(mode="json").items():
        if stored.get(name, asked) != asked:  # a setting that is newer than the run is absent
            raise DfnbError(
                f"{run.id} was trained with {name} = {stored[name]!r}, and {asked!r} is asked for, "
                "because a default has changed since; raise version in PAPER of "
                f"{papers.module(training.paper).__file__}, and it is trained under another id"
            )


def frames_of(training: Training, split: str) -> pd.DataFrame:
    """The frames of a split of the training set that this training uses, with all masks.

    ``Settings.visible`` may hide some of these frames and masks from the paper afterwards.
    """
    frames = select(load_frames(training.train_set), split, training.seen_methods)
    return thinned(frames, training.frames_per_video)


def with_weights(stored: Iterable[StoredRun]) -> list[Run]:
    """The runs that have their weights on this machine, in ``runs/`` or in a report."""
    runs = [Run(run.id, run.record) for run in stored]
    return [run for run in runs if run.has_weights]


def _records(run_id: str) -> Iterator[dict[str, Any]]:
    """The contents of the records with an id: that in ``runs/``, then those in reports."""
    content = read_record(run_folder(run_id))
    if content is not None:
        yield content
    for path in in_reports(f"scores/{escape(run_id)}.parquet"):
        yield read_metadata(path)["record"]
    for path in in_reports(f"weights/{escape(run_id)}.json"):  # a phase before, without scores
        yield read_json(path)


@cache
def _file_sha256(path: Path, modified: int, size: int) -> str:
    """The sha256 of a file, which is computed again only when it was modified."""
    return sha256(path)


def _weight_files(run_id: str) -> list[Path]:
    """The files on this machine with weights of that run, whether intact or not."""
    # glob, because it gives nothing where there is no such file.
    in_runs = run_folder(run_id).glob("best.safetensors")
    return [*in_runs, *in_reports(f"weights/{run_id}.safetensors")]
