"""The one store of scores: a table per run, test set and condition at home, and packed in a report.

A table has one row per frame: video, track, frame, cluster, label, method, ``score`` (P(fake)), and measures. Its condition
is a text: empty for the frames as they are, ``JPEG 3``, ``epoch 2``, ``map Grad-CAM``, ``sanity Grad-CAM``. At home each is
a file of its run (:func:`keep`), with what it depends on in its metadata. A report holds one file per main line and test
set, and one for the arms of a group (:func:`pack`), and is read without runs and datasets (:class:`Report`).
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import mode
from typing import Any, NamedTuple

import pandas as pd
from pydantic import Field
from scipy.special import expit, logit

from dfnb import core, corrupt, metrics, papers
from dfnb.core import DfnbError
from dfnb.data.frames import dataset_record, first_clusters, load_frames, select
from dfnb.train import DEVICE, Run, predict, score_facts, shard

KEYS = ["line", "seed", "condition"]  # of a table in a packed file
TEXTS = ["facts", "line", "condition", "video", "cluster", "method"]
LOGIT, DIGITS = 0.02, 4  # move an AUC by less than .0001, and halve what a study keeps
PACKED_DIGITS = 3  # of measures in a report


def keep(run: Run, test_set: str, condition: str, facts: dict, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table of a run on a test set under a condition, made now or read; ``facts``: what else it depends on.

    Scores are kept to :data:`LOGIT` of their logit, measures to :data:`DIGITS` decimals.
    """
    facts = score_facts(run.id, test_set, condition, dataset_record(test_set), run.record["weights_sha256"]) | facts
    facts |= run.record["validation_threshold"]
    return core.cached(shard(run.folder, test_set, condition), facts, lambda: _rounded(make()))


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    score = expit((logit(table["score"]).clip(-15, 15) / LOGIT).round() * LOGIT)
    return table.round(DIGITS).assign(score=score.astype("float32").astype(float))


def score(run: Run, test_set: str, corruption: str = "", severity: int = 0, videos: int | None = None) -> pd.DataFrame:
    """The scores of a test split with a run's chosen checkpoint, made now or read.

    ``corruption``: one of :data:`dfnb.corrupt.CORRUPTIONS` at a severity from 1 to 5. ``videos``: about so many, those of
    the first clusters, instead of all.
    """

    def make() -> pd.DataFrame:
        frames = first_clusters(select(load_frames(test_set), "test"), videos)
        pixels = corrupt.Corrupted(frames, corruption, severity) if corruption else None
        table = predict(run.network().to(DEVICE), frames, run.settings, pixels, run.mean_mask())
        return metrics.check_scores(table, f"the scores of {run.id} on {test_set}")

    facts = {"corruptions": corrupt.VERSION, "videos": videos} if corruption else {}
    return keep(run, test_set, f"{corruption} {severity}" if corruption else "", facts, make)


# ---------------------------------------------------------------- reports


class Entry(core.Closed):
    """What ``runs.json`` has of a line; records of jobs are not in older reports."""

    name: str
    paper: core.Name
    group: str
    arm: str
    runs: dict[core.Name, papers.RunRecord]
    jobs: dict[core.Name, core.Record] = Field({})
    files: dict[core.Inside, str]  # sha256
    versions: dict[core.Name, str]  # fingerprints of the test sets


class Line(NamedTuple):
    """Runs that differ in their seed alone: a main line, or an arm of a group. Or the scores of another tool: no runs."""

    name: str  # in tables; unique in a report
    paper: str
    group: str  # empty for main lines
    arm: str
    runs: tuple[Run, ...]

    @property
    def share(self) -> str:
        """What names the files that hold its scores in a report: arms of a group share them."""
        return f"{self.paper} {self.group}" if self.group else self.name

    @property
    def here(self) -> list[Run]:
        """The runs whose weights are at home: few, where a report came from elsewhere."""
        return [run for run in self.runs if (run.folder / "best.safetensors").exists()]


def report_folder(profile: str) -> Path:
    """``reports/<profile>`` under the home."""
    return core.home() / "reports" / core.Named.check({"name": profile}, "reports").name


def job_folder(profile: str, job: str) -> Path:
    """Where the record lies that proves that a job of a profile ended."""
    return core.home() / "runs" / "notebooks" / profile / job


def pack(profile: str, lines: Sequence[Line], prune: bool = False) -> None:
    """Put scores, records, logs and the weights of the main lines' first seeds from the home into a report.

    What changed of lines that the report has already is made anew, arms by whole groups; other lines stay, or go where
    ``prune``.
    """
    folder = report_folder(profile)
    with core.locked(folder, wait_s=600):
        report, shares, given = Report(profile), {line.share for line in lines}, {line.name for line in lines}
        ended = {path.parent.name: core.read_json(path) for path in job_folder(profile, "").glob("*/record.json")}
        known = {name: sha256 for entry in report.entries.values() for name, sha256 in entry["files"].items()}
        gone = {line.name for line in report.lines() if line.runs and (prune or line.share in shares)}
        entries = {name: entry for name, entry in report.entries.items() if name not in given | gone}
        # anew even where they were there: in the order in which they are given, whichever ended first
        entries |= {line.name: _entry(folder, line, ended) for line in lines}
        files = defaultdict(list)
        for line in lines:
            for source, facts in _at_home(line):
                files[f"scores/{core.slug(line.share)}@{facts['test_set']}.parquet"].append((source, facts))
        for name, parts in files.items():
            sha256 = _packed(folder / name, parts, known.get(name))
            for _, facts in parts:
                entries[facts["line"]]["files"][name] = sha256
                entries[facts["line"]]["versions"][facts["test_set"]] = facts["fingerprint"]
        core.write_json(folder / "runs.json", entries, indent=None)
        named = {folder / name for entry in entries.values() for name in entry["files"]}
        for path in {*folder.glob("scores/*"), *folder.glob("weights/*")} - named:
            path.unlink()


def unpack(profile: str) -> None:
    """Put what a report holds and the home does not back there: records, scores, and the weights that the report has.

    Raises :class:`DfnbError` where a file of the report is missing or altered.
    """
    report, restored = Report(profile), set()
    for line in report.lines():
        missing = {run.id: run for run in line.runs if not core.read_record(run.folder)}
        for test_set in report.test_sets(line) if missing else ():
            for table in report.tables(line, test_set):
                facts = {name: value for name, value in table.attrs.items() if name not in ("line", "seed", "arm")}
                if facts["run"] in missing:
                    path = shard(missing[facts["run"]].folder, test_set, facts["condition"])
                    core.write_table(path, table.drop(columns=KEYS), facts)
        for run in missing.values():
            if not line.group and run == line.runs[0]:
                report.network(line)  # raises where its weights are missing or altered
                packed = report.folder / "weights" / f"{run.id}.safetensors"
                core.write_bytes(run.folder / "best.safetensors", packed.read_bytes())
            core.write_json(run.folder / "record.json", run.record)
        restored |= missing.keys()
    for job, record in report.jobs().items():
        if record.get("run") in restored:
            core.write_json(job_folder(profile, job) / "record.json", record)


def _entry(folder: Path, line: Line, ended: dict[str, dict]) -> dict[str, Any]:
    """A line's entry for ``runs.json``, its scores still to come, and of a main line the weights of its first seed."""
    runs, files = sorted(line.runs, key=lambda run: run.parameters["seed"]), {}
    if not line.group:
        name = f"weights/{runs[0].id}.safetensors"
        files[name] = core.sha256(core.write_bytes(folder / name, (runs[0].folder / "best.safetensors").read_bytes()))
    records = {run.id: {**run.record, "outputs": {}} for run in runs}
    jobs = {name: record for name, record in ended.items() if record.get("run") in records}
    return {**line._asdict(), "runs": records, "jobs": jobs, "files": files, "versions": {}}


def _at_home(line: Line) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The tables of a line's runs, in order of seed: where each lies, and what a report says of it."""
    for run in sorted(line.runs, key=lambda run: run.parameters["seed"]):
        for path in sorted(run.folder.glob("scores/*.parquet")):
            facts = core.facts_of(path) | {"line": line.name, "seed": run.parameters["seed"], "arm": line.arm}
            if facts["weights"] in (None, run.record["weights_sha256"]):
                yield path, facts


def _packed(path: Path, parts: Sequence[tuple[Path, dict[str, Any]]], known: str | None) -> str:
    """Write tables of one test set as one file; returns its sha256. One that is ``known`` and of the same tables stays.

    What seeds and arms have in common stands side by side, and packs better. What is known of a table is a column of it.
    Scores and measures are in float32, as which the scores were computed.
    """
    parts = sorted(parts, key=lambda part: [part[1][name] for name in ("condition", "line", "seed")])
    texts = [json.dumps(facts) for _, facts in parts]
    unaltered = path.exists() and core.sha256(path) == known
    if not unaltered or [*pd.read_parquet(path, columns=["facts"])["facts"].unique()] != texts:
        columns = "^(?!(deletion|insertion) [1-9])" if parts[0][1]["arm"] else "."  # of an arm no points of curves
        tables = [_per_video(core.read_table(source)).filter(regex=columns) for source, _ in parts]
        keys = [{"facts": text, **{name: facts[name] for name in KEYS}} for text, (_, facts) in zip(texts, parts)]
        joined = pd.concat([table.assign(**values) for table, values in zip(tables, keys)])
        measures = joined.columns.difference(["facts", *KEYS, *metrics.COLUMNS])
        types = dict.fromkeys(TEXTS, "category") | dict.fromkeys(["score", *measures], "float32")
        joined = joined[["facts", *KEYS, *metrics.COLUMNS, *measures]].astype(dict.fromkeys(TEXTS, str)).astype(types)
        core.write_table(path, joined, {}, store_schema=False)  # the types are read from the columns
    return core.sha256(path)


def _per_video(table: pd.DataFrame) -> pd.DataFrame:
    """A table as a report keeps it: the localisation of a test set as the mean of each video, in the row of its first frame."""
    measures = list(table.columns.difference(metrics.COLUMNS))
    if measures and table.attrs["condition"] == "":
        means = table.groupby("video", observed=True)[measures].transform("mean")
        table[measures] = means.where(~table["video"].duplicated())
    table[measures] = table[measures].round(PACKED_DIGITS)
    return table


@cache
def _unpacked(path: Path, sha256: str, line: str) -> list[pd.DataFrame]:
    """The tables of a line in a packed file, in order of condition and seed, in float64, their facts as ``attrs``."""
    core.verified(path, sha256, "is missing or is not the file that runs.json describes; pack the report again")
    with core.reading(path, "as a table of a report", "pack the report again"):
        table = pd.read_parquet(path, filters=[("line", "==", line)])
        table = table.astype(dict.fromkeys(table.select_dtypes("float32"), float) | dict.fromkeys(TEXTS, "category"))
        tables = []
        for facts, part in table.groupby("facts", observed=True, sort=False):
            tables.append(part.drop(columns="facts").dropna(axis=1, how="all").reset_index(drop=True))
            tables[-1].attrs = json.loads(facts)
    return tables


class Report:
    """The scores of a report, read from its files alone.

    ``entries``: what ``runs.json`` has of each line, see :class:`Entry`.
    """

    def __init__(self, profile: str) -> None:
        self.folder = report_folder(profile)
        path = self.folder / "runs.json"
        self.entries: dict[str, dict[str, Any]] = core.read_json(path) if path.is_file() else {}
        for name, entry in self.entries.items():
            Entry.check(entry, f"{path}, {name}")

    def lines(self) -> list[Line]:
        """Main lines in the order of the papers, then arms, then other tools, which are folders of ``other``.

        Raises :class:`DfnbError` for a tool with the name of one of our lines, whose rows it would take.
        """
        lines = []
        for name, entry in self.entries.items():
            runs = [Run(core.home() / "runs" / run, record) for run, record in entry["runs"].items()]
            lines.append(Line(name, entry["paper"], entry["group"], entry["arm"], tuple(runs)))
        lines.sort(key=lambda line: (line.group != "", papers.module(line.paper).PAPER.notebook))
        tools = sorted(path.name for path in self.folder.glob("other/[!.]*") if path.is_dir())
        tools = [core.Named.check({"title": tool}, f"{self.folder}, another tool").title for tool in tools]
        ours = {line.name.casefold(): line.name for line in lines}
        for tool in tools:
            if tool.casefold().strip() in ours:
                name = ours[tool.casefold().strip()]
                raise DfnbError(f"{self.folder / 'other' / tool} has the name of our line {name}; rename the folder")
        return lines + [Line(tool, "", "", "", ()) for tool in tools]

    def jobs(self) -> dict[str, dict[str, Any]]:
        """The records of the jobs that trained its runs."""
        return {job: record for entry in self.entries.values() for job, record in entry.get("jobs", {}).items()}

    def test_sets(self, line: Line) -> list[str]:
        """The test sets that a line has scores on."""
        if not line.runs:
            return sorted(path.stem for path in self.folder.glob(f"other/{line.name}/[!.]*"))
        return list(self.entries[line.name]["versions"])

    def read(self, line: Line, test_set: str, condition: str = "") -> list[pd.DataFrame]:
        """The tables of a line, one per seed that has one, in order, with the column ``seed``; their facts as ``attrs``.

        Raises :class:`DfnbError` where there is none, where the file was altered, and for another version of the test set
        than most lines have.
        """
        tables = [table for table in self.tables(line, test_set) if table.attrs["condition"] == condition]
        if not tables:
            raise DfnbError(f"{self.folder} has no scores of {line.name} on {test_set} {condition}; make and pack them")
        usual = mode(entry["versions"][test_set] for entry in self.entries.values() if test_set in entry["versions"])
        if any(table.attrs["fingerprint"] != usual for table in tables):
            raise DfnbError(f"scores of {line.name} on another version of {test_set} than most lines; score it again")
        return tables

    def tables(self, line: Line, test_set: str) -> list[pd.DataFrame]:
        """All tables of a line on a test set: of every seed under every condition."""
        if not line.runs:
            return [self._other(line.name, test_set)]
        files, end = self.entries[line.name]["files"], f"@{test_set}.parquet"
        found = [(self.folder / name, sha256) for name, sha256 in files.items() if name.endswith(end)]
        return [table for path, sha256 in found for table in _unpacked(path, sha256, line.name)]

    def _other(self, tool: str, test_set: str) -> pd.DataFrame:
        """The scores of another tool: CSV or parquet with video, label, score, a row per frame (``frame``) or per video.

        Our own say which videos, clusters and methods there are. Raises :class:`DfnbError` where it does not fit them.
        """
        path = next(self.folder.glob(f"other/{tool}/{test_set}.*"))
        types = {"video": str, "track": int, "frame": int, "label": int, "score": float}
        ours = [line for line in self.lines() if line.runs and test_set in self.test_sets(line)]
        need = f"it needs columns video, label and score, and scores of ours on {test_set} beside it"
        with core.reading(path, "as a table of scores", need):
            found = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"video": str})
            like = self.read(ours[0], test_set)[0]
            known = like.drop_duplicates("video")[["video", "label", "cluster", "method"]].astype({"video": str})
            found = found.reindex(columns=[*types]).fillna({"track": 0, "frame": -1}).astype(types)
            table = found.merge(known, how="outer")  # a missing video or wrong label leaves a hole, which is refused
        unknown = sorted({*found["video"]} - {*known["video"]})
        if unknown:
            what = f"{len(unknown)} videos that are not in {test_set} (first: {unknown[0]})"
            raise DfnbError(f"{path} has {what}; name them as scores of ours do, such as {known['video'].iloc[0]}")
        table.attrs = {**like.attrs, "seed": None, "threshold": None}
        return metrics.check_scores(table, path)

    def network(self, line: Line) -> papers.Network:
        """The network of the line's first seed."""
        path = self.folder / "weights" / f"{line.runs[0].id}.safetensors"
        return line.runs[0].network(path if path.exists() else None)
