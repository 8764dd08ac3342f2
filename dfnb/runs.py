"""A finished training: its record, its weights, and what can be computed from them."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from dfnb import papers
from dfnb.data.frames import load_frames, mean_mask, select, thinned
from dfnb.files import dataset_folder, home, read_facts, read_table, run_folder, sha256
from dfnb.records import read_record
from dfnb.settings import DfnbError
from dfnb.store import Condition, StoredRun

if TYPE_CHECKING:
    from dfnb.papers.contract import Network, Settings


def with_weights(stored: Iterable[StoredRun]) -> list["Run"]:
    """Those of the runs whose weights are on this machine, in ``runs/`` or in a report."""
    return [Run(run.id, run.record) for run in stored if _weight_files(run.id)]


def _weight_files(run_id: str) -> list[Path]:
    """The files with weights of that run that there are."""
    in_reports = sorted(home().glob(f"reports/*/weights/{run_id}.safetensors"))
    paths = [run_folder(run_id) / "best.safetensors", *in_reports]
    return [path for path in paths if path.is_file()]


class Run(StoredRun):
    """A finished training whose weights can be loaded."""

    @classmethod
    def open(cls, run: str | Path) -> "Run":
        """The run with an id, or in a folder of ``runs/``; else from a report's score files.

        Raises :class:`DfnbError` when there is no such run, or when it is not finished.
        """
        run_id = Path(run).name
        record = read_record(run_folder(run_id))
        if record is not None:
            return cls(run_id, record)
        for path in sorted(home().glob(f"reports/*/scores/{run_id}.parquet")):
            return cls(run_id, read_facts(path)["record"])
        raise DfnbError(
            f"{run_folder(run_id)} holds no finished training, and no report has its scores"
        )

    @property
    def folder(self) -> Path:
        """``runs/<id>``, which need not exist where the run is known from a report."""
        return run_folder(self.id)

    @property
    def settings(self) -> "Settings":
        """The settings of the training."""
        schema = papers.module(self.parameters["paper"]).Settings
        return schema.check(self.parameters["settings"], self.folder)

    def network(self) -> "Network":
        """The network with the chosen weights, in evaluation mode, on the CPU.

        Raises :class:`DfnbError` when neither ``runs/`` nor a report has the weights whose sha256
        is in the record.
        """
        settings = self.settings.model_copy(update={"pretrained": False})
        network = papers.module(self.parameters["paper"]).Network(settings)
        network.load_state_dict(load_file(self._weights()))
        return network.eval()

    def _weights(self) -> Path:
        for path in _weight_files(self.id):
            if sha256(path) == self.record["weights_sha256"]:
                return path
        raise DfnbError(
            f"{self.folder / 'best.safetensors'} is missing or is not what the record describes, "
            "and no report has the weights; delete the folder and train again"
        )

    def mean_mask(self) -> np.ndarray | None:
        """The mean mask (H, W) in [0, 1] of the training's fakes, whether it read them or not.

        None where no mask is known, or where the training set is not here.
        """
        methods = self.parameters["seen_methods"]
        if methods is not None:
            methods = tuple(methods)
        frames_per_video = self.parameters.get("frames_per_video")
        return _mean_mask(
            str(dataset_folder(self.parameters["train_set"])), methods, frames_per_video
        )

    def epoch_scores(self) -> dict[Condition, pd.DataFrame]:
        """The scores of test sets after each epoch, as far as the training was asked for them."""
        tables = {}
        for path in sorted(self.folder.glob("epochs/*.parquet")):
            table = read_table(path)
            condition = Condition(table.attrs["test_set"], epoch=table.attrs["epoch"])
            tables[condition] = table
        return tables


@cache
def _mean_mask(
    train_set: str, methods: tuple[str, ...] | None, frames_per_video: int | None
) -> np.ndarray | None:
    if read_record(Path(train_set)) is None:
        return None
    frames = select(load_frames(train_set), "train", methods)
    return mean_mask(thinned(frames, frames_per_video))
