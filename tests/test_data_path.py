"""What feeds the networks whose codes were released, beside the lists of these codes.

Pixels are not compared: the packages differ. docs/methods.md has what this changes.
"""

import math

import pytest
import torch
import toy
from networks import small
from torchvision.transforms import v2

from dfnb.data.loading import EpochSampler
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import locate_and_verify as lv
from dfnb.papers import released, xception
from dfnb.papers.contract import IGNORED, Batch, cross_entropy

HUE = ("hue_saturation_value", 40, 30 / 255, 20 / 255)  # degrees; shares of the range
COLOURS = {("brightness_contrast", 0.2, 0.2), ("pca_lighting",), HUE}
NOISE = ("noise", 20)  # of the variance, around 30
FLIPS = {("left and right", 1), ("top and bottom", 1), ("turn", 180)}
TURNS = {("turn", angle) for angle in (0, 90, 180, 270)}
# In the order of the released codes: the probability and the step with its limits; of several a
# set, with their shares where these differ.
RELEASED = {
    lv: [
        (0.5, FLIPS),
        (0.5, TURNS),
        (0.4, ("crop", 299, (0.3, 1), (1, 1))),
        (0.5, ("affine", [-45, 45], (1 / 16, 1 / 16), (0.8, 1.2), "bilinear", 0)),
        (0.1, ("grey", 3)),
        (0.3, ("jpeg", 60, 100)),
        (0.05, ("blur", (3, 3))),
        (0.1, NOISE),
        (0.5, COLOURS),
    ],
    etd: [
        (0.5, ("jpeg", 60, 100)),
        (0.1, NOISE),
        (0.05, ("blur", (3, 3))),
        (0.5, ("left and right", 1)),
        (0.7, COLOURS),
        (0.2, ("grey_of_blue_first",)),
        (0.5, ("affine", [-10, 10], (0.1, 0.1), (0.8, 1.2), "bilinear", 0)),
    ],
    xception: [  # of DeepfakeBench
        (0.5, ("left and right", 1)),
        (0.5, {(0.2, ("blur", (3, 3))), (0.4, ("blur", (5, 5))), (0.4, ("blur", (7, 7)))}),
        (0.5, {("brightness_contrast", 0.1, 0.1), ("pca_lighting",), HUE}),
        (0.5, ("jpeg", 40, 100)),
    ],
}


@pytest.fixture
def drawn(monkeypatch):
    """The limits of the numbers that changes of colour draw, in the order of the draws."""
    limits = []

    def uniform(limit):
        limits.append(limit)
        return 0.0

    def quality(low, high, size):
        limits.extend([low, high - 1])
        return torch.tensor(low)

    monkeypatch.setattr(released, "_uniform", uniform)
    monkeypatch.setattr(released.torch, "randint", quality)
    return limits


def described(step, drawn):
    """A step of an augmentation: its name and its limits; of a choice the set of its steps."""
    match step:
        case v2.RandomChoice():
            steps = [described(each, drawn) for each in step.transforms]
            if len({*step.p}) > 1:  # not equally probable
                steps = [*zip(step.p, steps, strict=True)]
            assert len({*steps}) == len(steps)
            return {*steps}
        case v2.RandomHorizontalFlip():
            return "left and right", step.p
        case v2.RandomVerticalFlip():
            return "top and bottom", step.p
        case v2.RandomRotation():
            low, high = step.degrees
            assert low == high
            return "turn", low
        case v2.RandomResizedCrop():
            assert step.size == (step.size[0],) * 2
            return "crop", step.size[0], tuple(step.scale), tuple(step.ratio)
        case v2.RandomAffine():
            assert step.shear is None
            mode = step.interpolation.value
            return "affine", step.degrees, step.translate, step.scale, mode, step.fill
        case v2.Grayscale():
            return "grey", step.num_output_channels
        case v2.GaussianBlur():
            sigma = (
                0.3 * ((step.kernel_size[0] - 1) / 2 - 1) + 0.8
            )  # OpenCV's, where none is stated
            assert step.sigma == pytest.approx([sigma] * 2)
            return "blur", step.kernel_size
    (change,) = step.lambd.args
    drawn.clear()
    change(torch.full((3, 8, 8), 100.0))
    function = getattr(change, "func", change).__name__
    return ("jpeg" if function == "_compressed" else function, *drawn)


@pytest.mark.parametrize("paper", RELEASED)
def test_augmentations_have_the_order_the_probabilities_and_the_limits_of_the_released_codes(
    paper, drawn
):
    steps = []
    for step in paper.Settings().released_transform().transforms:
        (inner,) = step.transforms
        steps.append((step.p, described(inner, drawn)))
    assert steps == RELEASED[paper]


@pytest.mark.parametrize(("paper", "mixing"), [(lv, (0.5, 1.0)), (etd, (1.0, 0.5))])
def test_an_epoch_shows_what_the_released_lists_have_but_for_an_incomplete_batch(
    tmp_path, paper, mixing
):
    table = toy.table(tmp_path)  # 6 real frames and 12 fakes
    settings = paper.Settings(batch_size=8)
    listed = sorted([*range(6)] * 4 + [*range(6, 18)])
    is_real = (table["label"] == 0).to_numpy()
    assert is_real.nonzero()[0].tolist() == [*range(6)]
    sampler = EpochSampler(table, settings, seed=3)
    orders = []
    for sampler.epoch in range(3):
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [8, 8, 8, 8]  # 36 are listed
        orders.append([row for batch in batches for *_, row in batch])
        left_out = listed.copy()
        for row in orders[-1]:
            left_out.remove(row)  # raises where one is shown more often than it is listed
        assert len(left_out) == 4
    assert orders[0] != orders[1] != orders[2]  # shuffled in each epoch
    assert (settings.mixup_probability, settings.mixup_alpha) == mixing


def rates(paper, network, steps, epochs):
    """The learning rate of each batch, in lists by epoch, as :class:`Trainer` makes them."""
    settings = paper.Settings()
    found = []
    for epoch in range(epochs):
        if epoch == 0 or settings.optimiser_restarts == "released":
            (optimiser,), schedule = settings.optimisation(network, steps)
        found.append([])
        for _ in range(steps):
            found[-1].append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
    return found


def test_the_rate_of_locate_and_verify_is_halved_every_fifth_epoch():
    found = rates(lv, small("locate_and_verify"), steps=3, epochs=12)
    halvings = [0] * 5 + [1] * 5 + [2] * 2
    assert found == [[5e-4 / 2**n] * 3 for n in halvings]


def test_the_rate_of_exposing_the_deception_swings_and_starts_again_with_each_epoch():
    found = rates(etd, small("exposing_the_deception"), steps=310, epochs=2)
    swing = [1e-3 * (1 + math.cos(math.pi * step / 150)) / 2 for step in range(310)]
    for epoch in found:
        assert epoch == pytest.approx(swing, abs=1e-12)


def test_one_cycle_is_highest_after_three_tenths_of_the_steps():
    settings = xception.Settings(schedule="onecycle", lr=0.1, epochs=2)
    (optimiser,), schedule = settings.optimisation(small("xception"), 50)
    found = []
    for _ in range(100):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert max(found) == found[29] == pytest.approx(0.1)
    assert found[0] == pytest.approx(0.1 / 25) and found[-1] < 1e-6  # as fastai's


def test_sgd_keeps_nine_tenths_of_its_step():
    settings = xception.Settings(optimiser="sgd", lr=0.1, weight_decay=0, schedule="constant")
    network = torch.nn.Linear(1, 1, bias=False)
    network.parameter_groups = lambda decay: [{"params": network.parameters()}]
    (optimiser,), _ = settings.optimisation(network, 10)
    before = network.weight.item()
    moved = []
    for _ in range(3):
        optimiser.zero_grad()
        network.weight.sum().backward()  # a gradient of 1
        optimiser.step()
        moved.append(before - network.weight.item())
    assert moved == pytest.approx([0.1, 0.1 * (1 + 1.9), 0.1 * (1 + 1.9 + 2.71)], rel=1e-5)


def test_an_ignored_target_does_not_count_in_the_mean():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 5.0]])
    target = torch.tensor([0, IGNORED, 1])
    batch = Batch(partner=None, weight=1.0)
    of_two = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-2))) / 2
    assert cross_entropy(logits, target, batch).item() == pytest.approx(of_two)


def test_weights_decay_as_in_the_released_codes():
    for paper, name, decay in (
        (lv, "locate_and_verify", 1e-5),
        (etd, "exposing_the_deception", 1e-6),
    ):
        network = small(name)
        (optimiser,), _ = paper.Settings().optimisation(network, 10)
        decays = {}
        for group in optimiser.param_groups:
            # AdamW, which decays otherwise, is a subclass.
            assert type(optimiser) is torch.optim.Adam and group["betas"] == (0.9, 0.999)
            decays |= {id(weight): group["weight_decay"] for weight in group["params"]}
        for weight in network.parameters():
            assert decays[id(weight)] == (0 if paper is lv and weight.ndim == 1 else decay)
