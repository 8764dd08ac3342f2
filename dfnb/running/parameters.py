"""The parameters of the notebooks: their schemas, and how a notebook gets its own.

A notebook has one cell of plain literals tagged ``parameters``. The cell after it hands the
notebook's namespace to :func:`load`. A value of None stands for what the profile says; any other is
a change of that.
"""

import ast
import json
import re
import textwrap
from collections.abc import Collection
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, PrivateAttr, create_model, field_validator

from dfnb import papers
from dfnb.results.detectors import MAIN
from dfnb.running import profiles
from dfnb.running.profiles import Call, Profile
from dfnb.store import reports
from facesets import files
from facesets.checks import Closed, DfnbError, Name, explained, suggestion
from facesets.manifests import check_known, check_tested, is_available, present

Names = Annotated[list[Name], Field(min_length=1)]

# The call in the cell of a paper's notebook; the texts describe it.
DESCRIBED = {"profile": "study-portraits", "variant": MAIN, "seed": 30, "fold": 0}
PLAIN = (str, int, float, list, tuple, dict, NoneType)  # the types of parameters


class Parameters(Closed):
    """The parameters of every notebook.

    Attributes:
        report: The report that is shown.
        save: Whether this run is added to the report, and figures, tables and the record are saved
            there.
    """

    report: Name = DESCRIBED["profile"]
    save: bool = False
    _is_shown: bool = PrivateAttr(False)  # whether figures, tables and record are saved, too

    @property
    def folder(self) -> Path | None:
        """The report's folder, if this notebook saves figures, tables and its record there."""
        return files.report_folder(self.report) if self._is_shown else None

    def folder_of(self, report: str) -> Path | None:
        """:attr:`folder` for what belongs to that report alone; None if another one is shown."""
        return self.folder if report == self.report else None


class TrainingParameters(Parameters):
    """The parameters of a paper's notebook.

    Instances are of a class of :func:`schema`, which adds the fields of the paper's Settings, such
    as ``released``. For ``paper`` to ``frames_per_video`` see :class:`dfnb.store.runs.Training`.

    Attributes:
        test_sets: The split test of each is scored.
        map_frames: On about so many forged frames of the first test set the run's own maps are
            measured; 0: none.
        variant: The names of the run in its profile, separated by semicolons, see
            :mod:`dfnb.results.detectors`; empty: it is the main one.
    """

    paper: Name
    train_set: Name
    seed: NonNegativeInt = 0
    seen_methods: list[str] | None = Field(None, min_length=1)
    frames_per_video: PositiveInt | None = None
    test_sets: Names
    map_frames: NonNegativeInt = 0
    variant: str = ""
    _shown_sets: list[str] = PrivateAttr([])  # of the profile

    @property
    def variants(self) -> list[str]:
        """The names under which the report shows the run; none: it is the main one."""
        return self.variant.split("; ") if self.variant else []

    @property
    def shown_sets(self) -> list[str]:
        """The test sets of which the notebook shows tables."""
        return [name for name in self._shown_sets if name in self.test_sets] or self.test_sets

    def settings(self) -> Closed:
        """The part of the parameters that belongs to the paper: an instance of its ``Settings``."""
        schema = papers.module(self.paper).Settings
        return schema(**self.model_dump(include=set(schema.model_fields)))


class DataParameters(Parameters):
    """The parameters of the notebook on data: datasets to make or, if prepared, to look at."""

    datasets: Names = Field(["smoke-a", "smoke-b", "smoke-tasks", "smoke-tasks-unseen"])


class RealFacesParameters(Parameters):
    """The parameters of the notebook on real faces.

    Attributes:
        clips: A prepared dataset whose split test the detectors at hand score.
    """

    report: Name = "study-hidf"
    clips: Name = "hidf-sample-fold-1"


class MeasuringParameters(Parameters):
    """The parameters of a notebook that measures the first run of each main detector.

    ``measured_on`` is where; None: the one on which most of these runs were scored.
    """

    measured_on: Name | None = None


class AttributionParameters(MeasuringParameters):
    """The parameters of the notebook on maps.

    Attributes:
        other_maps: What is measured besides each detector's own maps, Grad-CAM and the controls,
            edges and random blocks.
        frames: On about so many forged frames.
        sanity_frames: On about so many they are compared with maps of random networks.
        picture: A reader's own image or clip.
    """

    other_maps: list[str] = Field(["Integrated Gradients"])
    frames: PositiveInt = 100
    sanity_frames: int = Field(15, ge=2)
    picture: str | None = None

    @field_validator("other_maps")
    @classmethod
    def _check_maps(cls, names: list[str]) -> list[str]:
        """The names, if all are known."""
        from dfnb.attribution.maps import EXPLAINERS  # with torch: other notebooks need none

        papers.modules()  # the file of a paper may register one
        return _known("other_maps", names, [*EXPLAINERS, "random"])


class RobustnessParameters(MeasuringParameters):
    """The parameters of the notebook on corrupted frames.

    Attributes:
        corruptions: Which.
        severities: How strong, 1 to 5.
        videos: On about so many videos; None: all.
    """

    corruptions: list[str] = Field(["JPEG", "H.264", "blur", "noise"], min_length=1)
    severities: list[Literal[1, 2, 3, 4, 5]] = Field([1, 5], min_length=1)
    videos: int | None = Field(200, ge=4)

    @field_validator("corruptions")
    @classmethod
    def _check_corruptions(cls, names: list[str]) -> list[str]:
        """The names, if all are known."""
        from dfnb.data.corrupt import CORRUPTIONS  # with torch, as above

        return _known("corruptions", names, CORRUPTIONS)


class ReportParameters(Parameters):
    """The parameters of a report's page.

    ``ensembles``: of how many trainings of the plain classifier the mean is a control of size.
    """

    ensembles: list[Annotated[int, Field(ge=2)]] = Field([3])


def _known(parameter: str, names: list[str], known: Collection[str]) -> list[str]:
    """The names; raises ValueError with the nearest for one that is not ``known``."""
    for name in names:
        if name not in known:
            raise ValueError(f"{parameter}: there is no {name!r}{suggestion(name, known)}")
    return names


# The parameters of notebooks that show numbers, and no face of a dataset.
OF_NUMBERS = (Parameters, RealFacesParameters, ReportParameters)
# All notebooks but those of the papers.
NOTEBOOKS = {
    "00_start_here": Parameters,
    "01_data": DataParameters,
    "06_real_faces": RealFacesParameters,
    "07_cross_dataset": Parameters,
    "08_attribution": AttributionParameters,
    "09_robustness": RobustnessParameters,
    "10_report": ReportParameters,
}


def schema(notebook: str) -> type[Parameters]:
    """The pydantic class of a notebook's parameters, which refuses unknown names.

    That of a paper's notebook has the paper's settings, too; that of a notebook which the
    collection does not know has the names in its own cell, with the types of their values there.
    Raises :class:`DfnbError` for an unknown notebook, and for that of a paper whose file is broken.
    """
    if notebook in NOTEBOOKS:
        return NOTEBOOKS[notebook]  # without the papers, so that torch is not imported either
    paper = papers.of_notebook(notebook)
    if paper is not None:
        return _schema_of_paper(notebook, paper, papers.module(paper).Settings)
    fields = {
        name: (Any if value is None else type(value), value)
        for name, value in _own_literals(notebook).items()
        if name not in Parameters.model_fields
    }
    return create_model(notebook, __base__=Parameters, **fields)


@cache  # pydantic needs milliseconds, and a profile asks for each training
def _schema_of_paper(notebook: str, paper: str, settings: type[Closed]) -> type[Parameters]:
    """The schema of a paper's notebook, whose ``settings`` the paper declares."""
    # (type, default): ``paper`` can only be this paper, and need not be stated.
    bases = (TrainingParameters, settings)
    return create_model(notebook, __base__=bases, paper=(Literal[paper], paper))


def _own_literals(notebook: str) -> dict[str, Any]:
    """The literals in the cell of a reader's notebook that is tagged ``parameters``, by name.

    Raises :class:`DfnbError` where there is no such notebook or cell.
    """
    path = files.find(f"notebooks/{notebook}.ipynb")
    if not path.is_file():
        raise DfnbError(f"there is no notebook {notebook!r}{suggestion(notebook, NOTEBOOKS)}")
    with explained(path, "as a notebook", "tag its cell of literals `parameters`"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        lines = ast.parse("".join(tagged[0]["source"])).body
        lines = [line for line in lines if isinstance(line, ast.AnnAssign)]
        return {line.target.id: ast.literal_eval(line.value) for line in lines}


# ---------------------------------------------------------------- what a profile says


def planned(
    name: str,
    profile: Profile,
    notebook: str,
    seed: int | None = None,
) -> tuple[dict[Call, TrainingParameters], list[Call]]:
    """The parameters of each training of a paper's notebook, and the calls that are left out.

    Calls of one training have its parameters with the names and test sets of all of them. Left out
    are variants whose datasets are not prepared or whose file of weights is not here, and test sets
    that are not prepared. ``seed`` leaves other seeds out of both.

    Raises :class:`DfnbError` for wrong parameters, and where the main training has no test set.
    """
    keys, merged, left_out = {}, {}, []
    for call in profiles.training_calls(name, profile, notebook):
        if seed not in (None, call.seed):
            continue
        p = of_call(call, profile, {"report": name, "save": True})
        test_sets = [dataset for dataset in p.test_sets if is_available(dataset, "test")]
        check_tested(test_sets, f"profile {call}")
        if call.variant != MAIN and not (test_sets and _can_start(p)):
            left_out.append(call)
            continue
        if not test_sets:
            raise DfnbError(
                f"profile {call}, {notebook}: no test set is left; {', '.join(p.test_sets)}: no "
                "split test is prepared, `dfnb data` says how to get it"
            )
        of_notebook = {"test_sets", "variant", "map_frames"}  # and not of the training
        keys[call] = files.digest(p.model_dump(mode="json", exclude=of_notebook))
        other = merged.get(keys[call], p.model_copy(update={"test_sets": []}))
        update = {
            "test_sets": list(dict.fromkeys([*other.test_sets, *test_sets])),
            "map_frames": max(other.map_frames, p.map_frames),
            "variant": "; ".join(dict.fromkeys([*other.variants, *p.variants])),
        }
        merged[keys[call]] = other.model_copy(update=update)
    return {call: merged[key] for call, key in keys.items()}, left_out


def of_call(call: Call, profile: Profile, changes: dict[str, Any]) -> TrainingParameters:
    """The checked parameters of a call of a paper's notebook, with ``changes`` of them."""
    source = f"profile {call}, {call.notebook}"
    stated = {**profiles.values(call, profile), **changes}
    p = schema(call.notebook).check({**stated, "seed": call.seed, "variant": call.variant}, source)
    check_known([p.train_set, *p.test_sets], source)
    methods = sorted(p.seen_methods) if p.seen_methods else None  # as a training has them
    p = p.model_copy(update={"seen_methods": methods})
    p._shown_sets = profile.shown_sets
    return p


def _can_start(p: TrainingParameters) -> bool:
    """Whether the training set and the file of weights of a training are on this machine."""
    from dfnb.papers import backbones  # with torch: notebooks that train nothing need none

    is_file = isinstance(p.pretrained, str) and p.pretrained not in backbones.PACKAGES
    has_weights = not is_file or files.named_file(p.pretrained).is_file()
    return bool(p.released) or (is_available(p.train_set, "train", "val") and has_weights)


# ---------------------------------------------------------------- what a notebook says


def load(notebook: str, namespace: dict[str, Any]) -> Parameters:
    """The parameters of a notebook: its profile's, and what its reader or papermill changed.

    Printed lines have the values, those that were changed, the published test sets that are left
    out since they are not prepared and, without ``save``, how to keep what follows.

    Args:
        notebook: Name of the notebook, without ``.ipynb``.
        namespace: Its variables, ``globals()``; the parameters are taken out of it.

    Raises :class:`DfnbError` with one sentence; also as :func:`_taken_from`; of a paper's notebook
    for datasets that nobody knows, for test sets that lack real or fake frames, and where no test
    set is left; and, with ``save``, for what is no call of the profile that its report comes with.
    """
    given = _taken_from(notebook, namespace)
    report, save = given.pop("report"), given.pop("save", False)
    load_of = _load_paper if issubclass(schema(notebook), TrainingParameters) else _load_other
    p = load_of(notebook, given, report, save)
    if p.save and reports.has_profile(p.report) and not reports.profile_of(p.report):
        profiles.keep_copy(p.report)  # it says where pictures of real faces are saved
    if not p.save and isinstance(p, MeasuringParameters) and not reports.has_profile(p.report):
        print(f"Measures are kept with the scores of {p.report}; save = True keeps figures, too.")
    elif not p.save:
        print("Nothing is kept in a report: save = True with a report of your own does that.")
    return p


def _load_paper(
    notebook: str,
    given: dict[str, Any],
    report: str | None,
    save: bool,
) -> TrainingParameters:
    """:func:`load` of a paper's notebook."""
    coordinates = {name: given.pop(name, default) for name, default in DESCRIBED.items()}
    call = Call.check({**coordinates, "notebook": notebook}, notebook)
    profile = profiles.read(call.profile)
    changes = _changes(notebook, given)
    report = call.profile if report is None else report
    p = of_call(call, profile, {**changes, "report": report, "save": save})
    if p.save and reports.has_profile(p.report):
        of_report, _ = planned(call.profile, profile, notebook, call.seed)
        if changes or p.report != call.profile or call not in of_report:
            _refuse(notebook, p.report)
        p = of_report[call]
        first = next(profiles.training_calls(call.profile, profile, notebook))
        p._is_shown = call == first and not p.released  # other calls add scores alone
    else:
        variant = "" if call.variant == MAIN else call.variant
        test_sets = present(p.shown_sets, notebook)
        p = p.model_copy(update={"variant": variant, "test_sets": test_sets})
        check_tested(p.test_sets, notebook)
        p._is_shown = p.save
    _print(p, changes, call)
    if changes or coordinates != DESCRIBED:
        print("The texts describe the defaults.")
    return p


def _load_other(
    notebook: str,
    given: dict[str, Any],
    report: str,
    save: bool,
) -> Parameters:
    """:func:`load` of a notebook that trains nothing."""
    changes = _changes(notebook, given)
    stated = {}
    is_of_profile = isinstance(report, str) and reports.has_profile(report)
    if is_of_profile and given:
        notebooks = profiles.read(report).notebooks
        stated = notebooks.get(notebook, {})
        if save and (changes or notebook not in notebooks):
            _refuse(notebook, report)
    values = {**stated, **changes, "report": report, "save": save}
    p = schema(notebook).check(values, notebook)
    if given:
        _print(p, changes, report)
    p._is_shown = p.save
    return p


def _refuse(notebook: str, report: str) -> None:
    """Raise :class:`DfnbError` for what the profile of a report does not call."""
    raise DfnbError(
        f"{notebook}: the report {report} comes with a profile, and this is none of the calls that "
        f"`dfnb run {report} --dry-run` prints: set report to a name of your own, such as "
        "my-report, or save to False"
    )


def _print(p: Parameters, changes: dict[str, Any], call: object) -> None:
    """Print the values of the parameters of a call, then those that its reader changed."""
    values = p.model_dump(mode="json", exclude={"report", "save", "paper", "variant", "seed"})
    names = sorted(values, key=lambda name: name not in TrainingParameters.model_fields)
    text = ", ".join(f"{name} {values[name]}" for name in names)  # the datasets first
    print(textwrap.fill(f"{call}: {text}", 100))
    if changes:
        print("Changed:", ", ".join(f"{name} = {value!r}" for name, value in changes.items()))


def _changes(notebook: str, given: dict[str, Any]) -> dict[str, Any]:
    """What was changed, of the values of a notebook's parameters, by name.

    A parameter that may be None is so by the word none. In a reader's notebook, the values of its
    cell are no changes.
    """
    expected = schema(notebook)
    is_own = expected.__base__ is Parameters and notebook not in NOTEBOOKS
    changes = {}
    for name, value in given.items():
        field = expected.model_fields[name]
        if value is not None and not (is_own and value == field.default):
            is_none = value == "none" and NoneType in get_args(field.annotation)
            changes[name] = None if is_none else value
    return changes


def _taken_from(notebook: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook by name, which leave its namespace.

    So a line that is deleted in JupyterLab has no effect when its cell was run again, and values of
    later cells do not matter. Before the first call in a kernel there are no such cells: every
    plain value is a parameter.

    Raises :class:`DfnbError` for one that is none, so that a mistyped name cannot pass; where the
    cell of the parameters was not run before; and where it was run after papermill's.
    """
    expected = schema(notebook)
    known = [*expected.model_fields]
    if issubclass(expected, TrainingParameters):
        known += DESCRIBED
    is_first = not any(isinstance(value, Parameters) for value in namespace.values())
    names = [
        name
        for name, value in namespace.items()
        if name in known or (is_first and isinstance(value, PLAIN) and _is_of_reader(name))
    ]
    taken = {name: namespace.pop(name) for name in names}
    for name in names:
        if name not in known:
            raise DfnbError(f"{notebook}: there is no parameter {name!r}{suggestion(name, known)}")
    if "report" not in taken:
        raise DfnbError(f"{notebook}: first run the cell above, which has the parameters")
    cells = [*namespace.get("In", ())]
    own = [n for n, cell in enumerate(cells) if re.search("^report: ", cell, re.MULTILINE)]
    injected = [n for n, cell in enumerate(cells) if re.match("# Parameters", cell)]
    injected = [n for n in injected if n not in own]  # a reader's cell may begin so, too
    if is_first and injected and own and injected[-1] < own[-1]:
        raise DfnbError(
            f"{notebook}: the cell of the parameters has replaced the values of papermill's: give "
            "it its tag `parameters`, or run papermill's cell last"
        )
    return taken


def _is_of_reader(name: str) -> bool:
    """Whether a name in a kernel may be a reader's: neither IPython's nor papermill's."""
    return not (name.startswith(("_", "PAPERMILL_")) or name in ("In", "Out"))
