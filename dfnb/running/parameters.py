"""The parameters of the notebooks: their schemas, and how they are checked.

A notebook has one cell of plain literals tagged ``parameters``. The cell after it hands the
notebook's namespace to :func:`check`, which refuses wrong types and impossible values in one
sentence.
"""

import ast
import json
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    create_model,
    field_validator,
)

from dfnb import papers
from dfnb.report.detectors import MAIN, name_of
from dfnb.store import reports, scores
from dfnb.store.runs import Training
from facesets import files
from facesets.checks import PATTERN_RULES, TITLE, Closed, DfnbError, Name, explained, suggestion
from facesets.sources import check_known, check_tested, present


def _without_repetition(seeds: list[int]) -> list[int]:
    """The seeds; raises ValueError where one occurs twice, because both would be one training."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds = {seeds}: write each seed once")
    return seeds


Names = Annotated[list[Name], Field(min_length=1)]
Seeds = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(_without_repetition)]


LONGEST_NAME = 60  # letters of a run's name by what was changed
DESCRIBED = "study-bed"  # the report whose detectors the notebooks show by default
# Their texts are about the report that is shown, whichever it is.
ABOUT_ANY_REPORT = ("07_cross_dataset", "08_attribution", "09_robustness", "10_report")


class Parameters(Closed):
    """The parameters of every notebook.

    Attributes:
        report: The report that is shown.
        save: Whether this run is added to the report, and figures, tables and the record are saved
            there.
    """

    report: Name = DESCRIBED
    save: bool = False
    _is_shown: bool = PrivateAttr(False)  # set by check: reports.is_shown

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
        variant: The names under which the report shows the run, separated by semicolons, see
            :mod:`dfnb.report.detectors`; empty: it is named by what its reader changed.
    """

    paper: Name
    train_set: Name
    seed: NonNegativeInt = 0
    seen_methods: list[str] | None = Field(None, min_length=1)
    frames_per_video: PositiveInt | None = None
    test_sets: Names
    map_frames: NonNegativeInt = 0
    variant: str = ""
    _changed: str = PrivateAttr("")  # set by check: what was changed of the training, in words

    @field_validator("variant")
    @classmethod
    def _check_variant(cls, value: str) -> str:
        """The names, if each could stand in a table."""
        for name in split_variants(value):
            if not re.fullmatch(TITLE, name):
                raise ValueError(f"variant = {name!r}: {PATTERN_RULES[TITLE]}")
        return value

    @property
    def variants(self) -> list[str]:
        """The names in ``variant`` or, without any, that by what was changed, if there is some."""
        changed = [f"{MAIN}, {self._changed}"] if self._changed else []
        return split_variants(self.variant) or changed

    def settings(self) -> Closed:
        """The part of the parameters that belongs to the paper: an instance of its ``Settings``."""
        schema = papers.module(self.paper).Settings
        return schema(**self.model_dump(include=set(schema.model_fields)))


def split_variants(variant: str) -> list[str]:
    """The names in a parameter ``variant``."""
    return [name.strip() for name in variant.split(";") if name.strip()]


class DataParameters(Parameters):
    """The parameters of the notebook on data: datasets to make or, if prepared, to look at."""

    datasets: Names = Field(["smoke-a", "smoke-b", "smoke-tasks", "smoke-tasks-unseen"])


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


def _known(parameter: str, names: list[str], known: Collection[str]) -> list[str]:
    """The names; raises ValueError with the nearest for one that is not ``known``."""
    for name in names:
        if name not in known:
            raise ValueError(f"{parameter}: there is no {name!r}{suggestion(name, known)}")
    return names


# All notebooks but those of the papers.
NOTEBOOKS = {
    "00_start_here": Parameters,
    "01_data": DataParameters,
    "07_cross_dataset": Parameters,
    "08_attribution": AttributionParameters,
    "09_robustness": RobustnessParameters,
    "10_report": Parameters,
}


def schema(notebook: str) -> type[Parameters]:
    """The pydantic class of a notebook's parameters, which refuses unknown names.

    That of a paper's notebook has the paper's settings, too; that of a notebook which the
    collection does not know has the names, types and defaults in its own cell. Raises
    :class:`DfnbError` for an unknown notebook, and for that of a paper whose file is broken.
    """
    if notebook in NOTEBOOKS:
        return NOTEBOOKS[notebook]  # without the papers, so that torch is not imported either
    paper = papers.of_notebook(notebook)
    if paper is None:
        return _schema_of_cell(notebook)
    return _schema_of_paper(notebook, paper, papers.module(paper).Settings)


@cache  # pydantic needs milliseconds, and a profile asks for each training
def _schema_of_paper(notebook: str, paper: str, settings: type[Closed]) -> type[Parameters]:
    """The schema of a paper's notebook, whose ``settings`` the paper declares."""
    # (type, default): ``paper`` can only be this paper, and need not be stated.
    bases = (TrainingParameters, settings)
    return create_model(notebook, __base__=bases, paper=(Literal[paper], paper))


def _schema_of_cell(notebook: str) -> type[Parameters]:
    """The schema of a reader's own notebook, in ``notebooks/`` of the home.

    Its cell tagged ``parameters`` has lines such as ``strength: float = 0.5``, with the types of
    Python and ``Optional`` and ``Literal``. Raises :class:`DfnbError` where there is no such
    notebook, or its cell has another type.
    """
    path = files.find(f"notebooks/{notebook}.ipynb")
    if not path.is_file():
        raise DfnbError(f"there is no notebook {notebook!r}{suggestion(notebook, NOTEBOOKS)}")
    types = {each.__name__: each for each in (bool, int, float, str, list, dict)}
    types |= {"Optional": Optional, "Literal": Literal}
    fields = {}
    for name, statement in annotated(_parameters_cell(notebook)).items():
        if name not in Parameters.model_fields:
            annotation = ast.unparse(statement.annotation)
            try:
                known_type = _type_of(statement.annotation, types)
                fields[name] = known_type, ast.literal_eval(statement.value)
            except (KeyError, TypeError, ValueError):
                raise DfnbError(
                    f"{path}: {name}: {annotation} is no type of a parameter with a literal; use "
                    f"{', '.join(types)}"
                ) from None
    return create_model(notebook, __base__=Parameters, **fields)


def _type_of(node: ast.expr, types: Mapping[str, Any]) -> Any:
    """The type that an annotation names, such as ``Optional[int]``.

    It is read, not evaluated: a reader's notebook must not run code before it is executed. Raises
    KeyError for a name that is not in ``types``, TypeError or ValueError for another expression.
    """
    match node:
        case ast.Name(id=name):
            return types[name]
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            values = ast.literal_eval(values)
            return Literal[values]
        case ast.Subscript(value=outer, slice=ast.Tuple(elts=inner)):
            return _type_of(outer, types)[tuple(_type_of(each, types) for each in inner)]
        case ast.Subscript(value=outer, slice=inner):
            return _type_of(outer, types)[_type_of(inner, types)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type_of(left, types) | _type_of(right, types)
    raise ValueError(f"{ast.unparse(node)} is no type")


def check(notebook: str, namespace: Mapping[str, Any]) -> Parameters:
    """Check a notebook's parameters against its schema.

    Every name in the cell of the parameters, or that papermill injected, is checked, so that a
    mistyped one cannot pass; of the other variables only those with the name of a parameter are
    read. Printed lines name the parameters that differ from the defaults, because the texts of the
    notebook describe the defaults; the published test sets that are left out since they are not
    prepared; and, without ``save``, how to keep what follows.

    Args:
        notebook: Name of the notebook, without ``.ipynb``.
        namespace: Its variables, ``globals()``, among them IPython's ``In``: the source texts of
            the executed cells.

    Raises :class:`DfnbError` with one sentence; of a paper's notebook also for datasets that nobody
    knows, for test sets that lack real or fake frames, where no test set is left and, with
    ``save``, where another run of the report has the name of this one; and as
    :func:`dfnb.store.reports.is_shown`.
    """
    expected = schema(notebook)
    cells = namespace.get("In", ())
    names = dict.fromkeys([*_stated_in(cells), *expected.model_fields])  # in the reader's order
    _refuse_overwritten(cells, namespace)
    values = {name: namespace[name] for name in names if name in namespace}
    p = expected.check(values, notebook)
    described = {**defaults(notebook), "save": p.save, "variant": values.get("variant")}
    # Of values alone: others may follow from these, such as the input of another backbone.
    changed = [name for name in values if getattr(p, name) != described.get(name)]
    if changed and notebook not in ABOUT_ANY_REPORT:
        text = ", ".join(f"{name} = {getattr(p, name)!r}" for name in changed)
        print(f"Changed: {text}. The texts describe the defaults.")
    if isinstance(p, TrainingParameters):
        check_known([p.train_set], notebook)
        p = p.model_copy(update={"test_sets": present(p.test_sets, notebook)})
        check_tested(p.test_sets, notebook)
        p._changed = _in_words(p, changed)
    if p.save:
        p._is_shown = reports.is_shown(p.report, notebook, p.model_dump(mode="json"))
        if isinstance(p, TrainingParameters):
            _refuse_taken_name(p)
    elif isinstance(p, MeasuringParameters) and not reports.has_profile(p.report):
        print(f"Measures are kept with the scores of {p.report}; save = True keeps figures, too.")
    else:
        print("Nothing is kept in a report: save = True with a report of your own does that.")
    return p


def _in_words(p: TrainingParameters, changed: Iterable[str]) -> str:
    """A short name of a run by these changed parameters, such as ``lr 0.0005, schedule step``.

    It is without those that belong to the report, and without training set and seed: seeds of one
    name are one detector.
    """
    own = TrainingParameters.model_fields.keys() - {"seen_methods", "frames_per_video"}
    values = p.model_dump(mode="json")
    parts = [f"{name} {values[name]}".replace("'", "") for name in changed if name not in own]
    return textwrap.shorten(", ".join(parts), LONGEST_NAME, placeholder=" …")


def _refuse_taken_name(p: TrainingParameters) -> None:
    """Raise :class:`DfnbError` where another run of the report has a name of this one.

    That is one of the same paper, training set and seed. A line says where this run gets other
    names than it has there.
    """
    from dfnb.running.measuring import training_of  # with torch

    same_seed = {}  # id -> names and training of each run that may be in the way
    for path in reports.score_files(files.stored_report(p.report)):
        about = scores.read_about(path)
        known = about.record.parameters
        if (known.paper, known.train_set, known.seed) == (p.paper, p.train_set, p.seed):
            same_seed[path.stem] = about.variants or [MAIN], known
    if not same_seed:
        return
    training, names = training_of(p), p.variants or [MAIN]
    for run_id, (known_names, known) in same_seed.items():
        if run_id == training.id and names != known_names:
            print(f"{p.report} has this run as {'; '.join(known_names)}: it is renamed there.")
        elif run_id != training.id and (taken := {*names} & {*known_names}):
            name = name_of(papers.module(p.paper).PAPER.title, min(taken))
            raise DfnbError(
                f"report {p.report} has {name} of seed {p.seed} on {p.train_set} already, "
                f"{run_id}, and {training.id} has another {_differing(training, known)}: give this "
                "run a variant that is free, or another report"
            )


def _differing(training: Training, known: Training) -> str:
    """In what a training differs from a stored one, in words."""
    new, old = (
        {**values.pop("settings"), **values}
        for values in (training.model_dump(mode="json"), known.model_dump(mode="json"))
    )
    own = new.keys() - {"data", "start_weights", "version", "numbers", "code"}
    differing = [
        f"{name} ({new[name]}, there {old[name]})"
        for name in new
        if name in own and old.get(name, new[name]) != new[name]
    ]
    return ", ".join(differing) or "version of its training set, start or code"


def _stated_in(cells: Iterable[str]) -> list[str]:
    """The names in the cell that papermill injects, then those in the cell of the parameters.

    ``cells`` are the source texts of the executed cells. Of a cell that was executed several times
    the last text counts: an earlier one may have the mistake that was mended since.
    """
    stated, injected = [], []
    for cell in cells:
        if cell.startswith("# Parameters"):
            injected = re.findall(r"^(\w+) = ", cell, re.MULTILINE)
        elif "report" in annotated(cell):  # every notebook has this parameter
            stated = annotated(cell)
    return [*injected, *stated]


def _refuse_overwritten(cells: Iterable[str], namespace: Mapping[str, Any]) -> None:
    """Raise :class:`DfnbError` where a value that papermill injected is not the notebook's.

    As where an editor has lost the tag ``parameters``: papermill then injects its cell above the
    defaults. ``cells`` are those of :func:`_stated_in`, and ``namespace`` that of :func:`check`.
    """
    injected = [cell for cell in cells if cell.startswith("# Parameters")]
    for assignment in ast.parse(injected[-1]).body if injected else ():
        name, value = assignment.targets[0].id, ast.literal_eval(assignment.value)
        if namespace[name] != value:
            raise DfnbError(
                f"{name} = {namespace[name]!r} has replaced papermill's {name} = {value!r}: give "
                "the cell of the defaults its tag `parameters`, or execute papermill's cell last"
            )


def annotated(cell: str) -> dict[str, ast.AnnAssign]:
    """The annotated assignments of a cell, such as ``seed: int = 0``, by name."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:  # of a magic command, for example
        return {}
    return {
        each.target.id: each
        for each in statements
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def defaults(notebook: str) -> dict[str, Any]:
    """The default parameters of a notebook: those of its own cell."""
    return dict(schema(notebook).check(stated(notebook), notebook))


def stated(notebook: str) -> dict[str, Any]:
    """The literals in the cell of a notebook that is tagged ``parameters``, by name.

    Raises :class:`DfnbError` where there is none.
    """
    statements = annotated(_parameters_cell(notebook))
    path = files.find(f"notebooks/{notebook}.ipynb")
    with explained(path, "as a notebook", "restore it"):
        return {name: ast.literal_eval(each.value) for name, each in statements.items()}


def _parameters_cell(notebook: str) -> str:
    """The source of the cell of a notebook that is tagged ``parameters``.

    Raises :class:`DfnbError` where there is none.
    """
    path = files.find(f"notebooks/{notebook}.ipynb")
    with explained(path, "as a notebook", "restore it"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        is_parameters = ["parameters" in cell["metadata"].get("tags", []) for cell in cells]
        return "".join(cells[is_parameters.index(True)]["source"])
