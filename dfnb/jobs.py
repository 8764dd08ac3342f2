"""Notebooks and trainings as one table of jobs, from the profiles in ``notebooks/profiles``.

A notebook has one cell of plain literals tagged ``parameters``; the next cell hands them to :func:`parameters`, which
refuses unknown names, wrong types and impossible values with one sentence (papermill only warns of an unknown name).
A profile asks for notebooks, and for trainings: every paper on every training set with every seed, and *arms*, which
change some parameters. Every training is a job of its own; notebooks load what was trained, or train it themselves
when they are opened by hand.
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
from pydantic import AfterValidator, Field, NonNegativeInt, create_model

from dfnb import compare, core, corrupt, papers, scores, synth
from dfnb.attribution import maps, measures
from dfnb.data.frames import identity
from dfnb.synth.build import GENERATOR
from dfnb.train import Run, train, versions


def _once(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names something twice; leave it out")
    return values


Names = Annotated[list[core.Name], Field(min_length=1), AfterValidator(_once)]
Numbers = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(_once)]
LAST = ("09_report", "00_start_here")  # notebooks that show what others made


class Parameters(core.Closed):
    """What every notebook takes."""

    profile: core.Name = "smoke"

    def equal(self, stored: Mapping[str, Any]) -> bool:
        """Whether these are the ``stored`` ones; a field that did not exist when they were stored has its default."""
        later = {name: field.default for name, field in type(self).model_fields.items() if name not in stored}
        return later | dict(stored) == self.model_dump(mode="json")


class TrainingParameters(Parameters):
    """Of a paper's notebook, together with the paper's own ``Settings``."""

    train_set: core.Name
    test_sets: Names
    seed: int = Field(0, ge=0)
    seen_methods: list[str] | None = Field(None, min_length=1)
    epoch_scores: bool = False
    devices: int = Field(1, ge=1)
    frames_per_video: int | None = Field(None, ge=1)  # of train and val; None: all

    @property
    def paper(self) -> str:
        """The module name of the paper."""
        return papers.notebooks()[type(self).__name__]

    def settings(self) -> papers.Settings:
        """The part of the parameters that belongs to the paper."""
        schema = papers.module(self.paper).Settings
        return schema(**{name: getattr(self, name) for name in schema.model_fields})


class AttributionParameters(Parameters):
    """Of ``07_attribution``: which maps of how many frames; ``picture`` is a reader's own file.

    The first of the ``test_sets`` is the home dataset. ``arms``: whether the maps of the papers' arms are measured too.
    """

    test_sets: Names
    forged_frames: int = Field(ge=1)  # of each test set
    methods: list[str] = Field(min_length=1)
    sanity_frames: int = Field(ge=2)
    shuffled_labels: bool
    arms: bool
    picture: str | None = None


class RobustnessParameters(Parameters):
    """Of ``08_robustness``: corruptions of :mod:`dfnb.corrupt`, their severities, and on how many ``videos`` (None: all)."""

    test_set: core.Name
    corruptions: Names
    severities: Numbers
    videos: int | None = Field(None, ge=4)


# Of each notebook that trains no paper: the schema it extends, and what it takes besides.
NOTEBOOKS: dict[str, tuple[type[Parameters], dict[str, Any]]] = {
    "00_start_here": (Parameters, {"report_of": (core.Name, "demo")}),  # the profile whose report is shown
    "01_data": (Parameters, {"datasets": Names}),  # to make or to look at
    "07_attribution": (AttributionParameters, {}),
    "08_robustness": (RobustnessParameters, {}),
    "11_what_detectors_detect": (Parameters, {"test_set": (core.Name, "seams")}),
    **dict.fromkeys(("06_cross_dataset", "09_report"), (Parameters, {})),
}


@cache
def schema(notebook: str) -> type[Parameters]:
    """The closed schema of a notebook's parameters; raises :class:`DfnbError` when there is no such notebook."""
    kinds = {name: ((TrainingParameters, papers.module(key).Settings), {}) for name, key in papers.notebooks().items()}
    kinds |= NOTEBOOKS
    if notebook not in kinds:
        raise core.DfnbError(f"there is no notebook {notebook!r}; known are {', '.join(sorted(kinds))}")
    base, fields = kinds[notebook]
    return create_model(notebook, __base__=base, **fields)


def parameters(notebook: str, namespace: Mapping[str, Any]) -> Parameters:
    """Check a notebook's parameters, found in its namespace (``globals()``), against its schema.

    All names that papermill injected are checked, so that a mistyped one cannot pass; running the cell again by hand is
    no error. Raises :class:`DfnbError` with one sentence.
    """
    kind = schema(notebook)
    cells = namespace.get("In", ())
    injected = {name for cell in cells if cell.startswith("# Parameters") for name in _assigned(cell)}
    assigned = {name for cell in cells for name in _assigned(cell)} if cells else set(namespace)
    wanted = sorted(assigned & set(kind.model_fields) | injected)
    return kind.check({name: namespace[name] for name in wanted if name in namespace}, notebook)


def _assigned(cell: str) -> list[str]:
    """The names that a cell assigns, if it does nothing but assign literals, as a parameters cell does."""
    try:
        return [node.targets[0].id for node in ast.parse(cell).body if ast.literal_eval(node.value) is not Ellipsis]
    except (SyntaxError, ValueError, AttributeError):
        return []


# -------------------------------------------------------------------------------------------------- profiles and jobs


class Grid(core.Closed):
    """What every paper is trained and tested on, and with which seeds."""

    train_sets: Names
    test_sets: Names
    seeds: Numbers
    reserve: list[NonNegativeInt] = Field([])  # seeds that replace those of collapsed runs


class Arm(core.Closed, extra="allow"):
    """What an arm changes; the rest are parameters of its notebook."""

    seeds: Numbers = Field([])  # the grid's first where it says none
    train_set: core.Name = ""


class Profile(core.Closed):
    """A file of ``notebooks/profiles``.

    ``notebooks``: their parameters, in the order of execution. ``arms``: notebook → group → arm → what it changes, and
    its ``seeds`` (the grid's first where it says none). The other arms of a group are compared with its ``main``, or
    with the paper's own training where it has none. ``one_code``: all runs of a paper in a report are of one code.
    ``allow_random``: whether pretrained weights that cannot be fetched may be replaced by random ones.
    """

    description: str
    grid: Grid
    notebooks: dict[str, dict[str, Any] | None] = Field(min_length=1)
    arms: dict[str, dict[core.Title, dict[core.Title, Arm]]] = Field({})
    one_code: bool = False
    allow_random: bool = True


class Job(NamedTuple):
    """One step of a profile: a notebook to execute or, where ``trains``, one training.

    ``group`` and ``arm`` name the variation that is trained; both are empty for a training of the grid itself.
    """

    id: str
    notebook: str
    parameters: Parameters
    needs: tuple[str, ...]  # ids of the jobs whose files it reads
    trains: bool = False
    group: str = ""
    arm: str = ""

    @property
    def record(self) -> Path:
        """The proof that the job ended."""
        return scores.job_folder(self.parameters.profile, self.id) / "record.json"

    @property
    def log(self) -> Path:
        """The executed notebook, or what the training printed."""
        if self.trains:
            return self.record.with_name("log.txt")
        return core.home() / "reports" / self.parameters.profile / "notebooks" / f"{self.id}.ipynb"

    def done(self) -> bool:
        """Whether the job's record is there with all the files it names, for these very parameters, versions and data."""
        record = core.read_record(self.record.parent)
        if not record or not self.parameters.equal(record["parameters"]) or not all(map(Path.exists, self.files())):
            return False
        stored = record.get("made_from")
        if stored is None and self.trains:  # an older one: its run says it
            run = core.read_json(core.home() / "runs" / record.get("run", "none") / "record.json")["parameters"]
            stored = {"training": run["version"], f"data of {run['train_set']}": run["data"]}
        today = made_from(self.id, self.parameters)
        return all(today.get(name, value) == value for name, value in (stored or {}).items())

    def files(self) -> list[Path]:
        """What has to be there of a job that ended: its record, its notebook, the files that the record names."""
        named = [core.home() / name for name in core.read_json(self.record).get("files", {})]
        return [self.record, *named, *([] if self.trains else [self.log])]


def made_from(job_id: str, p: Parameters) -> dict[str, Any]:
    """What a job's numbers depend on beside its parameters: the versions of what makes them, and the data that is known."""
    values, facts = p.model_dump(), {"corruptions": corrupt.VERSION, "maps": maps.VERSION}
    if isinstance(p, TrainingParameters):
        facts["training"] = versions(p.paper)
    if job_id in {*NOTEBOOKS, *papers.notebooks()}:
        facts["tables"] = compare.VERSION
    names = {values[each] for each in ("train_set", "test_set") if each in values}
    for name in names.union(*(values.get(each, ()) for each in ("test_sets", "datasets"))):
        drawn, record = _drawn(name, core.home()), core.read_record(core.home() / "datasets" / name)
        if drawn or record:
            facts[f"data of {name}"] = identity({"parameters": drawn | {"generator": GENERATOR}} if drawn else record)
    return facts


@cache
def _drawn(name: str, home: Path) -> dict[str, Any]:
    """What a dataset of the embedded benchmark is drawn from, without its generator; nothing for any other."""
    preset = synth.preset(name) if name in core.described("synth") else None
    return {"name": name, **preset.model_dump(mode="json")} if preset and not preset.portraits else {}


def profile(name: str) -> Profile:
    """The profile of ``notebooks/profiles/<name>.yaml``; raises :class:`DfnbError` that names the file and the mend."""
    path = core.find("notebooks") / "profiles" / f"{name}.yaml"
    known = sorted(file.stem for file in path.parent.glob("*.yaml") if file.is_file())
    if name not in known:
        raise core.DfnbError(f"there is no profile {name!r} in {path.parent}; there are {', '.join(known)}")
    content = Profile.check(core.read_yaml(path), path)
    if unknown := sorted(set(content.arms) - set(papers.notebooks())):
        raise core.DfnbError(f"{path} has arms of {', '.join(unknown)}, which trains nothing")
    if any({"profile", "seed"} & {*(values or {})} for values in content.notebooks.values()):
        raise core.DfnbError(f"{path} sets profile or seed in a notebook; leave them to the file's name and the grid")
    return content


def jobs(name: str) -> list[Job]:
    """The jobs of a profile, each after those it needs; all parameters are checked here, before anything runs.

    Every notebook but that of the data waits for all trainings, since they write into the report that it reads; the last
    two wait for the other notebooks besides, but not for each other.
    """
    planned, notebooks = _distinct(trainings(name)), []
    for notebook, values in profile(name).notebooks.items():
        before = [] if notebook == "01_data" else planned
        if notebook in LAST:
            before = [*planned, *(job for job in notebooks if job.notebook not in LAST)]
        checked = next((job.parameters for job in planned if job.notebook == notebook), None)  # whose run it loads
        if checked is None:
            values = {"profile": name} | (values or {})
            if notebook == "01_data":  # all that the profile trains or tests on
                named = [[job.parameters.train_set, *job.parameters.test_sets] for job in trainings(name)]
                values.setdefault("datasets", list(dict.fromkeys(chain(*named))))
            checked = schema(notebook).check(values, f"profile {name}, {notebook}")
        notebooks.append(Job(notebook, notebook, checked, tuple(job.id for job in before)))
    return sorted([*planned, *notebooks], key=lambda job: (job.notebook != "01_data", not job.trains))


def trainings(name: str, notebook: str = "") -> list[Job]:
    """The trainings of a profile, or of one paper's notebook: the grid's, then its arms'.

    A training that is an arm of two groups stands here twice, under the same id. Where a seed's run collapsed, every line
    with the same training set that has this seed gets the same one of the reserve besides; but not for the run of an arm with
    one seed, which is exploratory.
    """
    planned = _trainings(name, {})
    seeds = Counter((job.notebook, job.group, job.arm) for job in planned)
    judged = [job for job in planned if not job.group or seeds[job.notebook, job.group, job.arm] > 1]
    lost = [job.parameters for job in judged if (core.read_record(job.record.parent) or {}).get("collapsed")]
    of_seed = dict(zip(sorted({p.seed for p in lost}), profile(name).grid.reserve))
    found = _trainings(name, {(p.train_set, p.seed): of_seed[p.seed] for p in lost if p.seed in of_seed})
    return [job for job in found if notebook in ("", job.notebook)]


def _trainings(name: str, replaced: Mapping[tuple[str, int], int]) -> list[Job]:
    """The trainings of a profile; ``replaced``: by training set and seed the seed that joins it."""
    content, of_papers = profile(name), papers.notebooks()
    needs = ("01_data",) if "01_data" in content.notebooks else ()
    result, ids = [], {}
    for each in [each for each in content.notebooks if each in of_papers]:
        own = {"profile": name, "test_sets": content.grid.test_sets, **(content.notebooks[each] or {})}
        for (group, arm, changes), train_set in product(_arms(content, each), content.grid.train_sets):
            values = {**own, "train_set": train_set, "seeds": content.grid.seeds[:1], **changes}
            joining = [replaced.get((values["train_set"], seed)) for seed in values["seeds"]]
            for seed in [*values.pop("seeds"), *filter(None, joining)]:
                source = f"profile {name}, {each}, {group} {arm}".rstrip(", ")
                checked = schema(each).check(values | {"seed": seed}, source)
                words = [of_papers[each], checked.train_set, core.slug(group), core.slug(arm), f"s{seed}"]
                job_id = ids.setdefault(core.digest(checked.model_dump(mode="json")), "-".join(filter(None, words)))
                result.append(Job(job_id, each, checked, needs, True, group, arm))
    return result


def _arms(content: Profile, notebook: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Group, arm and changes of each line of a paper, its own training first; an arm is judged by source validation alone."""
    groups = content.arms.get(notebook, {}).items()
    arms = [(group, arm, changes.model_dump(exclude_unset=True)) for group, of in groups for arm, changes in of.items()]
    arms = [(group, arm, {"epoch_scores": False, **changes}) for group, arm, changes in arms]
    return [("", "", {"seeds": content.grid.seeds}), *arms]


def _distinct(found: Sequence[Job]) -> list[Job]:
    """One job per id; raises :class:`DfnbError` where different trainings have the same id."""
    distinct: dict[str, Job] = {}
    for job in found:
        if distinct.setdefault(job.id, job).parameters != job.parameters:
            raise core.DfnbError(f"profile {job.parameters.profile} has two trainings {job.id}; rename one of them")
    return list(distinct.values())


# ------------------------------------------------------------------------------------------------- what jobs start


def datasets(*names: str) -> None:
    """Make the datasets of the embedded benchmark that are not there; others must have been prepared before."""
    for name in dict.fromkeys(names):
        if name in core.described("synth"):
            synth.build(name)
        elif core.read_record(core.home() / "datasets" / name) is None:
            raise core.DfnbError(f"dataset {name} is neither prepared nor part of the benchmark; use `dfnb prepare`")


def trained(p: TrainingParameters, shuffled_labels: bool = False) -> Run:
    """The training of a paper's notebook, from its report or home, resumed, or trained now, and its scores on its test sets.

    With ``shuffled_labels`` the control of 07: the same training on labels exchanged between videos, scored on nothing.
    """
    restore(p.profile)
    test_sets = () if shuffled_labels else p.test_sets
    datasets(p.train_set, *test_sets)
    options = {"allow_random": profile(p.profile).allow_random, "frames_per_video": p.frames_per_video}
    options |= {"epoch_tests": test_sets if p.epoch_scores else (), "shuffled_labels": shuffled_labels}
    run = train(p.paper, p.train_set, p.settings(), p.seed, p.seen_methods, devices=p.devices, **options)
    for test_set in test_sets:
        scores.score(run, test_set)
    return run


def restore(name: str) -> None:
    """Put what the report of a profile holds into the home, where its trainings then count as done.

    Done once while report and profile stay as they are. Raises :class:`DfnbError` for a profile of ``one_code`` that has runs of
    a paper left to train, where other code made a part of them. A paper may join a report that other code has made of others.
    """
    path = scores.report_folder(name) / "runs.json"
    _restored(name, path, path.stat().st_mtime_ns if path.exists() else 0, profile(name).model_dump_json())


@cache
def _restored(name: str, path: Path, changed: int, content: str) -> None:
    report = scores.Report(name)
    done = [record["parameters"] for record in report.jobs().values()]
    left = {job.parameters.paper for job in trainings(name) if not (job.done() or any(map(job.parameters.equal, done)))}
    runs = [run for line in [*report.lines(), *lines(name, ended=True)] if line.paper in left for run in line.runs]
    if profile(name).one_code and {run.record["environment"].get("code") for run in runs} - {core.code()}:
        mend = "check out the commit that its records name to go on; to begin anew move it and its runs away"
        raise core.DfnbError(f"a part of {report.folder} was made by other code than this: {mend}")
    scores.unpack(name)


def lines(name: str, notebook: str = "", ended: bool = False) -> list[scores.Line]:
    """The lines of a profile, or of one paper's notebook: its trainings by arm, one run per seed.

    Missing main lines are trained, or left out where only what has ``ended`` is asked for; missing arms are left out, and
    only `dfnb run` or `dfnb train` trains them.
    """
    seeds, several = defaultdict(list), len(profile(name).grid.train_sets) > 1
    for job in trainings(name, notebook):
        done = job.done()
        if done or not (ended or job.group):
            run = Run.open(core.read_record(job.record.parent).get("run", "none")) if done else trained(job.parameters)
            seeds[job.parameters.paper, job.group, job.arm, job.parameters.train_set].append(run)
    result = []
    for (paper, group, arm, train_set), of_seeds in seeds.items():
        title = papers.module(paper).PAPER.title
        if group == "baselines":  # its arms stand beside the papers in every table
            title, group, arm = arm, "", ""
        words = [title, f"{group}: {arm}" if group else "", train_set if several else ""]
        result.append(scores.Line(", ".join(filter(None, words)), paper, group, arm, tuple(of_seeds)))
    return result


def publish(name: str, notebook: str = "") -> None:
    """Put the scores, records and logs of a profile's lines, or of one paper's, into its report, which keeps what it has."""
    restore(name)
    scores.pack(name, lines(name, notebook), prune=not notebook)


def train_job(name: str, job_id: str) -> None:
    """Do a training job of a profile: train, score all its test sets, measure what 07 and 08 show of it, write its record.

    The profile's first training makes the control of 07 besides. Then all of that goes into the profile's report.
    """
    known = {job.id: job for job in _distinct(trainings(name))}  # the main line, where an arm is the same training
    if job_id not in known:
        raise core.DfnbError(f"profile {name} has no training {job_id}; it has {', '.join(known) or 'none'}")
    clock, job = core.Clock(), known[job_id]
    run, shown = trained(job.parameters), {each.notebook: each.parameters for each in jobs(name) if not each.trains}
    for notebook, measure in {"07_attribution": explained, "08_robustness": corrupted}.items():
        if notebook in shown:
            measure(shown[notebook], job, run)
    if job_id == next(iter(known)) and getattr(shown.get("07_attribution"), "shuffled_labels", False):
        trained(job.parameters, shuffled_labels=True)
    finish(job_id, job.parameters, clock, [run.folder / "record.json"], run=run.id, collapsed=run.record["collapsed"])
    with core.locked(scores.job_folder(name, ""), wait_s=600):  # no other job ends between the listing and the packing
        scores.pack(name, [line for line in lines(name, ended=True) if line.paper == job.parameters.paper])


def explained(p: AttributionParameters, of: Job | scores.Line, *runs: Run) -> None:
    """Measure maps of the runs of a job or line: of a main line its paper's own and Grad-CAM, of an arm those that claims compare."""
    paper, train_set, seen_methods = (runs[0].parameters[name] for name in ("paper", "train_set", "seen_methods"))
    names = compare.mapped(paper, of.group) if of.group else [*runs[0].network().maps(), "Grad-CAM"]
    if not names or (of.group and not p.arms):
        return
    for test_set in p.test_sets if train_set in p.test_sets else [train_set]:
        datasets(test_set)
        chosen = measures.sample(test_set, p.forged_frames, seen_methods)
        for run, name in product(runs, names):
            measures.measure(run, chosen, name)


def corrupted(p: RobustnessParameters, job: Job, run: Run) -> None:
    """Score the corrupted test set of ``08_robustness``, with its parameters, by a training's run, if it is a main line."""
    for corruption, severity in product(p.corruptions, p.severities) if not job.group else ():
        scores.score(run, p.test_set, corruption, severity, p.videos)


def resolved(p: Parameters) -> pd.DataFrame:
    """The parameters that differ from the defaults of their schema, and the environment, as the table a notebook shows."""
    environment = core.environment()
    environment["packages"] = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return pd.Series(p.model_dump(exclude_defaults=True) | environment).map(str).to_frame("value")


def finish(job_id: str, p: Parameters, clock: core.Clock, outputs: Iterable[Path] = (), **facts: Any) -> dict:
    """Write the record of a notebook's execution or a training, its last act: without it the job did not happen."""
    hashes = {path.resolve().relative_to(core.home()).as_posix(): core.sha256(path) for path in outputs}
    facts |= {"made_from": made_from(job_id, p), **clock.facts()}
    return core.write_record(scores.job_folder(p.profile, job_id), p.model_dump(mode="json"), [], files=hashes, **facts)
