"""A finished training: its record, its weights, and what can be computed from them.

Torch is imported only where a network is made.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dfnb import papers
from dfnb.data.frames import load_frames, mean_mask, select, thinned
from dfnb.files import dataset_folder, home, read_metadata, run_folder, sha256
from dfnb.records import RunParameters, TrainingRecord, read_record
from dfnb.report.scores import StoredRun
from dfnb.settings import DfnbError, explained, suggestion

if TYPE_CHECKING:
    from dfnb.papers.contract import Network, Settings


class Run(StoredRun):
    """A finished training; :meth:`network` loads its weights where they are on this machine."""

    @classmethod
    def open(cls, run_id: str) -> "Run":
        """The run with an id, from ``runs/``, or else from the record in a score file.

        Raises :class:`DfnbError` when there is no such run, with the nearest ids, or when it is not
        finished.
        """
        record = TrainingRecord.read(run_folder(run_id))
        if record is not None:
            return cls(run_id, record)
        # Several reports may have the run; the first that is found will do.
        for path in home().glob(f"reports/*/scores/{run_id}.parquet"):
            return cls(run_id, TrainingRecord.check(read_metadata(path)["record"], path))
        if run_folder(run_id).is_dir():
            raise DfnbError(
                f"{run_folder(run_id)} contains no finished training, and no report has its scores"
            )
        known = {path.parent.name for path in home().glob("runs/*/record.json")}
        # [!.]*: not the unfinished files of files.atomic, whose names begin with a dot.
        for path in home().glob("reports/*/scores/[!.]*.parquet"):
            # A score file that a notebook added is named <run id>@<what>.
            known.add(path.stem.partition("@")[0])
        raise DfnbError(f"there is no run {run_id!r}{suggestion(run_id, sorted(known))}")

    @property
    def folder(self) -> Path:
        """``runs/<id>``, which need not exist where the run is known from a report."""
        return run_folder(self.id)

    @property
    def settings(self) -> "Settings":
        """The settings of the training, see :func:`settings_of`."""
        return settings_of(self.parameters)

    def network(self) -> "Network":
        """The network with the chosen weights, in evaluation mode, on the CPU.

        Frozen weights that the training took from pretrained ones are taken from there again.

        Raises :class:`DfnbError` when neither ``runs/`` nor a report has weights with the sha256 of
        the record, when these do not fit the network or are not finite, and when the
        pretrained weights differ from those of the training or cannot be fetched.
        """
        from safetensors.torch import load_file  # with torch, which opening a run does not need

        from dfnb.papers import backbones

        settings = self.settings
        # Names of weights that stayed as pretrained, and so are not in the file of weights.
        frozen_names = self.record.frozen
        # Pretrained weights are fetched only if the file lacks some. Otherwise the network is made
        # with random weights, and the file replaces them all.
        if not frozen_names:
            settings = settings.model_copy(update={"pretrained": False})
        paper = self.parameters.paper
        network = papers.module(paper).Network(settings)
        path = self._weights()
        remedy = f"use the code that trained it, or move {self.folder} away and train again"
        with explained(path, f"as weights of {paper}", remedy):
            weights = load_file(path)
            if frozen_names:  # load_state_dict needs these, too; the network was made with them
                start = backbones.start(settings.backbone, settings.pretrained)
                if start.sha256 != self.parameters.start_weights:
                    # A DfnbError, because the file of weights, which ``explained`` names, is fine.
                    raise DfnbError(
                        f"the pretrained weights of {settings.backbone} are not here, and {path} "
                        "lacks those that were frozen; fetch them (HF_HOME), then try again"
                    )
                pretrained = network.state_dict()
                weights.update({name: pretrained[name] for name in frozen_names})
            network.load_state_dict(weights)
            if not all(tensor.isfinite().all() for tensor in weights.values()):
                raise ValueError("NaN or infinite")
        return network.eval()

    def _weights(self) -> Path:
        """The file with the weights that the record describes; see :meth:`network`."""
        # A damaged file is passed over where another place has the weights intact.
        for path in _weight_files(self.id):
            if sha256(path) == self.record.weights_sha256:
                return path
        raise DfnbError(
            f"{self.folder / 'best.safetensors'} is missing or is not what the record describes, "
            "and no report has the weights; put them there, or move the folder away and train again"
        )

    @cache  # noqa: B019, runs are few, and reading all masks takes long
    def mean_mask(self) -> np.ndarray | None:
        """The mean mask (H, W) in [0, 1] of the training's fakes, even if it learned without masks.

        None where no mask is known, or where the training set is not on this machine.
        """
        if read_record(dataset_folder(self.parameters.train_set)) is None:
            return None
        return mean_mask(frames_of(self.parameters, "train"))


def settings_of(parameters: RunParameters) -> "Settings":
    """The settings of a training; raises :class:`DfnbError` when the paper refuses them today."""
    paper = parameters.paper
    return papers.module(paper).Settings.check(parameters.settings, f"settings of {paper}")


def frames_of(parameters: RunParameters, split: str) -> pd.DataFrame:
    """The frames of a split of the training set that this training uses, with all masks."""
    frames = select(load_frames(parameters.train_set), split, parameters.seen_methods)
    return thinned(frames, parameters.frames_per_video)


def with_weights(stored: Iterable[StoredRun]) -> list[Run]:
    """The runs that have their weights on this machine, in ``runs/`` or in a report."""
    return [Run(run.id, run.record) for run in stored if _weight_files(run.id)]


def _weight_files(run_id: str) -> list[Path]:
    """The files on this machine with weights of that run, whether intact or not."""
    # glob, because it gives nothing where there is no such file.
    in_runs = run_folder(run_id).glob("best.safetensors")
    in_reports = home().glob(f"reports/*/weights/{run_id}.safetensors")
    return [*in_runs, *in_reports]
