"""The networks, losses and training steps are those of the released codes.

tests/golden/README.md has the rule of weights and inputs; ``DFNB_GOLDEN`` names another folder of
golden files, of which all are compared. At the end, one step of every paper's training gives the
numbers that it gave before.
"""

import json

import goldens
import numpy as np
import pytest
import timm
import torch
from goldens import (
    COMMITTED,
    GOLDEN,
    GRADIENTS,
    OUTPUTS,
    STEP_LOSSES,
    UPDATE_NORMS,
    UPDATES,
    golden_batch,
    golden_tensor,
    loaded,
    normal,
    off,
    read_json,
    run,
    seeds,
)
from networks import recipe
from torch import nn

from dfnb import papers
from dfnb.training import train

TRANSPORT = 1e-7  # relative; the released optimal transport takes log(1/B) in float32
STEP = 1e-12  # relative; another processor moves no number of float64 by more than 1e-14


def test_there_are_golden_files_of_each_kind():
    assert all(seeds(kind) for kind in ("lv", "lv_semi", "etd"))


@pytest.mark.parametrize(
    ("kind", "seed"), [(kind, seed) for kind in ("lv", "lv_semi", "etd") for seed in seeds(kind)]
)
def test_it_is_the_released_network(kind, seed, apart):
    outputs, gradients, others = apart(goldens.network_off, kind, seed)
    assert (outputs["difference"] <= OUTPUTS).all()
    assert (gradients[["norm", "products"]] <= GRADIENTS).all(axis=None)
    for name, difference in others.items():
        assert difference <= (TRANSPORT if name.startswith("transport") else OUTPUTS), name


SAVED = [kind for kind in ("lv", "etd") if (GOLDEN / f"{kind}_scores.json").exists()]

if SAVED:  # by golden.py --save, in a folder of one's own

    @pytest.mark.parametrize("kind", SAVED)
    def test_saved_weights_give_the_released_scores_from_the_picture_on(kind, apart):
        scores, released = apart(goldens.saved_scores, GOLDEN, kind, goldens.settings_of(kind))
        np.testing.assert_allclose(scores, released, rtol=0, atol=1e-5)  # float32


def renamed(network, name_of):
    """Weights by the rule for a network, and the same under the names of the released code."""
    weights = {}
    for name, value in network.state_dict().items():
        weights[name] = golden_tensor(name, tuple(value.shape))
    network.load_state_dict(weights)
    return {name_of(name): value for name, value in weights.items()}


def check_classifier(paper, released, weights, size):
    """Our network with the released weights gives the logits of the released network."""
    network = loaded(paper.Network(paper.Settings(pretrained=False)), weights)
    images = torch.tensor(normal(0, 2, 3, size, size)).double()
    with torch.no_grad():
        expected = released.double().eval()(images).numpy()
        assert off(network.double()(images)["cls"], expected) < OUTPUTS


def test_deepfakebench_s_xception_is_timm_s():
    released = timm.create_model("legacy_xception", num_classes=2)
    weights = renamed(released, lambda name: f"backbone.{name.replace('fc.', 'last_linear.')}")
    weights["backbone.adjust_channel.0.bias"] = torch.zeros(512)
    check_classifier(papers.module("xception"), released, weights, 256)


# ---------------------------------------------------------------- training steps


@pytest.mark.parametrize(
    ("kind", "seed", "size"),
    [(kind, *which) for kind in ("lv", "lv_semi", "etd") for which in goldens.sizes(kind)],
)
def test_steps_of_a_training_are_those_of_the_released_code(kind, seed, size, apart):
    for _, losses, updates in apart(goldens.compared_steps, kind, seed, size):
        assert max(losses.values()) <= STEP_LOSSES
        assert (updates["norm"] <= UPDATE_NORMS).all()
        assert (updates["products"] <= UPDATES).all()


# A further case is named "<paper> with ...".
CASES = {paper: {} for paper in papers.modules()} | {
    "lae": {"attention_weight": 1.0},
    "locate_and_verify": {"dropout": 0.0},
    "locate_and_verify with SSPSL": {"dropout": 0.0, "sspsl": True, "mixup_probability": 0.0},
    "exposing_the_deception": {
        "dropout": 0.0,
        "mean": (0.485, 0.456, 0.406),  # those of the paper, not of the small backbone
        "std": (0.229, 0.224, 0.225),
    },
}


def step_numbers(case):
    """Losses before and after a step of a small network in float64, and the gradient's norm."""
    paper = case.split(" with ")[0]
    settings = recipe(paper, **CASES[case])
    torch.manual_seed(0)  # of dropout
    network = papers.module(paper).Network(settings).double().train()
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(golden_tensor(name, tuple(value.shape)))
    mask = torch.zeros(4, 1, 96, 96)
    mask[1::2, :, 20:50, 30:70] = 1
    face = torch.tensor([[30.0, 30], [66, 30], [48, 50], [34, 70], [62, 70]])
    batch = golden_batch(0, [0, 1, 0, 1], 96, mask)
    batch["epoch"] = 0
    batch["landmarks"] = face.expand(4, 5, 2)
    batch["has_mask"][3] = "SSPSL" not in case
    (optimiser, *_), _ = settings.optimisation(network, 10)
    _, before = run(network, batch)
    gradients = [value.grad for value in network.parameters() if value.grad is not None]
    numbers = {"gradient": nn.utils.get_total_norm(gradients).item()}
    optimiser.step()
    _, after = run(network, batch)
    for name in before:
        numbers[f"{name} before"] = before[name].item()
        numbers[f"{name} after"] = after[name].item()
    return numbers


@pytest.mark.parametrize("case", CASES)
def test_a_step_gives_other_numbers_only_with_another_version(case):
    stored = read_json(COMMITTED / "steps.json")
    assert case in stored, "store its step as tests/golden/README.md says"
    expected = pytest.approx(stored[case], rel=STEP, abs=0)
    remedy = "raise the paper's version or NUMBERS, then store as tests/golden/README.md says"
    assert step_numbers(case) == expected, remedy
    assert stored["NUMBERS"] == train.NUMBERS, remedy
    paper = case.split(" with ")[0]
    assert stored["versions"][paper] == papers.module(paper).PAPER.version, remedy


if __name__ == "__main__":
    versions = {name: module.PAPER.version for name, module in papers.modules().items()}
    steps = {"NUMBERS": train.NUMBERS, "versions": versions}
    stored = read_json(COMMITTED / "steps.json")
    for case in CASES:
        numbers = step_numbers(case)  # other processors differ in the last digits: these stay
        is_same = numbers == pytest.approx(stored.get(case, {}), rel=STEP, abs=0)
        steps[case] = stored[case] if is_same else numbers
    text = json.dumps(steps, indent=1)
    (COMMITTED / "steps.json").write_text(f"{text}\n", encoding="utf-8")
