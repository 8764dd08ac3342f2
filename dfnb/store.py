"""The scores of a report: where they are, and how they are written and read.

The report's folder has everything that is needed to make the report again::

    reports/<profile>/profile.yaml                      copy of the profile
                      test_sets/<name>.parquet          one row per frame: KEYS
                      scores/<run id>.parquet           of a training, written by it
                      scores/<run id>@<what>.parquet    what a notebook adds beside it
                      weights/<run id>.safetensors      of the main detectors' first seeds
                      other/<tool>/<test set>.csv       scores of another tool, see tool_scores

A score file is tidy: its rows name their :class:`Condition` and, in ``frame_row``, their place in
the table of the test set. The values are ``log_odds`` (of the frame being fake) and measures of
located regions or maps. The metadata of the file are the record of the run, its roles in the
report (main detector, or variant of an ablation), and the fingerprints of the test sets, which
change with their frames. Nothing here imports torch.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from dfnb import metrics
from dfnb.files import (
    digest,
    locked,
    read_metadata,
    read_table,
    report_folder,
    write_bytes,
    write_table,
)
from dfnb.records import TrainingRecord
from dfnb.runs import Run
from dfnb.settings import DfnbError, check_title, explained, read_yaml

# What identifies a frame of a test set, and what is known of it; dfnb.data.frames explains them.
KEY_TYPES = {"video": str, "track": int, "frame": int, "cluster": str, "label": int, "method": str}
KEYS = tuple(KEY_TYPES)
# Tables of categories are sorted and compared several times as fast as those of texts.
CATEGORIES = {"video": "category", "cluster": "category", "method": "category"}
MOST_MISSING = 0.01  # the share of a test set's frames that may lack a score of another tool
# Of a test set: its version, how its videos are compressed, pairs of methods to be compared, and
# how its faces were cut.
TEST_SET_METADATA = ("fingerprint", "compression", "contrasts", "crop")
LOG_ODDS_STEP = 0.02  # stored log-odds are multiples of it, which moves an AUC by less than .0001
MEASURE_DIGITS = 4  # decimals of stored measures
VALIDATION = "validation of {}"  # the name under which the validation split has scores
STANDING_ALONE = "baselines"  # the ablation whose variants are main detectors, named by variant


class Condition(NamedTuple):
    """The conditions of a table of scores or measures: test set, corruption and map."""

    test_set: str
    corruption: str = ""  # one of dfnb.corrupt.CORRUPTIONS; empty: the frames as they are
    severity: int = 0  # 1 to 5; 0: no corruption
    map: str = ""  # the attribution map that is measured; empty: none
    sanity: bool = False  # whether the map is compared with that of random weights


CONDITION = list(Condition._fields)
Role = tuple[str, str]  # ablation and variant; ("", "") is the main detector


class Detector(NamedTuple):
    """Trainings that differ in their seed alone; or another tool, which has no runs."""

    name: str  # in tables, unique in a report
    paper: str = ""
    ablation: str = ""  # both are empty for main detectors and for other tools
    variant: str = ""
    runs: tuple[Run, ...] = ()  # in the order of their seeds

    @property
    def train_set(self) -> str:
        """That of the runs; empty for another tool."""
        return self.runs[0].train_set if self.runs else ""

    @property
    def collapsed(self) -> set[int]:
        """The seeds of the trainings that learned nothing."""
        return {run.seed for run in self.runs if run.record.collapsed}


def score_path(folder: Path, run_id: str) -> Path:
    """The score file of a run in a report's ``folder``."""
    return folder / "scores" / f"{run_id}.parquet"


def _score_paths(folder: Path, run_id: str) -> list[Path]:
    """The score file of a run, and those that notebooks added."""
    return sorted(folder.glob(f"scores/{run_id}[.@]*"))  # not those of a longer id


def weights_path(folder: Path, run_id: str) -> Path:
    """The weights file of a run in a report's ``folder``; not every run has one."""
    return folder / "weights" / f"{run_id}.safetensors"


def test_set_path(folder: Path, name: str) -> Path:
    """The frames of a test set in a report's ``folder``."""
    return folder / "test_sets" / f"{name}.parquet"


def _runs_with_roles(folder: Path) -> list[tuple[Run, list[Role]]]:
    """The runs with scores in a report's ``folder``, sorted by id, each with its roles."""
    runs = []
    # [!.] leaves out the temporary file of another process, whose name begins with a dot.
    for path in sorted(folder.glob("scores/[!.]*.parquet")):
        if "@" not in path.stem:  # not an addition of a notebook
            metadata = read_metadata(path)
            run = Run(path.stem, TrainingRecord.check(metadata["record"], path))
            roles = [tuple(role) for role in metadata["roles"]]  # JSON has made lists of them
            runs.append((run, roles))
    return runs


# ---------------------------------------------------------------- writing


def write_scores(
    profile: str,
    record: TrainingRecord,
    run_id: str,
    roles: Sequence[Role],
    tables: Mapping[Condition, pd.DataFrame],
    test_sets: Mapping[str, Mapping[str, Any]],
    what: str = "",
) -> Path:
    """Write the score file of a run into a report; returns its path.

    The frames of a test set are written once, as ``test_sets/<name>.parquet``. A new training
    replaces an older one that has the same paper, training set and seed and shares a role with it:
    the older one had other settings or data, so its scores and weights are removed.

    Args:
        profile: Name of the report.
        record: The record of the run.
        run_id: Name of the run.
        roles: Pairs of ablation and variant that the run is used for in the report; ``[("", "")]``
            is the main detector. A run without roles appears in no table. The roles of a notebook's
            addition are not read: those in the file of the training count.
        tables: For each condition a table with :data:`KEYS` and ``log_odds``, measures, or both.
        test_sets: The :data:`TEST_SET_METADATA` of each test set of the tables.
        what: Name of a notebook's addition beside the file of the training; empty for that file.

    Raises :class:`DfnbError` when the report has another version of a test set.
    """
    folder = report_folder(profile)
    run = Run(run_id, record)
    path = score_path(folder, f"{run_id}@{what}" if what else run_id)
    fingerprints = {}
    parts = []
    with locked(folder / "test_sets", wait_s=600):  # trainings in parallel append to one file
        for condition, table in tables.items():
            made_of = test_sets[condition.test_set]
            fingerprints[condition.test_set] = made_of["fingerprint"]
            parts.append(_stored_rows(folder, condition, table, made_of))
        # Where no test set is there, the file has no rows, but the record of the training.
        rows = pd.concat(parts) if parts else pd.DataFrame(columns=CONDITION)
        metadata = {"record": record.model_dump(), "roles": roles, "fingerprints": fingerprints}
        write_table(path, rows, metadata)
        if not what:  # an addition is of the same run, and replaces none
            _remove_replaced(folder, run, roles)
    return path


def write_tool_scores(profile: str, tool: str, test_set: str, table: pd.DataFrame) -> None:
    """Write another tool's scores of a test set into a report.

    ``table`` has :data:`KEYS` and ``score``, NaN where the tool has none, and as ``attrs``
    :data:`TEST_SET_METADATA`. Raises :class:`DfnbError` when the report has another version of the
    test set.
    """
    folder = report_folder(profile)
    keys = table[list(KEYS)].astype(KEY_TYPES)
    _extended_test_set(folder, test_set, keys, table.attrs)
    scored = table.dropna(subset="score")
    text = scored[["video", "track", "frame", "score"]].to_csv(index=False)
    write_bytes(folder / "other" / tool / f"{test_set}.csv", text.encode())


def _stored_rows(
    folder: Path,
    condition: Condition,
    table: pd.DataFrame,
    made_of: Mapping[str, Any],
) -> pd.DataFrame:
    """The rows of a score file for a table; adds its frames to the stored test set.

    They have the columns of the condition, ``log_odds`` and measures; in place of :data:`KEYS` they
    have ``frame_row``, the frame's place in the stored test set. ``score`` is left out: log-odds
    give it. So that files are small, log-odds are rounded to multiples of LOG_ODDS_STEP, and
    measures to MEASURE_DIGITS decimals, which is finer.
    """
    keys = table[list(KEYS)].astype(KEY_TYPES)
    frames = _extended_test_set(folder, condition.test_set, keys, made_of)
    frames["frame_row"] = np.arange(len(frames), dtype="int32")
    frame_row = keys.merge(frames, how="left")["frame_row"].to_numpy()  # on all KEYS
    rows = table.drop(columns=[*KEYS, "score"], errors="ignore")
    rows = rows.assign(**condition._asdict(), frame_row=frame_row)
    # NaN where there are none: a table of maps has measures only.
    steps = np.round(rows.get("log_odds", np.nan) / LOG_ODDS_STEP)
    rows["log_odds"] = steps * LOG_ODDS_STEP
    # Of log-odds this removes only the error of the product, because their step is coarser.
    return rows.round(MEASURE_DIGITS)


def _extended_test_set(
    folder: Path,
    name: str,
    keys: pd.DataFrame,
    attrs: Mapping[str, Any],
) -> pd.DataFrame:
    """Append the frames of ``keys`` that the stored test set lacks; return all its frames.

    ``attrs``: the :data:`TEST_SET_METADATA`. Raises :class:`DfnbError` where the stored test set
    has another fingerprint.
    """
    path = test_set_path(folder, name)
    stored = keys.head(0)  # none yet, with the same types
    if path.exists():
        stored = read_table(path)
        if stored.attrs["fingerprint"] != attrs["fingerprint"]:
            raise DfnbError(
                f"{path} is of another version of {name}; move the folders scores and test_sets "
                f"of {folder} away, then run the profile again"
            )
    frames = pd.concat([stored, keys]).drop_duplicates(ignore_index=True)
    if len(frames) > len(stored):
        metadata = {entry: attrs[entry] for entry in TEST_SET_METADATA if entry in attrs}
        write_table(path, frames, metadata)
    return frames


def _remove_replaced(folder: Path, new: Run, new_roles: Sequence[Role]) -> None:
    """Remove scores and weights of the runs that ``new`` replaces, see :func:`write_scores`."""
    purpose = attrgetter("paper", "train_set", "seed")  # other settings are not compared
    for run, roles in _runs_with_roles(folder):
        is_same_purpose = purpose(run.parameters) == purpose(new.parameters)
        if run.id != new.id and is_same_purpose and set(roles).intersection(new_roles):
            weights_path(folder, run.id).unlink(missing_ok=True)
            for path in _score_paths(folder, run.id):
                path.unlink()


# ---------------------------------------------------------------- reading


class Report:
    """The scores of a report, read from its files alone.

    Args:
        profile: Name of the report; one that does not exist has no detectors.

    Attributes:
        folder: Of the report.
        profile: The profile as it was when the scores were made; empty where there is none.
        grid: The grid of the profile, such as its lists of test sets.
    """

    def __init__(self, profile: str) -> None:
        self.folder = report_folder(profile)
        path = self.folder / "profile.yaml"  # as it was when the scores were made
        self.profile = read_yaml(path) if path.exists() else {}
        self.grid = self.profile.get("grid", {})
        # Every file is read once per object. Caches of the class would keep all objects alive.
        self.test_set = cache(self.test_set)
        self._tables_of = cache(self._tables_of)

    def detectors(self) -> list[Detector]:
        """Main detectors in the order of their notebooks, then variants, then other tools.

        Variants are ordered by notebook, then as in the profile; those of a notebook that the
        profile does not have precede its others, by name.

        Raises :class:`DfnbError` when another tool has the name of a detector, has a name that is
        not allowed or scores an unknown test set, or when main detectors have different training
        sets.
        """
        detectors = self._our_detectors()
        names = [detector.name.casefold() for detector in detectors]
        for folder in sorted(self.folder.glob("other/[!.]*/")):  # all folders but hidden ones
            tool = check_title(folder.name, folder)
            if tool.casefold() in names:  # names that differ in capitals alone would be mixed up
                raise DfnbError(f"{folder} has the name of a detector of this report; rename it")
            for path in folder.glob("[!.]*.csv"):
                if not test_set_path(self.folder, path.stem).exists():
                    raise DfnbError(f"{path} has the name of no test set of this report; rename it")
            detectors.append(Detector(tool))
        return detectors

    def conditions(self, detector: Detector) -> list[Condition]:
        """The conditions under which any run of a detector has a table, each once.

        They are in the order of its score files.
        """
        if not detector.runs:
            paths = sorted(self.folder.glob(f"other/{detector.name}/[!.]*.csv"))
            return [Condition(path.stem) for path in paths]
        conditions = {}  # a set that keeps its order: only the keys are used
        for run in detector.runs:
            conditions.update(self._tables_of(run.id))
        return list(conditions)

    def test_set(self, name: str) -> pd.DataFrame:
        """The frames of a test set: :data:`KEYS`, and as ``attrs`` :data:`TEST_SET_METADATA`."""
        return read_table(test_set_path(self.folder, name)).astype(CATEGORIES)

    def read(self, detector: Detector, condition: Condition) -> list[pd.DataFrame]:
        """The tables of a detector under a condition, one per seed that has one, sorted by seed.

        Columns are :data:`KEYS`, ``log_odds`` and ``score`` = P(fake), both NaN where a map is
        measured, and measures. The ``attrs`` are :data:`TEST_SET_METADATA`, ``seed``, ``threshold``
        (the score above which a frame is called fake), ``threshold_clusters``, the number of
        clusters of the validation split that it was chosen on, and ``threshold_replicates``, see
        :func:`dfnb.metrics.align`. For another tool there are no ``log_odds``, the seed is None,
        and the threshold is that of its first test set.

        Raises :class:`DfnbError` when there is no table, when scores are unsound, and when they are
        of another version of the test set.
        """
        if not detector.runs:
            return [self._of_tool(detector.name, condition.test_set)]
        tables = []
        for run in detector.runs:
            if condition in self._tables_of(run.id):
                tables.append(self._of_run(run, condition))
        if not tables:
            raise DfnbError(f"{self.folder} has no scores of {detector.name}, {condition}")
        return tables

    def _our_detectors(self) -> list[Detector]:
        """The detectors that have runs, in their order in tables, which is that of ``place``."""
        runs_by_place = defaultdict(list)
        main_train_sets = set()
        in_profile = self._variants_in_profile()
        for run, roles in _runs_with_roles(self.folder):
            for ablation, variant in roles:
                if not ablation:
                    main_train_sets.add(run.train_set)
                # The variants of STANDING_ALONE are listed beside the main detectors.
                is_variant = ablation not in ("", STANDING_ALONE)
                notebook = run.record.detector.notebook
                role = (notebook, ablation, variant)
                # -1: a main detector, or a variant that the profile does not name any more.
                position = in_profile.index(role) if role in in_profile else -1
                # Runs with the same place are one detector, and detectors are sorted by place. The
                # training set is part of it, because runs on another one are another detector.
                place = (is_variant, notebook, position, ablation, variant, run.train_set)
                runs_by_place[place].append(run)
        if len(main_train_sets) > 1:
            raise DfnbError(
                f"{self.folder} has main detectors of several training sets, "
                f"{', '.join(sorted(main_train_sets))}; give each a report of its own"
            )
        detectors = []
        for place in sorted(runs_by_place):
            _, _, _, ablation, variant, _ = place
            runs = sorted(runs_by_place[place], key=attrgetter("seed"))
            detectors.append(_detector(ablation, variant, runs))
        return detectors

    @property
    def claims(self) -> str:
        """The name of the file of claims that are judged here."""
        return self.profile.get("claims", "claims")

    def _variants_in_profile(self) -> list[tuple[str, str, str]]:
        """Notebook, ablation and variant of the profile's variants, in its order."""
        roles = []
        for notebook, ablations in self.profile.get("ablations", {}).items():
            for ablation, variants in ablations.items():
                for variant in variants:
                    roles.append((notebook, ablation, variant))
        return roles

    def _tables_of(self, run_id: str) -> dict[Condition, pd.DataFrame]:
        """The stored rows of a run by condition, including those that notebooks added.

        Columns are ``frame_row``, ``log_odds`` and measures. Of a condition in several files the
        last file counts, that of a notebook.
        """
        tables = {}
        for path in _score_paths(self.folder, run_id):
            stored = read_table(path)
            fingerprints = stored.attrs["fingerprints"]
            stored.attrs = {}  # pandas would copy the record with every selection of rows
            for values, rows in stored.groupby(CONDITION, sort=False):
                condition = Condition(*values)
                rows.attrs = {"fingerprint": fingerprints[condition.test_set]}
                tables[condition] = rows.drop(columns=CONDITION)
        return tables

    def _of_run(self, run: Run, condition: Condition) -> pd.DataFrame:
        """The table of one run under a condition; see :meth:`read`."""
        rows = self._tables_of(run.id)[condition]
        test_set = self.test_set(condition.test_set)
        if rows.attrs["fingerprint"] != test_set.attrs["fingerprint"]:
            raise DfnbError(
                f"the scores of {run.id} are of another version of {condition.test_set} than "
                "those of other runs; score it again"
            )
        table = test_set.iloc[rows["frame_row"]].reset_index(drop=True)
        log_odds = rows["log_odds"].to_numpy()
        table["log_odds"] = log_odds
        table["score"] = expit(log_odds)
        measures = rows.drop(columns=["frame_row", "log_odds"]).reset_index(drop=True)
        # The file has the measures of all its conditions: those of others are NaN in every row.
        table = table.join(measures.dropna(axis=1, how="all"))
        if not condition.map:  # rows of maps have no scores
            metrics.check_scores(table, f"{self.folder}: {run.id}, {condition}")
        table.attrs = {
            **test_set.attrs,
            **run.record.validation_threshold.model_dump(),  # the attrs that begin with "threshold"
            "seed": run.seed,
        }
        return table

    def _of_tool(self, tool: str, test_set: str) -> pd.DataFrame:
        """The table of another tool on a test set, as :meth:`read` returns it.

        Its threshold is chosen on the first test set of the profile's grid that it scored, else on
        the first by name. On that test set itself, accuracies at the threshold have no interval.
        """
        scored = [condition.test_set for condition in self.conditions(Detector(tool))]
        # In the order of the grid; those that it lacks follow by name.
        in_order = [*self.grid.get("test_sets", []), *scored]
        first = next(name for name in in_order if name in scored)
        table = self._table_of_tool(tool, test_set)
        table.attrs.update(metrics.threshold_of(self._table_of_tool(tool, first)))
        if first == test_set:
            table.attrs["threshold_clusters"] = 0  # so that no interval is computed
        return table

    def _table_of_tool(self, tool: str, test_set: str) -> pd.DataFrame:
        """The :func:`tool_scores` of a test set; those that are missing count as the median."""
        frames = self.test_set(test_set)
        path = self.folder / "other" / tool / f"{test_set}.csv"
        table = tool_scores(path, frames).astype(CATEGORIES)
        table["score"] = table["score"].fillna(table["score"].median())
        table.attrs = {**frames.attrs, "seed": None}
        return table


def _detector(ablation: str, variant: str, runs: list[Run]) -> Detector:
    """The detector of runs that have this role and differ in their seed alone.

    A variant of STANDING_ALONE becomes a main detector: it has neither ablation nor variant.
    """
    first = runs[0]
    name = first.record.detector.title  # of the paper
    if ablation == STANDING_ALONE:
        name = variant
        ablation = ""
        variant = ""
    elif ablation:
        name = f"{name}, {ablation}: {variant}"
    return Detector(name, first.parameters.paper, ablation, variant, tuple(runs))


# ---------------------------------------------------------------- other tools


def exported_id(fingerprint: str, *unit: Any) -> str:
    """An opaque name of a video, or of a (video, track, frame): it does not show the label.

    ``fingerprint`` is that of the test set. The name has 16 hexadecimal digits.
    """
    return digest([fingerprint, *unit], 16)


def tool_scores(path: Path, frames: pd.DataFrame, test_set: str = "") -> pd.DataFrame:
    """The frames of a test set with another tool's ``score`` of each, NaN where it has none.

    Args:
        path: A CSV with the columns ``video``, by our name or its :func:`exported_id`, and
            ``score``, any number, high for fakes. It may have ``frame``; else the score of a video
            counts for each of its frames. A ``label`` or ``track`` must agree with ours.
        frames: :data:`KEYS`, and as ``attrs`` the ``fingerprint``.
        test_set: Read only the rows with this name in the column ``test_set``; empty: all.

    Raises :class:`DfnbError` for a file that cannot be used, and where more than MOST_MISSING of
    the frames have no score.
    """
    fingerprint = frames.attrs["fingerprint"]
    name_of_id = {exported_id(fingerprint, name): name for name in frames["video"].unique()}
    remedy = "it needs the columns video and score, and each video, or frame, once"
    with explained(path, "as a table of scores", remedy):
        table = pd.read_csv(path, dtype={"video": str, "score": float})  # "007" is no number
        if test_set:
            table = table[table["test_set"] == test_set]
        # An exported id becomes our name; what is no such id is our name already.
        table = table.assign(video=table["video"].map(name_of_id).fillna(table["video"]))
        # A row of the CSV is the score of the frames with which it agrees in these columns.
        shared = [name for name in ("video", "track", "frame", "label") if name in table]
        keys = frames[list(KEYS)].astype(KEY_TYPES)
        scored = keys.merge(
            table[[*shared, "score"]],
            how="left",
            on=shared,
            validate="many_to_one",  # raises an error if the CSV has a video or frame twice
        )
    unscored = scored[scored["score"].isna()]
    if len(unscored) > MOST_MISSING * len(scored):
        first = unscored.iloc[0]
        raise DfnbError(
            f"{path} has no score of {len(unscored)} of {len(scored)} frames, such as of video "
            f"{first.video} with label {first.label}, and 1 % may be missing; score all that "
            "`dfnb export` lists"
        )
    scored.attrs = frames.attrs
    return scored
