"""A small profile of a test's own, shared by tests."""

import yaml

from dfnb.running import measuring, profiles
from facesets import files

BASELINE = "02_xception_baseline"
LOCATE = "04_locate_and_verify"
SETTINGS = {
    "backbone": "dfnb_plain7",
    "image_size": 96,
    "epochs": 1,
    "batch_size": 16,
    "images_per_epoch": 32,
    "optimiser": "adamw",
    "lr": 0.002,
    "schedule": "onecycle",
    "oversampling": None,
}
SHARED = {"train_set": "smoke-a", "test_sets": ["smoke-b"], "seeds": [0]}


def write_profile(home, shared=SHARED, notebooks=None, **more):
    """The profile ``mine`` of a home: by default one training of the baseline.

    ``shared`` are its training set, test sets and seeds.
    """
    notebooks = notebooks or {BASELINE: SETTINGS}
    path = home / "notebooks" / "profiles" / "mine.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"description": "a test's", **shared, "notebooks": notebooks, **more}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def planned(name="mine"):
    """The calls of a profile, written where its notebooks and Snakemake look for them."""
    calls = profiles.calls(name)
    path = files.report_folder(name) / "calls.json"
    files.write_json(path, calls.model_dump(mode="json"))
    profiles.keep_copy(name)
    return calls


def trained(name="mine"):
    """The calls of a profile, after its trainings were done in this process."""
    calls = planned(name)
    for call in calls.trainings:
        measuring.open_or_train(call.check())
    return calls
