"""The parameters of the notebooks: their schemas, and how they are checked.

A notebook has one cell of plain literals tagged ``parameters``. The cell after it hands the
notebook's namespace to :func:`check`, which refuses wrong types and impossible values in one
sentence.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, create_model

from dfnb import files, papers
from dfnb.checks import Closed, DfnbError, Name, read_yaml
from dfnb.running.datasets import check_known, check_tested, present


def _without_repetition(seeds: list[int]) -> list[int]:
    """The seeds; raises ValueError where one occurs twice, because both would be one training."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds = {seeds}: write each seed once")
    return seeds


Names = Annotated[list[Name], Field(min_length=1)]
Seeds = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(_without_repetition)]


DESCRIBED = "study-bed"  # the profile whose detectors the notebooks show by default
TEST_SETS = ["bed", "world-01", "world-02"]  # of its test sets, those of the papers' notebooks


class Parameters(Closed):
    """The parameter of every notebook: the report that it reads and, if open, adds to."""

    report: Name = DESCRIBED


class TrainingParameters(Parameters):
    """The parameters of a paper's notebook.

    Instances are of a class of :func:`schema`, which adds the fields of the paper's Settings, such
    as ``released``. For ``paper`` to ``frames_per_video`` see :class:`dfnb.store.runs.Training`.
    """

    paper: Name
    train_set: Name
    seed: NonNegativeInt = 0
    seen_methods: list[str] | None = Field(None, min_length=1)
    frames_per_video: PositiveInt | None = None
    test_sets: Names

    def settings(self) -> Closed:
        """The part of the parameters that belongs to the paper: an instance of its ``Settings``."""
        schema = papers.module(self.paper).Settings
        return schema(**self.model_dump(include=set(schema.model_fields)))


class DataParameters(Parameters):
    """The parameters of the notebook on data: datasets to make or, if prepared, to look at."""

    datasets: Names = Field(["smoke-a", "smoke-b", "smoke-tasks", "smoke-tasks-unseen"])


class AttributionParameters(Parameters):
    """The parameters of the notebook on maps; ``picture`` is a reader's own image or clip."""

    picture: str | None = None


# All notebooks but those of the papers.
NOTEBOOKS = {
    "00_start_here": Parameters,
    "01_data": DataParameters,
    "07_cross_dataset": Parameters,
    "08_attribution": AttributionParameters,
    "09_robustness": Parameters,
    "10_report": Parameters,
}


def schema(notebook: str) -> type[Parameters]:
    """The pydantic class of a notebook's parameters, which refuses unknown names.

    That of a paper's notebook has the paper's settings, too. Raises :class:`DfnbError` for an
    unknown notebook.
    """
    if notebook in NOTEBOOKS:
        return NOTEBOOKS[notebook]  # without the papers, so that torch is not imported either
    paper = papers.notebooks().get(notebook)
    if paper is None:
        raise DfnbError(f"there is no notebook {notebook!r}")
    bases = (TrainingParameters, papers.module(paper).Settings)
    # (type, default): ``paper`` can only be this paper, and need not be stated.
    return create_model(notebook, __base__=bases, paper=(Literal[paper], paper))


def check(notebook: str, namespace: Mapping[str, Any]) -> Parameters:
    """Check a notebook's parameters against its schema.

    Every name that papermill injected is checked, so that a mistyped one cannot pass; of the other
    variables only those with the name of a parameter are read. A printed line names the parameters
    that differ from the defaults, because the texts of the notebook describe the defaults.
    Published test sets that are not prepared are left out, and another line names them.

    Args:
        notebook: Name of the notebook, without ``.ipynb``.
        namespace: Its variables, ``globals()``, among them IPython's ``In``: the source texts of
            the executed cells.

    Raises :class:`DfnbError` with one sentence; of a paper's notebook also for datasets that nobody
    knows, for test sets that lack real or fake frames, and where no test set is left.
    """
    expected = schema(notebook)
    names = set(expected.model_fields)
    for cell in namespace.get("In", ()):
        if cell.startswith("# Parameters"):  # the cell in which papermill injects parameters
            names.update(re.findall(r"^(\w+) = ", cell, re.MULTILINE))
    values = {name: namespace[name] for name in names & namespace.keys()}
    p = expected.check(values, notebook)
    changed = []
    for name, default in defaults(notebook).items():
        if getattr(p, name) != default:
            changed.append(f"{name} = {getattr(p, name)!r}")
    if changed and notebook != "10_report":  # its texts are about any report
        print(f"Changed: {', '.join(changed)}. The texts describe the defaults.")
    if isinstance(p, TrainingParameters):
        check_known([p.train_set], notebook)
        p = p.model_copy(update={"test_sets": present(p.test_sets, notebook)})
        check_tested(p.test_sets, notebook)
    return p


def defaults(notebook: str) -> dict[str, Any]:
    """The default parameters of a notebook; of a paper's, those of its detector in DESCRIBED."""
    return dict(schema(notebook).check(stated_defaults(notebook), notebook))


def stated_defaults(notebook: str) -> dict[str, Any]:
    """What the profile DESCRIBED states of a paper's notebook, at its first seed.

    The notebook's parameters cell has these values; others in it are the paper's defaults, but for
    the report. Empty for other notebooks.
    """
    if notebook not in papers.notebooks():
        return {}
    profile = read_yaml(files.profile_path(DESCRIBED))
    seed = profile["seeds"][0]
    train_set = profile["train_set"].replace("{seed}", str(seed))
    stated = {"train_set": train_set, "test_sets": TEST_SETS, "seed": seed}
    return stated | (profile["notebooks"].get(notebook) or {})
