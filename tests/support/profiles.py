"""A small profile of a test's own, shared by tests."""

import yaml

from dfnb.running import execution, measuring, parameters, planning, profiles

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
    """The plan of a profile whose entries are in its report, as while it runs."""
    plan = planning.plan(name)
    profiles.keep_copy(name)
    return plan


def trained(name="mine"):
    """The plan of a profile, after its trainings were done in this process."""
    plan = planned(name)
    for training in plan.trainings:
        measuring.open_or_train(training.parameters)
    return plan


def namespace(notebook, **changes):
    """The variables of a notebook whose cell of parameters was run, with these changes."""
    expected = parameters.schema(notebook)
    values = dict.fromkeys(expected.model_fields)
    if issubclass(expected, parameters.TrainingParameters):
        del values["paper"]
        values |= parameters.DESCRIBED
    else:
        values["report"] = parameters.DESCRIBED["profile"]
    return {**values, "save": False, **changes}


def injected(planned):
    """What papermill sets in the notebook of a planned call."""
    call = planned.call
    return execution.injected(call.profile, call.variant, call.seed, call.fold)
