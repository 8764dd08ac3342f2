"""Profiles: files of ``notebooks/profiles``, which say with what parameters notebooks are called.

A call is a profile, a notebook and, of a paper's, a variant, a seed and a fold. :func:`values`
looks up what the profile says of it, and :func:`training_calls` lists the calls that train.
"""

import json
from collections.abc import Iterator
from glob import glob
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from dfnb import papers
from dfnb.results.detectors import MAIN
from facesets import files
from facesets.checks import (
    TITLE,
    Closed,
    DfnbError,
    Name,
    Title,
    check_name,
    explained,
    read_yaml,
    suggestion,
)

SET = {"report", "save", "seed", "variant"}  # parameters that a profile sets by itself


def _without_repetition(seeds: list[int]) -> list[int]:
    """The seeds; raises ValueError where one occurs twice, because both would be one training."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds = {seeds}: write each seed once")
    return seeds


Seeds = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(_without_repetition)]


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
        shown_sets: those of which a paper's notebook shows tables. A run that its reader does not
            save is scored on these alone. Empty: all.
        seeds: each paper is trained once per seed.
        folds: where ``{fold}`` stands in a train_set, each seed is trained once per fold. Each of
            its test sets must have it, too: no two networks of a seed are scored on one test set,
            because tables would take the scores of both for those of one network.
        notebooks: notebook → what it changes of these and of its default parameters, those of the
            paper's ``Settings``, in reading order.
        variants: notebook → name → what the variant changes. The name is ``ablation: variant``,
            such as ``modules: without CMCE``; the variants of an ablation are compared with its
            variant ``main``, or with the paper's own training where it has none. A variant without
            an ablation, such as ``ResNet-50``, stands beside the papers.
        faces: ``real`` if its frames show people: pictures of them, and notebooks with these, are
            then saved where git ignores them.
        apart: test sets that the report leaves out of means over datasets; None: those whose
            manifests say ``apart: true``.
        claims: file in ``data_manifest/claims/``, without suffix, that the report judges; None: no
            claim is registered.
    """

    description: str
    train_set: str
    test_sets: list[str]  # checked as parameters of the notebooks, when their {fold} is replaced
    shown_sets: list[Name] = Field([])
    seeds: Seeds
    folds: list[PositiveInt] = Field([])
    notebooks: dict[str, dict[str, Any]] = Field(min_length=1)
    variants: dict[str, dict[Title, Variant]] = Field({})
    faces: Literal["generated", "real"] = "generated"
    apart: list[Name] | None = None
    claims: Name | None = None


def read(name: str) -> Profile:
    """The checked content of a profile; raises :class:`DfnbError` that names file and remedy."""
    path = files.profile_path(name)
    checked = Profile.check(merged_content(name), path)
    for notebook in checked.variants:
        if notebook not in checked.notebooks or papers.of_notebook(notebook) is None:
            raise DfnbError(
                f"{path} has variants of {notebook}, which is no paper's notebook below "
                f"`notebooks:`{suggestion(notebook, papers.notebooks())}"
            )
    for notebook, stated in checked.notebooks.items():
        variants = checked.variants.get(notebook, {})
        names = {*stated}.union(*(variant.model_extra for variant in variants.values()))
        for parameter in sorted(names & SET):
            raise DfnbError(
                f"{path}, {notebook}: {parameter} has no effect, because a profile sets it by "
                "itself: seeds by `seeds:`, names of variants below `variants:`"
            )
    return checked


def merged_content(name: str, followed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entries of a profile as they are written, with those of the profile in ``like``.

    ``followed`` are the profiles whose ``like`` led here. Raises :class:`DfnbError` where these
    lead in a circle.
    """
    path = files.profile_path(name)
    stated = read_yaml(path)
    base = {}
    if "like" in stated:
        other = check_name(str(stated.pop("like")), f"{path}, like")
        if other in (*followed, name):
            raise DfnbError(f"{path}: like: {other} leads back here; leave one of them out")
        base = merged_content(other, (*followed, name))
    notebooks = dict(base.get("notebooks", {}))
    with explained(path, "as a profile", "write notebooks as NAME: {} or with their parameters"):
        for notebook, changes in dict(stated.get("notebooks", {})).items():
            of_other = notebooks.pop(notebook, {})
            if changes is not None:
                notebooks[notebook] = {**of_other, **changes}
    # In reading order: the name of a notebook begins with its number.
    merged = {**base, **stated, "notebooks": dict(sorted(notebooks.items()))}
    return {entry: value for entry, value in merged.items() if value is not None}


def keep_copy(name: str) -> None:
    """Write the entries of a profile to its report, which is then read without the profile."""
    # Through JSON, which knows no references: YAML would write them for lists that stand twice.
    entries = json.loads(json.dumps(merged_content(name)))
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
    files.write_bytes(files.report_folder(name) / "profile.yaml", text.encode())


# ---------------------------------------------------------------- calls


class Call(Closed):
    """A call of a notebook by a profile.

    A notebook that trains nothing has neither variant, seed nor fold; ``fold`` is 0, too, where the
    training set has none.
    """

    profile: Name
    notebook: Name
    variant: Title | Literal[""] = ""
    seed: NonNegativeInt = 0
    fold: NonNegativeInt = 0

    def __str__(self) -> str:
        fold = f", fold {self.fold}" if self.fold else ""
        return f"{self.profile}, {self.variant}, seed {self.seed}{fold}"


def training_calls(name: str, profile: Profile, notebook: str) -> Iterator[Call]:
    """The calls of a paper's notebook by a profile; the first is the one that is shown whole."""
    for variant, changes in _variants(name, profile, notebook).items():
        own = {"train_set": profile.train_set, **profile.notebooks[notebook], **changes.model_extra}
        folds = profile.folds if "{fold}" in str(own["train_set"]) else [0]
        for seed, fold in product(changes.seeds or profile.seeds[:1], folds):
            yield Call(profile=name, notebook=notebook, variant=variant, seed=seed, fold=fold)


def values(call: Call, profile: Profile) -> dict[str, Any]:
    """What a profile says of a call; what it does not is the default of the notebook's schema.

    The seed need be none of the profile's. Raises :class:`DfnbError` for a notebook or variant that
    the profile lacks.
    """
    if call.notebook not in profile.notebooks:
        known = suggestion(call.notebook, profile.notebooks)
        raise DfnbError(f"profile {call.profile} has no notebook {call.notebook!r}{known}")
    stated = profile.notebooks[call.notebook]
    if not call.variant:
        return stated
    variants = _variants(call.profile, profile, call.notebook)
    if call.variant not in variants:
        known = suggestion(call.variant, variants)
        raise DfnbError(
            f"profile {call.profile} has no variant {call.variant!r} of {call.notebook}{known}"
        )
    changes = variants[call.variant].model_extra
    own = {"train_set": profile.train_set, "test_sets": profile.test_sets, **stated, **changes}
    own["released"] = changes.get("released")  # the pattern in ``stated`` is of several variants
    datasets = {key: own[key] for key in ("train_set", "test_sets")}
    if call.fold and not all("{fold}" in test_set for test_set in datasets["test_sets"]):
        raise DfnbError(f"profile {call}: write {{fold}} in each test set, as in its train_set")
    # As JSON, in which both are texts, and a list stays one.
    text = json.dumps(datasets).replace("{seed}", str(call.seed)).replace("{fold}", str(call.fold))
    return {**own, **json.loads(text)}


def _variants(name: str, profile: Profile, notebook: str) -> dict[str, Variant]:
    """The trainings of a paper by name: its own, MAIN, then its variants.

    Where the notebook has a pattern of files with the authors' weights, ``released``, each file
    that it matches is a variant; they replace the paper's own training. Raises :class:`DfnbError`
    where two of the files would get one name, and for a pattern without files.
    """
    variants = {MAIN: Variant(seeds=profile.seeds)}
    released = profile.notebooks[notebook].get("released")
    if released:
        variants.clear()
        paper = papers.module(papers.notebooks()[notebook]).PAPER.title
        pattern = str(Path(released).expanduser())
        for file in sorted(glob(pattern, root_dir=files.home())):  # noqa: PTH207, may be absolute
            title = check_name(f"{paper}, {Path(file).stem}", file, TITLE)
            if title in variants:
                raise DfnbError(
                    f"{file}: without folder and suffix it is named like "
                    f"{variants[title].model_extra['released']}; rename one: tables show these "
                    "names"
                )
            variants[title] = Variant(released=file)
    return variants | profile.variants.get(notebook, {})
