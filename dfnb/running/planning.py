"""The calls that ``dfnb run`` makes of a profile.

:func:`plan` lists them: one per training, which executes the paper's notebook up to its cell tagged
``run``, and one per notebook that a reader sees, which is executed whole.
:mod:`dfnb.running.workflow` executes them.
"""

import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dfnb import papers
from dfnb.results import claims
from dfnb.results.detectors import MAIN, name_of
from dfnb.results.page import REPORT
from dfnb.running import measuring, parameters, profiles
from dfnb.running.execution import injected
from dfnb.running.parameters import Parameters, TrainingParameters
from dfnb.running.profiles import Call, Profile
from dfnb.store import reports, scores
from facesets import files, manifests, sources
from facesets.checks import DfnbError
from facesets.frames import dataset_record
from facesets.manifests import check_known, check_tested, is_available, is_known


class Planned(NamedTuple):
    """A call with all that is known of it before it is made."""

    name: str  # of its record: the id of the run or, of a notebook that is shown, its name
    call: Call
    parameters: Parameters
    executed: Path  # the executed notebook, relative to the home

    @property
    def is_shown(self) -> bool:
        """Whether the notebook is executed whole."""
        return self.name == self.call.notebook

    @property
    def record(self) -> Path:
        """What proves that the call ended, relative to the home."""
        return reports.record_path(self.call.profile, self.name)

    @property
    def done(self) -> bool:
        """Whether the record is there, and is of these parameters."""
        path = files.home() / self.record
        values = self.parameters.model_dump(mode="json")
        return path.is_file() and files.read_json(path)["parameters"] == values

    @property
    def command(self) -> str:
        """The call as a command of papermill, to be pasted in the home.

        It executes a training's notebook whole. What comes out is the same.
        """
        notebook = files.find(f"notebooks/{self.call.notebook}.ipynb")
        if notebook.is_relative_to(files.home()):  # which other machines understand, too
            notebook = notebook.relative_to(files.home())
        # With as many threads as the Snakefile gives: else the bits would be others.
        words = ["DFNB_THREADS=1", "papermill", notebook, self.executed]
        call = self.call
        for changed in injected(call.profile, call.variant, call.seed, call.fold).items():
            words += ["-p", *changed]
        return shlex.join(map(str, words))


class Plan(NamedTuple):
    """The calls of a profile, whether done or not.

    Of the notebooks that are shown, the last waits for the others. ``left_out`` are the trainings
    whose datasets are not prepared, or that were not asked for.
    """

    profile: str
    trainings: list[Planned]
    shown: list[Planned]
    left_out: list[Call]


def plan(name: str, main: bool = False) -> Plan:
    """The calls of a profile, all of whose parameters are checked, before anything runs.

    Test sets and variants that :func:`dfnb.running.parameters.planned` leaves out are left out.
    Pretrained weights may be fetched, because the run ids have their sha256.

    Args:
        name: The name of the profile.
        main: Whether to leave out the trainings of all variants.

    Raises :class:`DfnbError` for wrong parameters, and where the main training set or pretrained
    weights are not there.
    """
    profile = profiles.read(name)
    trained, left_out, shown = {}, [], {}
    for notebook in profile.notebooks:
        if notebook in papers.notebooks():
            of_notebook, without = parameters.planned(name, profile, notebook)
            trained |= of_notebook
            left_out += without
        else:
            call = Call(profile=name, notebook=notebook)
            shown[notebook] = call, _parameters_of_other(call, profile)
    if profile.claims:
        made = _made(profile, [*trained, *left_out], trained.values())
        claims.check_plan(profile.claims, made, papers.modules())
    trainings = {}
    for call, p in trained.items():
        # Released weights have no training that could be left out: they are scored.
        if main and MAIN not in p.variants and not p.released:
            left_out.append(call)
            continue
        run_id = measuring.training_of(p).id
        executed = Path("reports", name, "logs", f"{run_id}.ipynb")
        trainings.setdefault(run_id, Planned(run_id, call, p, executed))
        if not p.released:  # the authors' weights are scored alone
            shown.setdefault(call.notebook, (call, p))
    patterns = [each["released"] for each in profile.notebooks.values() if "released" in each]
    if patterns and not trainings:
        raise DfnbError(
            f"profile {name} has nothing to score: put weights into {' or '.join(patterns)}, and "
            "prepare one of its test sets (`dfnb data`)"
        )
    order = sorted(shown, key=lambda notebook: (notebook == REPORT, notebook))  # the last waits
    whole = [
        Planned(notebook, *shown[notebook], _executed(notebook, shown[notebook][1], profile))
        for notebook in order
    ]
    return Plan(name, [*trainings.values()], whole, left_out)


def _executed(notebook: str, p: Parameters, profile: Profile) -> Path:
    """The place of the executed copy of a notebook that is shown, relative to the home."""
    shows_faces = profile.faces == "real" and type(p) not in parameters.OF_NUMBERS
    inner = "faces/notebooks" if shows_faces else "notebooks"  # as reports.pictures_folder
    return Path("reports", p.report, inner, f"{notebook}.ipynb")


def _parameters_of_other(call: Call, profile: Profile) -> Parameters:
    """The checked parameters of a notebook that is none of a paper."""
    source = f"profile {call.profile}, {call.notebook}"
    stated = {**profiles.values(call, profile), "report": call.profile, "save": True}
    p = parameters.schema(call.notebook).check(stated, source)
    if isinstance(p, parameters.DataParameters):
        check_known(p.datasets, source)
    if isinstance(p, parameters.MeasuringParameters) and p.measured_on:
        check_known([p.measured_on], source)
        if not is_available(p.measured_on, "test"):
            raise DfnbError(
                f"{source}: {p.measured_on} is not prepared; `dfnb data` says how to get it"
            )
        check_tested([p.measured_on], source)
    return p


def _made(
    profile: Profile,
    calls: Iterable[Call],
    trained: Iterable[TrainingParameters],
) -> claims.Known:
    """What a profile makes that claims may name: by ``calls``, also those that are left out."""
    paper_of, seeds_of = {}, defaultdict(set)
    for call in calls:
        paper = papers.notebooks()[call.notebook]
        detector = name_of(papers.module(paper).PAPER.title, call.variant)
        paper_of[detector] = paper
        seeds_of[detector].add(call.seed)
    locating = {
        detector
        for detector, paper in paper_of.items()
        if hasattr(papers.module(paper).Network, "localise")
    }
    test_sets = {*profile.test_sets}.union(*(p.test_sets for p in trained))
    methods_of = {test_set: _methods_of(test_set) for test_set in test_sets}
    return claims.Known(paper_of, seeds_of, locating, methods_of)


def _methods_of(test_set: str) -> list[str]:
    """The manipulation methods of a test set; none where it is not prepared, and so not known."""
    if manifests.is_embedded(test_set):
        return [*sources.preset(test_set).methods]
    if not is_available(test_set, "test"):
        return []
    kinds = (kind.split("/", 1) for kind in dataset_record(test_set)["n"])  # split/method
    return [method for split, method in kinds if split == "test"]


def fetch_needed(planned: Plan) -> None:
    """Download what the unfinished calls need, also to build their datasets.

    So none of them stops for it hours later, or on a machine without a network. The backbones'
    weights are there already, because a run's id has their sha256. Raises :class:`DfnbError`, which
    names the remedy, where something cannot be had.
    """
    datasets = set()
    for p in [each.parameters for each in planned.shown if not each.done]:
        datasets.update(getattr(p, "datasets", ()))
        datasets.update(filter(None, [getattr(p, "measured_on", None)]))
    for p in [each.parameters for each in planned.trainings if not each.done]:
        datasets.update(p.test_sets)
        if not p.released:  # such weights are not trained
            p.settings().fetch()
            datasets.add(p.train_set)
    for dataset in sorted(datasets):
        sources.fetch(dataset)


def set_replaced_aside(planned: Plan) -> None:
    """Move the runs of the report that no call makes any more to its folder ``replaced``.

    They had other settings or data, or the profile does not name them any more. What is only left
    out now stays. So does what nothing can make again: a run of a paper or of a training set that
    is no longer there.
    """
    made = {training.name for training in planned.trainings}
    left_out = {(call.notebook, call.variant, call.seed) for call in planned.left_out}
    for path in reports.score_files(files.report_folder(planned.profile)):
        about = scores.read_about(path)
        notebook, seed = about.record.detector.notebook, about.record.parameters.seed
        is_left_out = any((notebook, variant, seed) in left_out for variant in about.variants)
        trained = about.record.parameters
        can_be_made = trained.paper in papers.modules() and is_known(trained.train_set)
        if path.stem not in made and not is_left_out and can_be_made:
            reports.set_aside(planned.profile, path.stem)
