"""A profile as a list of jobs: trainings with their scores, and notebooks.

A profile, see :mod:`dfnb.running.profiles`, names the detectors, the datasets and the seeds.
:func:`plan` makes a list of jobs of it, once: the Snakefile and the trainings read it from a file.
A training is a job of its own: it builds those datasets of the embedded benchmark that are missing,
trains, scores, and writes ``reports/<profile>/scores/<run id>.parquet``. What notebooks call, which
train and score one run, is in :mod:`dfnb.running.this_run`.
"""

from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dfnb import files, manifests, papers, synth
from dfnb.checks import TITLE, Closed, DfnbError, Name, check_name, suggestion
from dfnb.papers.contract import INPUT
from dfnb.report import claims
from dfnb.running import parameters, profiles
from dfnb.running.datasets import check_known, check_tested, ensure_datasets, is_available
from dfnb.running.measuring import Corruptions, Maps, ensure_scores, is_scored
from dfnb.running.this_run import training_of
from dfnb.store import reports
from dfnb.store.reports import STANDING_ALONE
from dfnb.store.runs import Training
from dfnb.store.scores import Role
from dfnb.training import train
from dfnb.training.runs import Run

# What these notebooks show is measured with the trainings, if the profile has the entry.
NEEDED_ENTRIES = {"08_attribution": "maps", "09_robustness": "corruptions"}
MAIN: Role = ("", "")  # no ablation, no variant: a paper's own training


# ---------------------------------------------------------------- the plan


class Job(Closed):
    """One step of a profile: a notebook that papermill executes, or a :class:`TrainingJob`.

    Attributes:
        name: of the notebook; of a training, the id of its run.
        profile: the name of the profile.
        output: the file that proves that the job ended, relative to the home.
        parameters: of the notebook, those that papermill passes; of a training, those that open it
            in its paper's notebook.
    """

    name: str
    profile: Name
    output: Path
    parameters: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the output exists."""
        return (files.home() / self.output).exists()


class TrainingJob(Job):
    """A training, and all that is scored and measured with it.

    Attributes:
        roles: the pairs of ablation and variant under which the report shows it.
        test_sets: the datasets that it is scored on.
        corruptions: the corrupted frames that it is scored on, too.
        maps: where its attribution maps are measured.
        is_first: whether it has the role MAIN and the first seed; the report keeps its weights.
    """

    roles: list[Role]
    test_sets: list[str]
    corruptions: Corruptions | None
    maps: Maps | None
    is_first: bool

    @property
    def training(self) -> Training:
        """What is trained, made of the job's parameters."""
        notebook = papers.module(self.parameters["paper"]).PAPER.notebook
        return training_of(parameters.schema(notebook).check(self.parameters, self.name))


class Plan(Closed):
    """The jobs of a profile; notebooks wait for all trainings, and the last for all notebooks.

    ``workflow/Snakefile`` reads a file of it.
    """

    profile: Name
    trainings: list[TrainingJob]
    notebooks: list[Job]

    def job(self, name: str) -> TrainingJob:
        """The training of that name; raises :class:`DfnbError` with the nearest for another."""
        by_name = {job.name: job for job in self.trainings}
        if name not in by_name:
            raise DfnbError(
                f"profile {self.profile} has no training {name!r}{suggestion(name, by_name)}"
            )
        return by_name[name]


def plan(
    name: str,
    main: bool = False,
) -> Plan:
    """The jobs of a profile, whether done or not.

    All parameters are checked here, before anything runs. Test sets and variants whose real
    datasets are not prepared are left out. Pretrained weights may be fetched, because the run ids
    have their sha256.

    Args:
        name: The name of the profile.
        main: Whether to leave out the trainings of all variants.

    Raises :class:`DfnbError` for wrong parameters, and where the main training set or pretrained
    weights are not there.
    """
    content = profiles.read(name)
    _check_measured(f"profile {name}", content)
    by_id: dict[str, TrainingJob] = {}
    shown = {}  # notebook -> its parameters; a paper's notebook shows the paper's first training
    for notebook in content.notebooks:
        for job in _trainings(name, content, notebook):
            shown.setdefault(notebook, job.parameters)
            first = by_id.setdefault(job.name, job)
            # The same training in another role: the first job also gets this role and its test
            # sets. Corruptions and maps stay those of its first role: of MAIN where it has that.
            if first is not job:
                first.roles.extend(job.roles)
                added = [dataset for dataset in job.test_sets if dataset not in first.test_sets]
                first.test_sets.extend(added)
    trainings = list(by_id.values())
    if main:  # released weights have no training that could be left out: they are scored
        trainings = [job for job in trainings if MAIN in job.roles or job.parameters["released"]]
    notebooks = []
    for notebook, changes in content.notebooks.items():
        # Released weights are only scored, which is among the trainings of the plan. The notebook
        # is not executed: it would have no training to show.
        if changes.get("released"):
            if not trainings:
                raise DfnbError(
                    f"profile {name} has nothing to score: put weights into {changes['released']} "
                    "or the folders of other papers, and prepare one of its test sets (`dfnb data`)"
                )
            continue
        if notebook not in shown:
            values = {"report": name, **changes}
            checked = parameters.schema(notebook).check(values, f"profile {name}, {notebook}")
            if isinstance(checked, parameters.DataParameters):
                check_known(checked.datasets, f"profile {name}, {notebook}")
            shown[notebook] = checked.model_dump(mode="json")
        if name == parameters.DESCRIBED:  # executed with its defaults, as a reader opens it
            shown[notebook] = {}
        output = reports.notebook_record(name, notebook)  # what the notebook writes last
        job = Job(name=notebook, profile=name, output=output, parameters=shown[notebook])
        notebooks.append(job)
    return Plan(profile=name, trainings=trainings, notebooks=notebooks)


def _check_measured(source: str, content: profiles.Profile) -> None:
    """Raise :class:`DfnbError` for mistakes that would show only after all trainings.

    These are test sets of maps and corruptions that are unknown or cannot serve, notebooks that
    need what the profile lacks, and a file of claims that is missing or wrong. Messages begin with
    ``source``.
    """
    if content.claims:
        claims.content(content.claims)  # raises where the file is missing or wrong
    measured_on = {}  # entry of the profile -> its test sets
    if content.maps:
        measured_on["maps"] = content.maps.test_sets
    if content.corruptions:
        measured_on["corruptions"] = [content.corruptions.test_set]
    for entry, datasets in measured_on.items():
        check_known(datasets, f"{source}, {entry}")
        check_tested(filter(is_available, datasets), f"{source}, {entry}")
    for notebook, entry in NEEDED_ENTRIES.items():
        if notebook in content.notebooks and entry not in measured_on:
            raise DfnbError(
                f"{source}: {notebook} needs `{entry}` in the profile; add it, as in the profile "
                "smoke, or leave the notebook out"
            )
        if notebook in content.notebooks and not any(map(is_available, measured_on[entry])):
            raise DfnbError(
                f"{source}: {notebook} needs one of {', '.join(measured_on[entry])}, and none is "
                "prepared; `dfnb data` says how to get them"
            )


def fetch(planned: Plan) -> None:
    """Download what the unfinished trainings of a plan need, also to build their datasets.

    So none of them stops for it hours later, or on a machine without a network. The backbones'
    weights are there already, because a plan has their sha256. Raises :class:`DfnbError`, which
    names the remedy, where something cannot be had.
    """
    unfinished = [job for job in planned.trainings if not job.done]
    datasets = set()
    for job in unfinished:
        datasets.update(job.test_sets)
        datasets.update(job.maps.test_sets if job.maps else [])
        datasets.update([job.corruptions.test_set] if job.corruptions else [])
        if not job.parameters["released"]:  # such weights are not trained
            job.training.settings.fetch()
            datasets.add(job.parameters["train_set"])
    for dataset in sorted(datasets & {*manifests.dataset_names("synth")}):
        synth.fetch(dataset)


def notebook_parameters(name: str, notebook: str) -> dict[str, Any]:
    """The parameters of a notebook in a profile at its first seed, as ``papermill -f`` takes them.

    These are the parameters that the profile states and those of the notebook's own cell that
    differ from the paper's defaults: they would otherwise keep the cell's values. The report is not
    among them: the reader chooses it. Raises :class:`DfnbError` where the profile does not have the
    notebook, or trains nothing for it.
    """
    content = profiles.read(name)
    if notebook not in content.notebooks:
        known = suggestion(notebook, content.notebooks)
        raise DfnbError(f"profile {name} has no notebook {notebook!r}{known}")
    values = dict(content.notebooks[notebook])
    if values.get("released"):
        raise DfnbError(f"profile {name} trains nothing for {notebook}: choose another profile")
    if notebook in papers.notebooks():
        seed = content.seeds[0]
        shared = {"train_set": content.train_set, "test_sets": content.test_sets, "seed": seed}
        values = {**shared, **values}
        values["train_set"] = str(values["train_set"]).replace("{seed}", str(seed))
    checked = parameters.schema(notebook).check(values, f"profile {name}, {notebook}")
    names = {**values, **parameters.stated_defaults(notebook)}  # only its keys are used, in order
    # If one entry of INPUT is stated, the backbone no longer sets the others: state all.
    if names.keys() & set(INPUT):
        names |= dict.fromkeys(INPUT)
    return {key: checked.model_dump(mode="json")[key] for key in names}


def _trainings(
    name: str,
    content: profiles.Profile,
    notebook: str,
) -> Iterator[TrainingJob]:
    """Every training of a paper's notebook, first its own (MAIN), then its variants.

    ``name`` and ``content`` are those of the profile; other notebooks than papers' have none.
    Its own have all seeds of the profile; variants take the first one unless they name theirs. Test
    sets that are not there are dropped; a variant without any left, or without its training set, is
    left out. Without the profile's training set, :class:`DfnbError` is raised.
    """
    if notebook not in papers.notebooks():
        return
    schema = parameters.schema(notebook)
    shared = {"report": name, "train_set": content.train_set, "test_sets": content.test_sets}
    shared.update(content.notebooks[notebook])
    for role, variant in _variants(content, notebook, shared.get("released")).items():
        values = {**shared, **variant.model_extra}  # model_extra: the parameters that it changes
        train_set = str(values["train_set"])  # perhaps with {seed}
        for seed in variant.seeds or content.seeds[:1]:
            values.update(train_set=train_set.replace("{seed}", str(seed)), seed=seed)
            source = ", ".join(filter(None, (f"profile {name}", notebook, *role)))
            p = schema.check(values, source)
            check_known([p.train_set, *p.test_sets], source)
            present = [dataset for dataset in p.test_sets if is_available(dataset, "test")]
            check_tested(present, source)
            can_start = p.released or is_available(p.train_set, "train", "val")
            if role != MAIN and not (present and can_start):
                continue
            # Without any, the notebook says which are missing.
            p = p.model_copy(update={"test_sets": present or p.test_sets})
            run_id = training_of(p).id  # raises where the training set or weights are missing
            is_first = role == MAIN and seed == content.seeds[0]
            maps = content.maps if role == MAIN else None
            if role != MAIN and content.maps and content.maps.variants:  # on its first test set
                maps = content.maps.model_copy(update={"test_sets": present[:1]})
            yield TrainingJob(
                name=run_id,
                profile=name,
                output=reports.score_path(Path("reports", name), run_id),
                parameters=p.model_dump(mode="json"),
                roles=[role],
                test_sets=present,
                corruptions=content.corruptions if role == MAIN else None,
                maps=maps,
                is_first=is_first,
            )


def _variants(
    content: profiles.Profile,
    notebook: str,
    released: str | None,
) -> dict[Role, profiles.Variant]:
    """The trainings of a paper by role: its own, then its variants.

    ``released`` is a pattern of files with the authors' weights, or None. Each file that it matches
    is a variant; they replace the paper's own training. Raises :class:`DfnbError` where two of the
    files would get one name.
    """
    variants = {MAIN: profiles.Variant(seeds=content.seeds)}
    if released:
        variants.clear()
        paper = papers.module(papers.notebooks()[notebook]).PAPER.title
        for file in sorted(glob(released, root_dir=files.home())):  # noqa: PTH207, may be absolute
            title = check_name(f"{paper}, {Path(file).stem}", file, TITLE)
            earlier = variants.get((STANDING_ALONE, title))
            if earlier:
                raise DfnbError(
                    f"{file}: without folder and suffix it is named like "
                    f"{earlier.model_extra['released']}; rename one: tables show these names"
                )
            variants[STANDING_ALONE, title] = profiles.Variant(released=file)
    for name, variant in content.variants.get(notebook, {}).items():
        variants[profiles.role(name)] = variant
    return variants


# ---------------------------------------------------------------- what `dfnb train` calls


def train_and_score(job: TrainingJob) -> Run:
    """Train, score the test sets, and put the scores into the report of the profile.

    If the report already has them, the run is only opened, and its roles in the report are updated.
    A run that was trained or scored before, for example for another report, is not trained or
    scored again. Where another report has all scores, they are copied, even if the weights are not
    on this machine; then maps are left out.

    The report also gets a copy of the profile and, of a job that ``is_first``, the weights and the
    mean mask: notebooks need them to draw maps on a machine without ``runs/``. The score file
    proves that the job ended. Then files of the same detector and seed with other settings or data
    are removed from the report.
    """
    if job.done:
        reports.write_roles(files.home() / job.output, job.roles)
        return Run.open(job.name)
    folder = files.report_folder(job.profile)
    run = Run.find(job.name)
    # The report keeps the weights of a first seed, so copies of its scores are not enough.
    can_copy = (
        run is not None
        and not job.is_first
        and is_scored(run, job.profile, job.test_sets, job.corruptions)
    )
    if run is None or not (run.has_weights or can_copy):
        if not job.parameters["released"]:  # such weights need no training set
            ensure_datasets(job.parameters["train_set"])
        run = train.train(job.training)
    profiles.keep_copy(job.profile)
    if job.is_first:
        weights = run.weights().read_bytes()
        files.write_bytes(reports.weights_path(folder, run.id), weights)
        mask = run.mean_mask()
        if mask is not None:
            _, png = cv2.imencode(".png", np.uint16(65535 * mask + 0.5))  # 16 bits, rounded
            files.write_bytes(reports.mean_mask_path(folder, run.id), png.tobytes())
    options = (job.corruptions, job.maps, job.is_first)
    shown = ensure_scores(run, job.profile, job.test_sets, *options)
    reports.keep(job.profile, run, shown, job.roles)
    reports.set_replaced_aside(job.profile, run)
    return run
