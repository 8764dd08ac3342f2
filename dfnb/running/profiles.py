"""Profiles: lists of papermill calls, as ``notebooks/profiles/<name>.yaml`` states them.

:class:`Profile` is the file. :func:`calls` makes the list: a call per training, which executes the
paper's notebook up to its cell tagged ``run``, and one per notebook that a reader sees, which is
executed whole. :mod:`dfnb.running.workflow` executes them.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from glob import glob
from itertools import chain, product
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt

from dfnb import papers
from dfnb.papers import backbones
from dfnb.report import claims
from dfnb.report.detectors import MAIN, name_of
from dfnb.report.page import REPORT
from dfnb.running import measuring, parameters
from dfnb.running.parameters import Seeds, TrainingParameters
from dfnb.store import reports, scores
from facesets import files, sources
from facesets.checks import TITLE, Closed, DfnbError, Name, Title, check_name, read_yaml, suggestion
from facesets.frames import dataset_record, load_frames, select
from facesets.sources import check_known, check_tested, is_available

# Parameters that a profile sets itself, and what to write instead.
REPLACED = {
    "seed": "write seeds: [...] in the profile or a variant",
    "report": "the report has the name of the profile",
    "save": "a profile saves all that it makes",
    "variant": "write it below variants:",
}


class Variant(Closed, extra="allow"):
    """What a variant changes: parameters of its notebook, and its own ``seeds``.

    The parameters are extra fields here; the schema of the notebook checks them.
    """

    seeds: Seeds = Field([])  # empty: the profile's first


class Profile(Closed):
    """A file of ``notebooks/profiles``.

    The entry ``like`` of a file names another profile, which gives what the file does not state.
    ``notebooks`` are merged: per notebook the parameters that the file states take the place of
    those of the other profile, and ``null`` in place of a notebook removes it. Other entries that
    the file states replace those of the other profile whole; ``null`` removes them.

    Attributes:
        train_set: on which every paper is trained. ``{seed}`` in it, also in that of a notebook or
            variant, is replaced by the seed: each seed has its own training set.
        test_sets: on which every training is scored.
        seeds: each paper is trained once per seed.
        folds: where ``{fold}`` stands in a train_set, each seed is trained once per fold. Each of
            its test sets must have it, too: no two networks of a seed are scored on one test set,
            because tables would take the scores of both for those of one network.
        notebooks: notebook → what it changes of these and of its default parameters, in reading
            order.
        variants: notebook → name → what the variant changes. The name is ``ablation: variant``,
            such as ``modules: without CMCE``; the variants of an ablation are compared with its
            variant ``main``, or with the paper's own training where it has none. A variant without
            an ablation, such as ``ResNet-50``, stands beside the papers.
        faces: ``real`` if its frames show people: pictures of them, and notebooks with these, are
            then saved where git ignores them.
        weights: ``all`` if the report keeps the weights of all trainings; otherwise of those whose
            notebooks are executed whole.
        apart: test sets that the report leaves out of means over datasets; None: those whose
            manifests say ``apart: true``.
        claims: file in ``data_manifest/claims/``, without suffix, that the report judges; None: no
            claim is registered.
        start: where the parameters of a paper's notebook come from that nothing here states:
            ``notebooks``, its own cell; ``published``, the paper's ``Settings``.
    """

    description: str
    start: Literal["notebooks", "published"] = "published"
    train_set: str
    test_sets: list[str]  # checked as parameters of the notebooks, when their {fold} is replaced
    seeds: Seeds
    folds: list[PositiveInt] = Field([])
    notebooks: dict[str, dict[str, Any]] = Field(min_length=1)
    variants: dict[str, dict[Title, Variant]] = Field({})
    faces: Literal["drawn", "real"] = "drawn"
    weights: Literal["shown", "all"] = "shown"
    apart: list[Name] | None = None
    claims: Name | None = None


def read(name: str) -> Profile:
    """The checked content of a profile; raises :class:`DfnbError` that names file and remedy."""
    path = files.profile_path(name)
    checked = Profile.check(content(name), path)
    for notebook in checked.variants:
        if notebook not in checked.notebooks:
            raise DfnbError(f"{path} has variants of {notebook}; add it below `notebooks:`, too")
        if papers.of_notebook(notebook) is None:  # no other notebook trains
            known = suggestion(notebook, papers.notebooks())
            raise DfnbError(f"{path} has variants of {notebook}, which trains nothing{known}")
    for notebook, changes in checked.notebooks.items():
        variants = checked.variants.get(notebook, {})
        stated = {*changes}.union(*(variant.model_extra for variant in variants.values()))
        for name, instead in REPLACED.items():
            if name in stated:
                raise DfnbError(f"{path}, {notebook}: {name} has no effect; {instead}")
    return checked


def content(name: str, followed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entries of a profile as they are written, with those of the profile in ``like``.

    ``followed`` are the profiles whose ``like`` led here. Raises :class:`DfnbError` where these
    lead in a circle.
    """
    path = files.profile_path(name)
    stated = read_yaml(path)
    notebooks = stated.get("notebooks", {})
    is_parameters = isinstance(notebooks, dict) and all(
        changes is None or isinstance(changes, dict) for changes in notebooks.values()
    )
    if not is_parameters:
        raise DfnbError(
            f"{path}: write below `notebooks:` each notebook with its parameters or {{}}"
        )
    other = stated.pop("like", None)
    if other is None:
        for notebook in [notebook for notebook, changes in notebooks.items() if changes is None]:
            raise DfnbError(
                f"{path}, {notebook}: null removes a notebook of `like`; write {{}} for one that "
                "the profile executes unchanged"
            )
        return stated
    other = check_name(str(other), f"{path}, like")
    if other in (*followed, name):
        raise DfnbError(f"{path}: like: {other} leads back to this profile; leave one of them out")
    base = content(other, (*followed, name))
    merged_notebooks = dict(base.get("notebooks", {}))
    for notebook, changes in notebooks.items():
        if changes is None:
            merged_notebooks.pop(notebook, None)
        else:
            merged_notebooks[notebook] = {**merged_notebooks.get(notebook, {}), **changes}
    # In reading order: the name of a notebook begins with its number.
    merged = {**base, **stated, "notebooks": dict(sorted(merged_notebooks.items()))}
    return {entry: value for entry, value in merged.items() if value is not None}


def keep_copy(name: str, dry_run: bool = False) -> None:
    """Write the entries of a profile to its report, which is then read without the profile.

    Notebooks have there also what their cells give the profile. A dry run leaves those of the last
    run, with which :func:`changed_cells` compares.
    """
    profile = read(name)
    notebooks = {
        notebook: {**_of_cell(profile, notebook), **changes}
        for notebook, changes in profile.notebooks.items()
    }
    if dry_run:
        notebooks = reports.profile_of(name).get("notebooks", notebooks)
    # Through JSON, which knows no references: YAML would write them for lists that stand twice.
    entries = json.loads(json.dumps({**content(name), "notebooks": notebooks}))
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
    files.write_bytes(files.report_folder(name) / "profile.yaml", text.encode())


def changed_cells(name: str) -> list[str]:
    """A sentence for each value that a notebook's cell gives the profile, and another last time.

    By such a value the profile trains, measures or shows something else, and no line of its file
    says so.
    """
    profile = read(name)
    last = reports.profile_of(name).get("notebooks", {})
    sentences = []
    for notebook, changes in profile.notebooks.items():
        before = last.get(notebook, {})
        for parameter, value in _of_cell(profile, notebook).items():
            if parameter not in changes and before.get(parameter, value) != value:
                sentences.append(
                    f"{notebook}: its cell has {parameter} = {value!r} now, and {name} ran with "
                    f"{before[parameter]!r} before"
                )
    return sentences


def _of_cell(profile: Profile, notebook: str) -> dict[str, Any]:
    """The values of a notebook's cell from which the profile starts, see :class:`Profile`.

    They are without those that a profile sets itself. A notebook that trains nothing has no
    published ones.
    """
    if profile.start == "published" and notebook in papers.notebooks():
        return {}
    own = {*REPLACED, "train_set", "test_sets"}
    return {name: value for name, value in parameters.stated(notebook).items() if name not in own}


# ---------------------------------------------------------------- calls


class Call(Closed):
    """A notebook with its parameters, as papermill executes it.

    Attributes:
        name: Of its record: the id of the run or, of a notebook that is shown, its name.
        notebook: Name of the notebook.
        parameters: All of its parameters.
        changes: Those that differ from the notebook's own cell, which papermill gets.
        executed: The executed notebook, relative to the home.
    """

    name: str
    notebook: str
    parameters: dict[str, Any]
    changes: dict[str, Any]
    executed: str

    @property
    def record(self) -> Path:
        """What proves that the call ended, relative to the home."""
        return reports.record_path(self.parameters["report"], self.name)

    @property
    def done(self) -> bool:
        """Whether the record is there, and is of these parameters."""
        path = files.home() / self.record
        return path.is_file() and files.read_json(path)["parameters"] == self.parameters

    def check(self) -> parameters.Parameters:
        """The parameters as an instance of the notebook's schema."""
        return parameters.schema(self.notebook).check(self.parameters, self.name)


class Calls(Closed):
    """The calls of a profile: first the trainings, then the notebooks that are shown.

    Of the latter the last waits for the others. ``left_out`` are the trainings whose datasets are
    not prepared, or that were not asked for: notebook, variant and seed of each.
    """

    profile: Name
    trainings: list[Call]
    shown: list[Call]
    left_out: list[tuple[str, str, int]]


def calls(name: str, main: bool = False) -> Calls:
    """The calls of a profile, whether done or not.

    All parameters are checked here, before anything runs. Test sets and variants whose real
    datasets are not prepared, and variants whose file of weights is not here, are left out.
    Pretrained weights may be fetched, because the run ids have their sha256.

    Args:
        name: The name of the profile.
        main: Whether to leave out the trainings of all variants.

    Raises :class:`DfnbError` for wrong parameters, and where the main training set or pretrained
    weights are not there.
    """
    profile = read(name)
    planned, left_out = _trainings(name, profile)
    if profile.claims:
        named = [*left_out, *chain(*map(_named, planned))]
        tested = chain(profile.test_sets, *(p.test_sets for p in planned))
        claims.check_plan(profile.claims, _made(named, {*tested}), papers.modules())
    others = {  # shown notebooks that train nothing; checked before the first training
        notebook: _others_parameters(name, profile, notebook)
        for notebook in profile.notebooks
        if notebook not in papers.notebooks()
    }
    if main:  # released weights have no training that could be left out: they are scored
        asked = [p for p in planned if MAIN in p.variants or p.released]
        left_out += [named for p in planned if p not in asked for named in _named(p)]
        planned = asked
    folder = Path("reports", name)
    logs, numbers = folder / "logs", folder / "notebooks"
    # As reports.pictures_folder.
    pictures = folder / "faces" / "notebooks" if profile.faces == "real" else numbers
    first = {}  # notebook -> the parameters of its first training
    trainings = []
    for p in planned:
        notebook = papers.module(p.paper).PAPER.notebook
        trainings.append(_call(measuring.training_of(p).id, notebook, p, logs))
        if not p.released:  # the authors' weights are scored alone
            first.setdefault(notebook, p)
    released = [
        changes["released"] for changes in profile.notebooks.values() if "released" in changes
    ]
    if released and not trainings:
        raise DfnbError(
            f"profile {name} has nothing to score: put weights into {' or '.join(released)}, and "
            "prepare one of its test sets (`dfnb data`)"
        )
    both = {**first, **others}
    shown = []
    for notebook in sorted(profile.notebooks, key=lambda name: name == REPORT):  # the last waits
        if notebook in both:
            p = _as_described(name, notebook, both[notebook])
            place = numbers if {*type(p).model_fields} == reports.READING else pictures
            shown.append(_call(notebook, notebook, p, place))
    return Calls(profile=name, trainings=trainings, shown=shown, left_out=left_out)


def _changes(notebook: str, p: parameters.Parameters) -> dict[str, Any]:
    """The parameters that differ from those of the notebook's own cell."""
    values = p.model_dump(mode="json")
    cell = parameters.schema(notebook).check(parameters.stated(notebook), notebook)
    differing = [key for key in type(p).model_fields if getattr(p, key) != getattr(cell, key)]
    # Of a setting that is recorded only where it differs from its default, the dump lacks the rest.
    return {key: values.get(key, getattr(p, key)) for key in differing}


def _call(name: str, notebook: str, p: parameters.Parameters, folder: Path) -> Call:
    """The call of a notebook with these parameters, whose executed copy is in ``folder``."""
    return Call(
        name=name,
        notebook=notebook,
        parameters=p.model_dump(mode="json"),
        changes=_changes(notebook, p),
        executed=str(folder / f"{name}.ipynb"),
    )


def _as_described(
    name: str,
    notebook: str,
    p: parameters.Parameters,
) -> parameters.Parameters:
    """The parameters of a notebook that is shown: in the report DESCRIBED those of its own cell.

    So its committed copies show what a reader who opens the notebook sees.
    """
    if name != parameters.DESCRIBED:
        return p
    own = {**parameters.stated(notebook), "save": True}
    if isinstance(p, TrainingParameters):
        own["variant"] = p.variant
    return parameters.schema(notebook).check(own, notebook)


def _others_parameters(name: str, profile: Profile, notebook: str) -> parameters.Parameters:
    """The checked parameters of a notebook that is none of a paper."""
    source = f"profile {name}, {notebook}"
    schema = parameters.schema(notebook)
    values = {**_of_cell(profile, notebook), "report": name, "save": True}
    p = schema.check({**values, **profile.notebooks[notebook]}, source)
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


def _trainings(
    name: str,
    profile: Profile,
) -> tuple[list[TrainingParameters], list[tuple[str, str, int]]]:
    """The checked parameters of each training, and the trainings that are left out.

    A training that several variants name is made once: it gets all their names and test sets.
    """
    by_training: dict[str, TrainingParameters] = {}
    left_out = []
    for notebook in profile.notebooks:
        if notebook not in papers.notebooks():
            continue
        for p in _stated(name, profile, notebook):
            present = [dataset for dataset in p.test_sets if is_available(dataset, "test")]
            check_tested(present, f"profile {name}, {notebook}")
            can_start = p.released or (
                is_available(p.train_set, "train", "val") and _is_weights_file_here(p)
            )
            if p.variant != MAIN and not (present and can_start):
                left_out += _named(p)
                continue
            if not present:
                raise DfnbError(
                    f"profile {name}, {notebook}: no test set is left; {', '.join(p.test_sets)}: "
                    "no split test is prepared, `dfnb data` says how to get it"
                )
            p = p.model_copy(update={"test_sets": present})
            of_notebook = {"test_sets", "variant", "map_frames"}  # and not of the training
            key = files.digest(p.model_dump(mode="json", exclude=of_notebook))
            first = by_training.get(key, p)
            by_training[key] = first.model_copy(
                update={
                    "test_sets": list(dict.fromkeys([*first.test_sets, *present])),
                    "map_frames": max(first.map_frames, p.map_frames),
                    "variant": "; ".join(dict.fromkeys([*first.variants, *p.variants])),
                }
            )
    return list(by_training.values()), left_out


def _is_weights_file_here(p: TrainingParameters) -> bool:
    """False where a training is to start from a file of weights that is not on this machine."""
    is_file = isinstance(p.pretrained, str) and p.pretrained not in backbones.PACKAGES
    return not is_file or (files.home() / p.pretrained).is_file()


def _named(p: TrainingParameters) -> list[tuple[str, str, int]]:
    """Notebook, variant and seed of a training, for each of its variants."""
    notebook = papers.module(p.paper).PAPER.notebook
    return [(notebook, variant, p.seed) for variant in p.variants]


def _made(named: Iterable[tuple[str, str, int]], test_sets: Iterable[str]) -> claims.Known:
    """What a profile makes that claims may name; ``named`` are those of :func:`_named`."""
    paper_of, seeds_of = {}, defaultdict(set)
    for notebook, variant, seed in named:
        paper = papers.notebooks()[notebook]
        detector = name_of(papers.module(paper).PAPER.title, variant)
        paper_of[detector] = paper
        seeds_of[detector].add(seed)
    locating = {
        detector
        for detector, paper in paper_of.items()
        if hasattr(papers.module(paper).Network, "localise")
    }
    methods_of = {test_set: _methods_of(test_set) for test_set in test_sets}
    return claims.Known(paper_of, seeds_of, locating, methods_of)


def _methods_of(test_set: str) -> list[str]:
    """The manipulation methods of a test set; none where it is not prepared, and so not known."""
    if sources.is_embedded(test_set):
        return [*sources.preset(test_set).methods]
    if not is_available(test_set, "test"):
        return []
    kinds = (kind.split("/", 1) for kind in dataset_record(test_set)["n"])  # split/method
    return [method for split, method in kinds if split == "test"]


def _stated(name: str, profile: Profile, notebook: str) -> Iterator[TrainingParameters]:
    """The checked parameters of each training that a profile states for a paper's notebook."""
    schema = parameters.schema(notebook)
    shared = {**_of_cell(profile, notebook), "report": name, "save": True}
    shared |= {"train_set": profile.train_set, "test_sets": profile.test_sets}
    shared.update(profile.notebooks[notebook])
    for variant, changes in _variants(profile, notebook, shared.get("released")).items():
        values = {**shared, **changes.model_extra, "variant": variant}
        if variant in profile.variants.get(notebook, {}):  # the pattern is none of its own files
            values["released"] = changes.model_extra.get("released")
        datasets = {key: values[key] for key in ("train_set", "test_sets")}
        folds = profile.folds if "{fold}" in str(values["train_set"]) else [0]
        for seed, fold in product(changes.seeds or profile.seeds[:1], folds):
            # As JSON, in which both are texts, and a list stays one.
            named = json.dumps(datasets).replace("{seed}", str(seed)).replace("{fold}", str(fold))
            values.update(json.loads(named), seed=seed)
            source = f"profile {name}, {notebook}, {variant}"
            p = schema.check(values, source)
            if fold and not all("{fold}" in name for name in datasets["test_sets"]):
                raise DfnbError(f"{source}: write {{fold}} in each test set, as in its train_set")
            check_known([p.train_set, *p.test_sets], source)
            methods = sorted(p.seen_methods) if p.seen_methods else None  # as a training has them
            yield p.model_copy(update={"seen_methods": methods})


def _variants(profile: Profile, notebook: str, released: str | None) -> dict[str, Variant]:
    """The trainings of a paper by name: its own, MAIN, then its variants.

    ``released`` is a pattern of files with the authors' weights, or None. Each file that it matches
    is a variant; they replace the paper's own training. Raises :class:`DfnbError` where two of the
    files would get one name.
    """
    variants = {MAIN: Variant(seeds=profile.seeds)}
    if released:
        variants.clear()
        paper = papers.module(papers.notebooks()[notebook]).PAPER.title
        for file in sorted(glob(released, root_dir=files.home())):  # noqa: PTH207, may be absolute
            title = check_name(f"{paper}, {Path(file).stem}", file, TITLE)
            if title in variants:
                raise DfnbError(
                    f"{file}: without folder and suffix it is named like "
                    f"{variants[title].model_extra['released']}; rename one: tables show these "
                    "names"
                )
            variants[title] = Variant(released=file)
    return variants | profile.variants.get(notebook, {})


def fetch(planned: Calls) -> None:
    """Download what the unfinished calls need, also to build their datasets.

    So none of them stops for it hours later, or on a machine without a network. The backbones'
    weights are there already, because a run's id has their sha256. Raises :class:`DfnbError`, which
    names the remedy, where something cannot be had.
    """
    datasets = set()
    for call in planned.shown:
        if not call.done:
            datasets.update(call.parameters.get("datasets", []))
            datasets.update(filter(None, [call.parameters.get("measured_on")]))
    for call in planned.trainings:
        if not call.done:
            p = call.check()
            datasets.update(p.test_sets)
            if not p.released:  # such weights are not trained
                p.settings().fetch()
                datasets.add(p.train_set)
    for dataset in sorted(datasets):
        sources.fetch(dataset)


def missing_masks(planned: Calls) -> list[str]:
    """A sentence for each training set of which some methods have masks and others have none.

    That is of unfinished trainings which learn from masks: they would learn from those of some
    methods alone, as where a download was not complete.
    """
    trained_on = set()  # training sets, each with the methods that a training sees; none: all
    for call in planned.trainings:
        p = call.parameters
        if not call.done and not p["released"] and p.get("annotated"):
            trained_on.add((p["train_set"], tuple(p["seen_methods"] or ())))
    sentences = []
    for train_set, seen in sorted(trained_on):
        if not (files.dataset_folder(train_set) / "frames.parquet").exists():
            continue  # it is drawn when it is needed, with all masks
        frames = select(load_frames(train_set), "train", seen or None)
        fakes = frames[frames["label"] == 1]
        has_masks = (fakes["mask"] != "").groupby(fakes["method"], observed=True).any()
        without = ", ".join(has_masks.index[~has_masks])
        if without and has_masks.any():
            sentences.append(
                f"{train_set} has masks of {', '.join(has_masks.index[has_masks])} and none of "
                f"{without}: get them first (`dfnb data`), or leave these out by seen_methods"
            )
    return sentences


def set_replaced_aside(planned: Calls) -> None:
    """Move the runs of the report that no call makes any more to its folder ``replaced``.

    They had other settings or data, or the profile does not name them any more. What is only left
    out now stays, and so does a run of a paper that is no longer there: nothing makes it again.
    """
    made = {call.name for call in planned.trainings}
    kept = {*planned.left_out}
    for path in reports.score_files(files.report_folder(planned.profile)):
        about = scores.read_about(path)
        notebook, seed = about.record.detector.notebook, about.record.parameters.seed
        is_left_out = any((notebook, variant, seed) in kept for variant in about.variants)
        is_of_paper = about.record.parameters.paper in papers.modules()
        if path.stem not in made and not is_left_out and is_of_paper:
            reports.set_aside(planned.profile, path.stem)


def notebook_parameters(name: str, notebook: str) -> dict[str, Any]:
    """What papermill must change in a notebook for the first seed of a profile, by ``-f``.

    The report is not among it: the reader chooses it. No dataset need be prepared. Raises
    :class:`DfnbError` where the profile does not have the notebook, or trains nothing for it.
    """
    profile = read(name)
    if notebook not in profile.notebooks:
        known = suggestion(notebook, profile.notebooks)
        raise DfnbError(f"profile {name} has no notebook {notebook!r}{known}")
    if notebook not in papers.notebooks():
        return dict(profile.notebooks[notebook])
    if profile.notebooks[notebook].get("released"):
        raise DfnbError(f"profile {name} trains nothing for {notebook}: choose another profile")
    changes = _changes(notebook, next(_stated(name, profile, notebook)))
    return {
        key: value for key, value in changes.items() if key not in ("report", "save", "variant")
    }
