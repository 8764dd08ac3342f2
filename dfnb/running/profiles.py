"""Profiles: which notebooks are executed, with which parameters, and which trainings they need.

A profile is ``notebooks/profiles/<name>.yaml``, see :class:`Profile`.
"""

import json
from typing import Any

import yaml
from pydantic import Field

from dfnb import files, papers
from dfnb.checks import Closed, DfnbError, Name, Title, check_name, read_yaml, suggestion
from dfnb.running.measuring import Corruptions, Maps
from dfnb.running.parameters import Names, Seeds
from dfnb.store.reports import STANDING_ALONE
from dfnb.store.scores import Role


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
        notebooks: notebook → what it changes of these and of its default parameters, in reading
            order.
        variants: notebook → name → what the variant changes. The name is ``ablation: variant``,
            such as ``modules: without CMCE``; the variants of an ablation are compared with its
            variant ``main``, or with the paper's own training where it has none. A variant without
            an ablation, such as ``ResNet-50``, stands beside the papers.
        corruptions, maps: what the papers' own trainings are measured on, too.
        claims: file in ``data_manifest/claims/``, without suffix, that the report judges; None: no
            claim is registered.
    """

    description: str
    train_set: str
    test_sets: Names
    seeds: Seeds
    notebooks: dict[str, dict[str, Any]] = Field(min_length=1)
    variants: dict[str, dict[Title, Variant]] = Field({})
    corruptions: Corruptions | None = None
    maps: Maps | None = None
    claims: Name | None = None


def read(name: str) -> Profile:
    """The checked content of a profile; raises :class:`DfnbError` that names file and remedy."""
    path = files.profile_path(name)
    checked = Profile.check(content(name), path)
    for notebook in checked.variants:
        if notebook not in papers.notebooks():  # those of the papers; no other notebook trains
            known = suggestion(notebook, papers.notebooks())
            raise DfnbError(f"{path} has variants of {notebook}, which trains nothing{known}")
    for notebook in papers.notebooks():
        stated = [checked.notebooks.get(notebook, {})]
        stated += [variant.model_extra for variant in checked.variants.get(notebook, {}).values()]
        if any("seed" in changes for changes in stated):  # it would be replaced
            raise DfnbError(
                f"{path}, {notebook}: seed has no effect; write seeds: [...] in the profile or a "
                "variant"
            )
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


def keep_copy(name: str) -> None:
    """Write the entries of a profile to its report, which is then read without the profile."""
    # Through JSON, which knows no references: YAML would write them for lists that stand twice.
    entries = json.loads(json.dumps(content(name)))
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
    files.write_bytes(files.report_folder(name) / "profile.yaml", text.encode())


def role(variant: str) -> Role:
    """Ablation and variant of the name of a variant, see :class:`Profile`."""
    ablation, colon, name = variant.partition(": ")
    return (ablation, name) if colon else (STANDING_ALONE, variant)
