"""What all papers share: finite losses that reach every weight, a score that rises toward fake, mixing, published values."""

import pytest
import torch
import torch.nn.functional as F
from networks import batch_of, small
from torchvision import tv_tensors

from dfnb import papers
from dfnb.core import DfnbError
from dfnb.papers import released

RELEASED = [name for name in papers.names() if papers.module(name).Settings().augmentation == "released"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("paper", papers.names())
def test_losses_reach_every_weight(paper):
    # With learned weights the total is no plain sum: test_the_weights_of_the_terms has their formula.
    ones = dict.fromkeys(("pixel_weight", "adversarial_weight", "attention_weight"), 1.0)
    plain = {"exposing_the_deception": {"weighting": "fixed", "weights": (1.0, 1.0, 1.0)}, "lae": ones}.get(paper, {})
    network, batch = small(paper, **plain), batch_of()
    with torch.no_grad():
        for p in network.parameters():  # what starts at zero (gamma, biases) would hide a broken path
            p.add_(0.1 * torch.randn_like(p))
    assert network.weights_from == "random weights"
    outputs = network(batch["image"])
    losses = network.losses(outputs, batch)
    assert all(torch.isfinite(value) and value.ndim == 0 for value in losses.values())
    terms = sum(value for name, value in losses.items() if name not in ("total", "adversary") and value.requires_grad)
    assert losses["total"].item() == pytest.approx(terms.item())
    (losses["total"] + losses.get("adversary", 0)).backward()
    moved = {name: p.grad is not None and p.grad.any() for name, p in network.named_parameters()}
    without = [name for name in moved if not moved[name] and not name.endswith("key.bias")]  # softmax feels no constant
    assert not without
    score = network.score(outputs)
    assert score.shape == (4,) and score.min() >= 0 and score.max() <= 1
    assert network.score(outputs | {"cls": torch.tensor([[2.0, -2.0], [-2.0, 2.0]])}).round().tolist() == [0, 1]


@pytest.mark.parametrize("paper", papers.names())
def test_maps_name_layers_and_other_maps(paper):
    network = small(paper).eval()
    maps = network.maps()
    for target in maps.values():
        if target == "localise":
            place = network.localise(network(torch.randn(2, 3, 96, 96)))
            assert place.shape[0] == 2 and place.ndim == 3 and place.min() >= 0 and place.max() <= 1
        elif isinstance(target, tuple):
            assert set(target) < set(maps)
        else:
            network.get_submodule(target)


@pytest.mark.parametrize("paper", [paper for paper in papers.names() if paper != "lae"])  # which refuses mixup
def test_a_mixed_batch_has_the_mixture_of_the_losses(paper):
    network, batch = small(paper).eval(), batch_of()
    partner = torch.tensor([1, 0, 3, 0])
    with torch.no_grad():
        outputs = network(batch["image"])
        other = batch | {name: batch[name][partner] for name in ("label", "mask", "has_mask")}
        plain, theirs = network.losses(outputs, batch), network.losses(outputs, other)
        mixed = network.losses(outputs, batch | {"partner": partner, "weight": 0.3})
    assert abs(plain["total"] - theirs["total"]) > 1e-6  # terms that see no label are their own mixture
    for name, value in mixed.items():
        assert value.item() == pytest.approx(0.3 * plain[name].item() + 0.7 * theirs[name].item(), rel=1e-5)


def test_cross_entropy_leaves_out_what_is_ignored():
    logits, batch = torch.randn(3, 2, 4, 4), batch_of(3)
    target = torch.randint(2, (3, 4, 4))
    target[1] = papers.IGNORED
    known = papers.cross_entropy(logits, target, batch)
    assert known.item() == pytest.approx(F.cross_entropy(logits[[0, 2]], target[[0, 2]]).item())
    assert papers.cross_entropy(logits, torch.full_like(target, papers.IGNORED), batch).item() == 0


TRAINING = ("lr", "weight_decay", "epochs", "batch_size", "optimiser", "schedule", "mixup_probability", "image_size")
PUBLISHED = {
    "xception": ((2e-4, 5e-4, 10, 32, "adam", "constant", 0.0, 299), {}),
    "locate_and_verify": (
        (5e-4, 1e-5, 30, 16, "adam", "step", 0.5, 299),
        {"step_epochs": 5, "step_factor": 0.5, "mixup_alpha": 1.0, "annotated": 1.0, "sspsl": False}
        | {"modules": ("second_stream", "srm", "cmce", "lfga", "mpff")},
    ),
    "exposing_the_deception": (
        (1e-3, 1e-6, 20, 256, "adam", "cosine", 1.0, 224),
        {"cosine_steps": 150, "optimiser_restarts": "released", "mixup_alpha": 0.5, "backbone": "resnet34.tv_in1k"}
        | {"branches": 4, "fusion_widths": (1000, 500, 512), "temperature": 1.5, "weighting": "auto"}
        | {"weights": (1, 2, 10), "estimator": "kl", "dropout": 0.5, "oversampling": 4},
    ),
}


@pytest.mark.parametrize("paper", PUBLISHED)
def test_published_settings(paper):
    settings = papers.module(paper).Settings()
    training, others = PUBLISHED[paper]
    assert tuple(getattr(settings, name) for name in TRAINING) == training
    assert {name: getattr(settings, name) for name in others} == others
    assert settings.augmentation == "released"


@pytest.mark.parametrize(
    ("paper", "values", "message"),
    [
        ("locate_and_verify", {"modules": ["srm", "mpff"]}, "srm, cmce and lfga need the second_stream"),
        ("locate_and_verify", {"sspsl": True}, "set mixup_probability = 0"),
        ("locate_and_verify", {"annotated": 1.1}, "annotated = 1.1"),
        ("exposing_the_deception", {"branches": 1}, "raise branches or drop lil"),
        ("exposing_the_deception", {"information_losses": ["mil"]}, "information_losses.0 = 'mil'"),
        ("exposing_the_deception", {"information_losses": ["lil", "lil"]}, "information_losses names a term twice"),
    ],
)
def test_settings_without_a_meaning_are_refused_in_one_sentence(paper, values, message):
    with pytest.raises(DfnbError) as error:
        papers.module(paper).Settings.check(values, "profile.yaml")
    assert str(error.value).startswith("profile.yaml: ") and message in str(error.value)
    assert "\n" not in str(error.value) and "Value error" not in str(error.value)


@pytest.mark.parametrize(("paper", "exempt"), [("xception", False), ("locate_and_verify", True)])
def test_weight_decay_spares_norms_only_where_released(paper, exempt):
    groups = small(paper).parameter_groups(0.1)
    decayed = [p for group in groups for p in group["params"] if group["weight_decay"]]
    assert sum(len(group["params"]) for group in groups) == len(list(small(paper).parameters()))
    assert all(p.ndim > 1 for p in decayed) == exempt


# Released augmentations


def face(size=96):
    """A picture with one bright spot, a mask over it and a landmark on it."""
    pixels, mask = torch.full((3, size, size), 40, dtype=torch.uint8), torch.zeros(1, size, size, dtype=torch.uint8)
    pixels[:, 30:37, 56:63], mask[:, 30:37, 56:63] = 250, 1
    points = tv_tensors.KeyPoints(torch.tensor([[59.0, 33.0], [torch.nan, torch.nan]]), canvas_size=(size, size))
    return tv_tensors.Image(pixels), tv_tensors.Mask(mask), points


@pytest.mark.parametrize("paper", RELEASED)
def test_released_augmentations_move_image_mask_and_landmarks_together(paper):
    transform = papers.module(paper).Settings(image_size=96).transform()
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, mask, points = transform(*face())
        torch.manual_seed(seed)
        assert all(torch.equal(*pair) for pair in zip(transform(*face())[:2], (image, mask)))
        assert image.shape == (3, 96, 96) and image.dtype == torch.uint8 and set(mask.unique().tolist()) <= {0, 1}
        assert points.isnan().any(1).tolist() == [False, True]
        x, y = points[0].tolist()
        if min(x, y) > 8 and max(x, y) < 88:
            rows, columns = mask[0].nonzero().float().T
            assert abs(rows.mean() - y) < 2 and abs(columns.mean() - x) < 2
            grey = image.float().mean(0)
            assert grey[mask[0] == 1].mean() > grey[mask[0] == 0].mean() + 60
        seen.add(image.float().mean().item())
    assert len(seen) > 30


def test_what_leaves_the_image_is_black():
    torch.manual_seed(1)
    image = tv_tensors.Image(torch.full((3, 64, 64), 200, dtype=torch.uint8))
    image = released.affine(degrees=45, shift=0.1)(image)
    assert image[:, 32, 32].tolist() == [200] * 3 and min(image[0, r, c] for r in (0, 63) for c in (0, 63)) == 0


def test_changes_of_colour_are_additive(monkeypatch):
    monkeypatch.setattr(released, "_uniform", lambda limit: limit)
    pixels = torch.tensor([100.0, 50, 50]).view(3, 1, 1).expand(3, 2, 2)
    changed = released.brightness_contrast(pixels, 0.2)
    torch.testing.assert_close(changed, 1.2 * pixels + 51)
    red, green, blue = released.hue_saturation_value(pixels)[:, 0, 0].tolist()
    # value 100 + 20; saturation (0.5 · 255 + 30) of 255; hue from 0° to 40°: blue stays lowest, green lies between
    assert red == pytest.approx(120, abs=0.5) and blue == pytest.approx(120 * (1 - (127.5 + 30) / 255), abs=0.5)
    assert (green - blue) / (red - blue) == pytest.approx(40 / 60, abs=0.01)
    noisy = released.noise(torch.zeros(3, 200, 200))
    assert noisy.var().item() == pytest.approx(50, rel=0.03)


def test_pca_lighting_shifts_along_the_axis_of_the_colours():
    line = torch.linspace(0, 255, 400).view(1, 20, 20) * torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1)
    shift = (released.pca_lighting(line) - line)[:, 0, 0]
    assert shift[0].abs() > 0.01 and shift[1] / shift[0] == pytest.approx(0.5, abs=1e-3) and abs(shift[2]) < 1e-3
