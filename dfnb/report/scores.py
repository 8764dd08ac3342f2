"""The scores of a report: how they are written, and how they are read as one table.

The report's folder has everything that is needed to make the report again::

    reports/<profile>/profile.yaml                      copy of the profile
                      test_sets/<name>.parquet          one row per frame: KEYS
                      scores/<run id>.parquet           of a training, written by it
                      scores/<run id>@<what>.parquet    what a notebook adds beside it
                      scores/<tool>.parquet             of another tool, which has no training
                      weights/<run id>.safetensors      of the main detectors' first seeds

The rows of a score file name their :class:`Condition` and, in ``frame_row``, their place in the
table of the test set. The values are ``log_odds`` (of the frame being fake) or, of another tool,
``score``, and measures of located regions or maps. The metadata of the file are the record of the
run and its roles in the report (main detector, or variant of an ablation), or the ``threshold`` of
another tool; and the fingerprints of the test sets.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from dfnb.files import locked, read_metadata, read_table, report_folder, write_table
from dfnb.records import RunParameters, Threshold, TrainingRecord
from dfnb.report.statistics import REPLICATES, THRESHOLD_REPLICATES, cluster_weights
from dfnb.settings import DfnbError, read_yaml

# What identifies a frame of a test set, and what is known of it; dfnb.data.frames explains them.
KEY_TYPES = {
    "video": str,
    "track": int,
    "frame": int,
    "cluster": str,
    "label": int,
    "method": str,
}
KEYS = tuple(KEY_TYPES)
Level = Literal["video", "frame"]
UNITS = {
    "video": ["video", "cluster", "label", "method"],
    "frame": list(KEYS),
}
# The fields of a Detector, but its runs, as the columns of a table of scores.
DETECTOR_COLUMNS = ("detector", "paper", "ablation", "variant", "train_set")
NO_SEED = -1  # of another tool
VALIDATION = "validation of {}"  # the test set of a training set's validation split
STANDING_ALONE = "baselines"  # the ablation whose variants are main detectors, named by variant
MAIN = "main"  # the variant with which the others of its ablation are compared
# Columns that are one measure minus another; "deletion 0" is P(fake) before any deletion.
GAIN = "gain in pixel AP"  # over the mean training mask
LOST = "lost under deletion"  # how far P(fake) falls, as a mean over the deletion curve
DIFFERENCES = {GAIN: ("pixel_ap", "constant pixel_ap"), LOST: ("deletion 0", "deletion")}
FALSE_ALARM_RATE = 0.05  # the share of real validation frames above a detector's threshold
# Clusters of the validation split, for an interval at its threshold. With fewer, the bootstrap of
# the threshold is too narrow.
FEWEST_VALIDATION = 100
Role = tuple[str, str]  # ablation and variant; ("", "") is the main detector


class Condition(NamedTuple):
    """The conditions of a table of scores or measures: test set, corruption and map."""

    test_set: str
    corruption: str = ""  # one of dfnb.data.corrupt.CORRUPTIONS; empty: the frames as they are
    severity: int = 0  # 1 to 5; 0: no corruption
    map: str = ""  # the attribution map that is measured; empty: none
    sanity: bool = False  # whether the map is compared with that of random weights


CONDITION = list(Condition._fields)


@dataclass(frozen=True)
class StoredRun:
    """A finished training as its score file describes it."""

    id: str
    record: TrainingRecord = field(compare=False, repr=False)

    @property
    def parameters(self) -> RunParameters:
        """Paper, training set, seed, settings, and whatever else identifies the training."""
        return self.record.parameters

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.parameters.seed

    @property
    def train_set(self) -> str:
        """The training set as the profile names it: ``bed-{seed}`` where each seed has its own."""
        return self.record.train_set or self.parameters.train_set

    @property
    def log(self) -> pd.DataFrame:
        """One row per epoch: mean loss terms, learning rate, validation AUC, and so on."""
        return pd.DataFrame(self.record.log)


class Detector(NamedTuple):
    """Trainings that differ in their seed alone; or another tool, which has none."""

    name: str  # in tables, unique in a report
    paper: str = ""
    ablation: str = ""  # both are empty for main detectors and for other tools
    variant: str = ""
    train_set: str = ""  # that of the runs
    runs: tuple[StoredRun, ...] = ()  # in the order of their seeds


def score_path(folder: Path, name: str) -> Path:
    """The score file of a run or tool in a report's ``folder``."""
    return folder / "scores" / f"{name}.parquet"


def weights_path(folder: Path, run_id: str) -> Path:
    """The weights file of a run in a report's ``folder``; not every run has one."""
    return folder / "weights" / f"{run_id}.safetensors"


def test_set_path(folder: Path, name: str) -> Path:
    """The frames of a test set in a report's ``folder``."""
    return folder / "test_sets" / f"{name}.parquet"


def profile_of(profile: str) -> dict[str, Any]:
    """The profile as it was when the scores were made; empty for a report that has none."""
    path = report_folder(profile) / "profile.yaml"
    return read_yaml(path) if path.exists() else {}


# ---------------------------------------------------------------- writing


def write_scores(
    profile: str,
    name: str,
    tables: Mapping[Condition, pd.DataFrame],
    test_sets: Mapping[str, Mapping[str, Any]],
    **metadata: Any,
) -> Path:
    """Write a score file into a report; returns its path.

    The frames of a test set are written once, as ``test_sets/<name>.parquet``.

    Args:
        profile: Name of the report.
        name: Of the file: the id of a run, ``<id>@<what>`` for what a notebook adds beside it, or
            the name of another tool.
        tables: For each condition a table with :data:`KEYS` and ``log_odds``, measures, or both.
        test_sets: What is kept about each test set, see :func:`dfnb.data.test_sets.metadata`; its
            ``fingerprint`` changes with its frames.
        metadata: The ``record`` and the ``roles`` of a training; the ``threshold`` of a tool.

    Raises :class:`DfnbError` when the report has another version of a test set.
    """
    folder = report_folder(profile)
    path = score_path(folder, name)
    parts = []
    with locked(folder / "test_sets", wait_s=600):  # trainings in parallel append to one file
        for condition, table in tables.items():
            about = test_sets[condition.test_set]
            parts.append(_stored_rows(folder, condition, table, about))
        # Where no test set is there, a file without rows.
        rows = pd.concat(parts) if parts else pd.DataFrame(columns=CONDITION)
        fingerprints = {test_set: about["fingerprint"] for test_set, about in test_sets.items()}
        write_table(path, rows, {**metadata, "fingerprints": fingerprints})
    return path


def _stored_rows(
    folder: Path,
    condition: Condition,
    table: pd.DataFrame,
    about: Mapping[str, Any],
) -> pd.DataFrame:
    """The rows of a score file for a table; appends its frames to the stored test set.

    In place of :data:`KEYS` they have ``frame_row``, the frame's place in the stored test set.
    ``score`` is left out where log-odds give it; other tools have a score alone. float32 is finer
    than any difference of log-odds that matters.

    Raises :class:`DfnbError` where the stored test set has another fingerprint than ``about``.
    """
    keys = table[list(KEYS)].astype(KEY_TYPES)
    path = test_set_path(folder, condition.test_set)
    stored = keys.head(0)  # none yet, with the same types
    if path.exists():
        if read_metadata(path)["fingerprint"] != about["fingerprint"]:
            raise DfnbError(
                f"{path} is of another version of {condition.test_set}; move the folders scores "
                f"and test_sets of {folder} away, then run the profile again"
            )
        stored = read_table(path)
    frames = pd.concat([stored, keys]).drop_duplicates(ignore_index=True)
    if len(frames) > len(stored):
        write_table(path, frames, about)
    frames["frame_row"] = np.arange(len(frames), dtype="int32")
    rows = table.drop(columns=list(KEYS))
    if "log_odds" in rows:
        rows = rows.drop(columns="score", errors="ignore")
        rows = rows.astype(dict.fromkeys(rows.select_dtypes("number"), "float32"))
    frame_row = keys.merge(frames, how="left")["frame_row"].to_numpy()  # on all KEYS
    return rows.assign(**condition._asdict(), frame_row=frame_row)


def remove_replaced(profile: str, run_id: str) -> None:
    """Remove scores, weights and logs of the runs that a new training replaces.

    Those runs are of the same detector and seed, but had other settings or data. Raises
    :class:`DfnbError` where :func:`detectors` does.
    """
    for detector in detectors(profile):
        seeds = [run.seed for run in detector.runs if run.id == run_id]
        for run in detector.runs:
            if run.seed in seeds and run.id != run_id:
                for path in report_folder(profile).glob(f"*/{run.id}[.@]*"):
                    path.unlink()


# ---------------------------------------------------------------- which detectors there are


def score_files(folder: Path) -> list[Path]:
    """The score files of runs and tools in a report or in a folder of reports.

    What notebooks added is left out.
    """
    # [!.] leaves out the temporary file of another process, whose name begins with a dot.
    paths = sorted(folder.rglob("scores/[!.]*.parquet"))
    return [path for path in paths if "@" not in path.stem]


def detectors(profile: str) -> list[Detector]:
    """The detectors of a report: main ones in the order of their notebooks, variants, other tools.

    Variants are ordered by notebook and name. Raises :class:`DfnbError` when main detectors have
    different training sets.
    """
    folder = report_folder(profile)
    runs_by_place = defaultdict(list)
    tools = []
    for path in score_files(folder):
        metadata = read_metadata(path)
        if "record" not in metadata:
            tools.append(Detector(path.stem))
            continue
        run = StoredRun(path.stem, TrainingRecord.check(metadata["record"], path))
        for ablation, variant in metadata["roles"]:
            # The variants of STANDING_ALONE are main detectors, too.
            is_variant = ablation not in ("", STANDING_ALONE)
            # Runs with the same place are one detector, and detectors are sorted by place.
            place = (is_variant, run.record.detector.notebook, ablation, variant, run.train_set)
            runs_by_place[place].append(run)
    found = []
    for place, runs in sorted(runs_by_place.items()):  # places differ, so runs are not compared
        is_variant, _, ablation, variant, train_set = place
        runs = tuple(sorted(runs, key=lambda run: run.seed))
        paper = runs[0].parameters.paper
        title = runs[0].record.detector.title
        name = f"{title}, {ablation}: {variant}"
        if not is_variant:
            name, ablation, variant = variant or title, "", ""
        found.append(Detector(name, paper, ablation, variant, train_set, runs))
    train_sets = {each.train_set for each in found if not each.ablation}
    if len(train_sets) > 1:
        raise DfnbError(
            f"{folder} has main detectors of several training sets, "
            f"{', '.join(sorted(train_sets))}; give each a report of its own"
        )
    return [*found, *tools]


# ---------------------------------------------------------------- reading


def scores(profile: str, level: Level = "video", of_maps: bool = False) -> pd.DataFrame:
    """All scores of a report as one table, a row per detector, seed and video (or frame).

    Args:
        profile: Name of the report.
        level: "video" or "frame".
        of_maps: Whether to read the measures of maps in place of scores, see :func:`maps`.

    Returns a table with the columns

    - ``detector``, unique in the report; its ``paper``, ``ablation`` and ``variant``, empty where
      it is a main one; ``seed``, NO_SEED for another tool; ``collapsed``, whether the training
      learned nothing;
    - ``test_set``; ``place``: "within" for a test set like the one trained on, "across" for those
      that a mean over other datasets averages, "kinds" for one that compares kinds of images of the
      same people, else the name of the test set; ``corruption`` and ``severity``, empty and 0 for
      the frames as they are; ``map`` and ``sanity``, empty and False but for :func:`maps`;
    - ``video``, ``cluster``, ``label`` and ``method``; of frames also ``track`` and ``frame``;
    - ``score``, P(fake), of a video the mean over its frames; and the measures of located regions
      and :data:`DIFFERENCES`, NaN where there is no mask.

    Raises :class:`DfnbError` for a report without scores, and where :func:`detectors` does.
    """
    folder = report_folder(profile)
    found = detectors(profile)
    about = {}  # the metadata of each test set
    frames = []
    for path in sorted(folder.glob("test_sets/[!.]*.parquet")):
        about[path.stem] = read_metadata(path)
        if not path.stem.startswith(VALIDATION.format("")):
            units = read_table(path)[UNITS[level]]
            frames.append(units.assign(test_set=path.stem, frame_row=range(len(units))))
    if not found or not frames:  # of a training without test sets, only the validation is scored
        raise DfnbError(f"{folder} has no scores of a test set; run `dfnb run {profile}` first")
    frames = pd.concat(frames).astype(dict.fromkeys(["video", "cluster", "method"], "category"))
    grid = profile_of(profile).get("grid", {})
    parts = []
    for detector in found:
        texts = dict(zip(DETECTOR_COLUMNS, detector))
        places = {name: _place(name, detector.train_set, grid, about[name]) for name in about}
        for run in detector.runs or [None]:  # another tool has one file, of its name
            name = run.id if run else detector.name
            added = sorted(folder.glob(f"scores/{name}@*.parquet"))  # by notebooks
            for path in [score_path(folder, name), *added]:
                part = _means(path, about, frames, level, of_maps).assign(**texts)
                part["place"] = part["test_set"].map(places)
                part["seed"] = run.seed if run else NO_SEED
                part["collapsed"] = run is not None and run.record.collapsed
                parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    if len(table):  # else every column would be without a value
        table = table.dropna(axis=1, how="all")
    order = {name: table[name].unique() for name in DETECTOR_COLUMNS}  # not that of the alphabet
    order["place"] = dict.fromkeys(["within", "across", *table["place"].unique()])
    for name, values in order.items():
        table[name] = pd.Categorical(table[name], values)
    return table.astype(dict.fromkeys(["test_set", "corruption", "map"], "category"))


def maps(profile: str) -> pd.DataFrame:
    """The measures of attribution maps, a row per detector, seed, map and forged frame.

    Columns are those of :func:`scores`: ``map``, the name of the map; ``sanity``, whether it was
    compared with that of random weights; and the measures in place of ``score``.
    """
    return scores(profile, "frame", of_maps=True)


def _means(
    path: Path,
    about: Mapping[str, Mapping[str, Any]],
    frames: pd.DataFrame,
    level: Level,
    of_maps: bool,
) -> pd.DataFrame:
    """A row per unit and condition of a score file: the mean of its frames that have a value.

    Args:
        path: The score file.
        about: The metadata of each stored test set.
        frames: The unit of each of their frames, with ``test_set`` and ``frame_row``.
        level: Of the units.
        of_maps: Whether to read the rows of maps or the others.

    Raises :class:`DfnbError` where the file is of other frames than the stored test sets.
    """
    for name, fingerprint in read_metadata(path)["fingerprints"].items():
        if about.get(name, {}).get("fingerprint") != fingerprint:
            raise DfnbError(
                f"{path} is of another version of {name} than the report; delete it, then run the "
                "profile again"
            )
    rows = read_table(path)
    by = [*CONDITION, *UNITS[level]]
    rows = frames.merge(rows[(rows["map"] != "") == of_maps])  # on test_set and frame_row
    if "log_odds" in rows:  # another tool has scores
        rows["score"] = expit(rows.pop("log_odds").astype(float))
    means = rows.drop(columns="frame_row").groupby(by, sort=False, observed=True).mean()
    # Rounding, because the noise of float64 must not rank videos whose means are equal.
    means = means.round(12).reset_index()
    for name, (first, second) in DIFFERENCES.items():
        if first in means:
            means[name] = means[first] - means[second]
    return means


def _place(
    test_set: str,
    train_set: str,
    grid: Mapping[str, Sequence[str]],
    about: Mapping[str, Any],
) -> str:
    """The ``place`` of a test set, see :func:`scores`; ``about``: its metadata."""
    if about.get("contrasts"):
        return "kinds"
    if not train_set:  # nobody knows what another tool was trained on
        return test_set
    if test_set == train_set or test_set in grid.get("within", []):
        return "within"
    is_averaged = test_set in grid.get("test_sets", [])
    is_averaged &= test_set not in grid.get("not_averaged", [])
    return "across" if is_averaged else test_set


def check_scores(scores: pd.DataFrame, source: object) -> None:
    """Raise :class:`DfnbError`, with ``source`` and the remedy, for a score table with errors."""
    label = scores["label"]
    # A video with one label and one cluster has one row here.
    videos = scores[["video", "label", "cluster"]].drop_duplicates()
    ambiguous = videos.loc[videos["video"].duplicated(), "video"]
    problems = {  # what is wrong: (rows,) bool, which rows have this problem
        "no video, track, frame, cluster, label or method": scores[list(KEYS)].isna().any(axis=1),
        "a score that is NaN or outside [0, 1]": ~scores["score"].between(0, 1),
        # A bool is compared as 0 or 1, so any other label, such as 2, is wrong, too.
        "a label that is not 0 real and 1 fake": label != (scores["method"] != "real"),
        "a (video, track, frame) that occurs twice": scores.duplicated(["video", "track", "frame"]),
        "a video of more than one label or cluster": scores["video"].isin(ambiguous),
    }
    for problem, is_wrong in problems.items():
        if is_wrong.any():
            first = scores[is_wrong].iloc[0]
            raise DfnbError(
                f"{source} has {is_wrong.sum()} rows with {problem} (first: video {first.video}, "
                f"track {first.track}, frame {first.frame}); correct them, then score again"
            )
    if label.nunique() < 2:
        raise DfnbError(
            f"{source} lacks real or fake frames; score a test set with real and fake videos"
        )


# ---------------------------------------------------------------- thresholds


def threshold_of(frames: pd.DataFrame) -> dict[str, Any]:
    """The score that FALSE_ALARM_RATE of the real frames exceed, at most.

    Returns ``threshold``; ``threshold_clusters``, the number of clusters (people, mostly) that the
    real frames come from; and ``threshold_replicates``, what the threshold might have been on other
    clusters. ``frames`` has label, score and cluster.
    """
    real = frames[frames["label"] == 0]
    code, names = pd.factorize(real["cluster"].astype(str))
    one_stratum = np.zeros(len(names), int)
    weights = cluster_weights(names, one_stratum)[: 1 + THRESHOLD_REPLICATES]
    order = np.argsort(real["score"].to_numpy(), kind="stable")
    # (1 + THRESHOLD_REPLICATES, n): the weight of each score and all below it, in ascending order.
    up_to = weights[:, code[order]].cumsum(axis=1)
    # Of the total weight in the last column; 1e-9 less, because sums are rounded.
    limit = (1 - FALSE_ALARM_RATE - 1e-9) * up_to[:, -1:]
    place = (up_to < limit).sum(axis=1)
    threshold, *replicates = real["score"].to_numpy()[order][place].tolist()
    return {
        "threshold": threshold,
        "threshold_clusters": len(names),
        "threshold_replicates": replicates,
    }


def thresholds(profile: str) -> dict[tuple[str, int], np.ndarray]:
    """The threshold of each detector and seed, then its replicates in turn, (1 + REPLICATES,).

    The threshold alone, (1,), where it was chosen on fewer than FEWEST_VALIDATION clusters: a
    metric at this threshold has no interval.
    """
    found = {}
    for detector in detectors(profile):
        stored = {run.seed: run.record.validation_threshold for run in detector.runs}
        if not detector.runs:
            metadata = read_metadata(score_path(report_folder(profile), detector.name))
            stored = {NO_SEED: Threshold.check(metadata["threshold"], detector.name)}
        for seed, of_seed in stored.items():
            if of_seed is not None:  # of released weights it is None
                found[detector.name, seed] = with_replicates(of_seed)
    return found


def with_replicates(chosen: Threshold) -> np.ndarray:
    """A threshold, then its replicates in turn, if there are any; see :func:`thresholds`."""
    replicates = []
    if chosen.threshold_clusters >= FEWEST_VALIDATION:
        replicates = np.resize(chosen.threshold_replicates, REPLICATES)
    return np.append(chosen.threshold, replicates)
