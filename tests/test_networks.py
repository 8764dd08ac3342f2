"""What all papers share: losses that reach every weight, scores, mixing, published settings."""

import numpy as np
import pytest
import torch
from networks import FACE, batch_of, small
from torchvision import tv_tensors

from dfnb import papers
from dfnb.papers import contract, released
from dfnb.training import trainer

PAPERS = list(papers.modules())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("paper", PAPERS)
def test_losses_reach_every_weight(paper):
    network = small(paper)
    with torch.no_grad():
        for parameter in network.parameters():  # a weight that starts at zero hides a broken path
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = batch_of()
    losses = network.losses(network(batch["image"]), batch)
    (losses["total"] + losses.get("adversary", 0)).backward()
    for name, parameter in network.named_parameters():
        if not name.endswith("key.bias"):  # softmax ignores a constant
            is_reached = parameter.grad is not None and parameter.grad.any()
            assert is_reached == (name not in untrained(network)), name


def untrained(network):
    """The weights that the paper says are never trained."""
    parts = tuple(f"{part}." for part in network.untrained)
    return {name for name, _ in network.named_parameters() if f"{name}.".startswith(parts)}


def test_a_released_quirk_that_leaves_weights_untrained_is_declared():
    network = small("locate_and_verify", sspsl=True, mixup_probability=0.0)
    batch = batch_of(has_mask=torch.tensor([True, True, True, False]))
    batch["landmarks"] = (96 * FACE).expand(4, 5, 2)
    network.losses(network(batch["image"]), batch)["total"].backward()
    gradients = {name: value.grad for name, value in network.named_parameters()}
    without = {name for name, value in gradients.items() if value is None}
    assert without == untrained(network) != set()


# Settings with which the total is the plain sum of the terms; test_lae and others have the weights.
PLAIN_SUMS = {
    "exposing_the_deception": {"weighting": "fixed", "weights": (1.0, 1.0, 1.0)},
    "lae": {"pixel_weight": 1.0, "adversarial_weight": 1.0, "attention_weight": 1.0},
    "locate_and_verify": {},
    "xception": {},
}


@pytest.mark.parametrize("paper", PLAIN_SUMS)
def test_the_total_is_the_sum_of_the_terms(paper):
    network = small(paper, **PLAIN_SUMS[paper])
    batch = batch_of()
    losses = network.losses(network(batch["image"]), batch)
    terms = 0
    for name, value in losses.items():
        if name not in ("total", "adversary") and value.requires_grad:
            terms += value.item()
    assert losses["total"].item() == pytest.approx(terms)


@pytest.mark.parametrize("paper", PAPERS)
def test_losses_are_in_float32_where_the_network_is_not(paper):
    losses = trainer.losses_of(small(paper), batch_of(), "bf16-mixed")
    for name, value in losses.items():
        assert value.dtype == torch.float32 and torch.isfinite(value), name


@pytest.mark.parametrize("paper", PAPERS)
def test_scores_are_the_sigmoid_of_log_odds_and_rise_toward_fake(paper):
    network = small(paper).eval()
    outputs = contract.outputs_of(network, torch.randn(4, 3, 96, 96))
    score = network.score(outputs)
    assert score.shape == (4,)
    torch.testing.assert_close(score, outputs["cls"].double().softmax(1)[:, 1])
    sure = {**outputs, "cls": torch.tensor([[30.0, -30.0], [-30.0, 30.0]])}
    assert network.log_odds(sure).tolist() == [-60, 60]  # also where the score is all but 0 or 1


@pytest.mark.parametrize("paper", [paper for paper in PAPERS if paper != "lae"])  # without mixup
def test_a_mixed_batch_has_the_mixture_of_the_losses(paper):
    network = small(paper).eval()
    batch = batch_of()
    partner = torch.tensor([1, 0, 3, 0])
    partners = dict(batch)
    for name in ("label", "mask", "has_mask"):
        partners[name] = batch[name][partner]
    with torch.no_grad():
        outputs = network(batch["image"])
        own = network.losses(outputs, batch)
        other = network.losses(outputs, partners)
        mixed = network.losses(outputs, {**batch, "partner": partner, "weight": 0.3})
    assert abs(own["total"] - other["total"]) > 1e-6
    for name, value in mixed.items():
        mixture = 0.3 * own[name].item() + 0.7 * other[name].item()
        assert value.item() == pytest.approx(mixture, rel=1e-5)


# ---------------------------------------------------------------- settings

NAMES = ("lr", "weight_decay", "epochs", "batch_size", "optimiser", "schedule", "image_size")
PUBLISHED = {
    "xception": (2e-4, 5e-4, 11, 32, "adam", "constant", 256),
    "locate_and_verify": (5e-4, 1e-5, 30, 16, "adam", "step", 299),
    "exposing_the_deception": (1e-3, 1e-6, 20, 256, "adam", "cosine", 224),
}


@pytest.mark.parametrize("paper", PUBLISHED)
def test_published_settings_are_the_defaults(paper):
    settings = papers.module(paper).Settings()
    assert tuple(getattr(settings, name) for name in NAMES) == PUBLISHED[paper]
    assert settings.augmentation == "released"


# ---------------------------------------------------------------- released augmentations


def face(size=96):
    """A picture with one bright spot, a mask over it, and two landmarks: one on it, one unknown."""
    pixels = torch.full((3, size, size), 40, dtype=torch.uint8)
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    pixels[:, 30:37, 56:63] = 250
    mask[:, 30:37, 56:63] = 1
    landmarks = torch.tensor([[59.0, 33.0], [torch.nan, torch.nan]])
    points = tv_tensors.KeyPoints(landmarks, canvas_size=(size, size))
    return tv_tensors.Image(pixels), tv_tensors.Mask(mask), points


@pytest.mark.parametrize("paper", PUBLISHED)
def test_released_augmentations_move_image_mask_and_landmarks_together(paper):
    transform = papers.module(paper).Settings(image_size=96).transform()
    brightness = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, mask, points = transform(*face())
        assert image.shape == (3, 96, 96) and image.dtype == torch.uint8
        assert points.isnan().any(1).tolist() == [False, True]
        x, y = points[0].tolist()
        if min(x, y) > 8 and max(x, y) < 88:
            rows, columns = mask[0].nonzero().float().T
            assert abs(rows.mean() - y) < 2 and abs(columns.mean() - x) < 2
            grey = image.float().mean(0)
            assert grey[mask[0] == 1].mean() > grey[mask[0] == 0].mean() + 60
        brightness.add(image.float().mean().item())
    assert len(brightness) > 30


def test_changes_of_colour_stay_in_their_ranges():
    pixels = torch.tensor([100.0, 50, 50]).view(3, 1, 1).expand(3, 2, 2)
    values = []
    saturations = []
    for seed in range(200):
        torch.manual_seed(seed)
        red, green, blue = released.hue_saturation_value(pixels)[:, 0, 0].tolist()
        lowest = min(green, blue)
        values.append(red)
        saturations.append(255 * (1 - lowest / red))
    assert 79 < min(values) < 82 and 118 < max(values) < 121  # 100 ± 20
    assert 97 < min(saturations) < 100 and 155 < max(saturations) < 158  # 127.5 ± 30
    variances = [released.noise(torch.zeros(3, 99, 99)).var().item() for _ in range(100)]
    assert 9 < min(variances) < 13 and 47 < max(variances) < 52


def test_pca_lighting_adds_the_transposed_axes_times_the_variances():
    """Channel i gets α · v_i · λ, up to the sign of v_i, the i-th axis; α has a deviation of .1."""
    draw = np.random.default_rng(0)
    mixed = draw.normal(size=(400, 3)) @ [[60, 20, 5], [0, 30, 12], [0, 0, 10]]
    pixels = torch.tensor(mixed.T.reshape(3, 20, 20)).float()
    variances, axes = np.linalg.eigh(np.cov(mixed.T / 255))
    expected = np.abs([axes[:, i] @ variances[::-1] for i in (2, 1, 0)])  # the largest comes first
    for seed in range(3):
        torch.manual_seed(seed)
        shift = (released.pca_lighting(pixels) - pixels)[:, 0, 0] / 255
        torch.manual_seed(seed)
        alpha = 0.1 * torch.randn(()).item()
        assert shift.abs().numpy() == pytest.approx(np.abs(alpha) * expected, rel=1e-2)


def test_brightness_and_contrast_stay_in_their_ranges():
    pixels = torch.tensor([0.0, 100.0]).expand(3, 1, 2)
    brightness, contrast = [], []
    for seed in range(200):
        torch.manual_seed(seed)
        low, high = released.brightness_contrast(pixels, 0.2)[0, 0].tolist()
        brightness.append(low)
        contrast.append((high - low) / 100)
    assert -51 <= min(brightness) < -50 and 50 < max(brightness) <= 51  # a fifth of 255
    assert 0.8 <= min(contrast) < 0.81 and 1.19 < max(contrast) <= 1.2


def test_changed_pixels_are_rounded():
    image = tv_tensors.Image(torch.full((3, 1, 2), 100, dtype=torch.uint8))
    changed = released.of_pixels(lambda pixels: pixels + torch.tensor([0.6, 200.0]))(image)
    assert changed[0].tolist() == [[101, 255]]


def test_hues_go_round():
    red = torch.tensor([200.0, 10, 10]).view(3, 1, 1)
    directions = set()
    for seed in range(40):
        torch.manual_seed(seed)
        _, green, blue = released.hue_saturation_value(red)[:, 0, 0].tolist()
        directions.add(np.sign(green - blue))  # toward yellow, or below zero toward magenta
    assert {-1, 1} <= directions
