"""Exposing the Deception: its losses by hand, its switches, its heads, and optimal transport."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from networks import batch_of, recipe, small

from dfnb.data.loading import as_batch, pictures
from dfnb.papers import exposing_the_deception as etd


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def outputs():
    """Heads far enough apart that no comparison is near zero."""
    return {
        "cls": 2 * torch.randn(4, 2),
        "joint": 2 * torch.randn(4, 2),
        "left_out": torch.randn(3, 4, 2),
        "balance": torch.tensor([1.0, 0.25, 4.0]),
    }


def losses_of(outputs, **changes):
    """The losses of outputs under some settings, as numbers."""
    losses = small("exposing_the_deception", **changes).losses(outputs, batch_of())
    return {name: value.item() for name, value in losses.items()}


# ---------------------------------------------------------------- losses


def test_cross_entropy_on_the_output_alone_leaves_the_other_heads_as_they_are():
    network = small("exposing_the_deception", cross_entropy="figure")
    batch = batch_of()
    losses = network.losses(network(batch["image"]), batch)
    assert losses["ce"] == losses["cls"]
    losses["ce"].backward()
    heads = [*network.joint_head.parameters(), *network.left_out_heads.parameters()]
    assert all(weight.grad is None for weight in heads)
    assert network.branches[0].features[0].conv.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "distance"),
    [
        ({"kl_reduction": "corrected"}, lambda s, p: F.kl_div(p.log(), s, reduction="batchmean")),
        ({"kl_direction": "corrected"}, lambda s, p: F.kl_div(s.log(), p, reduction="none").mean()),
        (
            {"estimator": "sinkhorn", "sinkhorn_points": "corrected"},
            lambda s, p: etd.sinkhorn(p, s),
        ),
    ],
    ids=["reduction", "direction", "sinkhorn points"],
)
def test_gil_and_lil_compare_the_heads_with_the_teacher(outputs, changes, distance):
    losses = losses_of(outputs, **changes)
    cls, teacher = [(outputs[name] / 1.5).softmax(1) for name in ("cls", "joint")]
    left_out = (outputs["left_out"] / 1.5).softmax(2)
    assert losses["gil"] == pytest.approx(distance(cls, teacher).item(), rel=1e-5)
    exponent = sum(distance(student, teacher) for student in left_out)
    assert losses["lil"] == pytest.approx(torch.exp(-exponent).item(), rel=1e-5)


@pytest.mark.parametrize("kinds", [(), ("gil",), ("lil",), ("lil", "gil")])
@pytest.mark.parametrize("teacher_loss", ["released", "corrected"])
def test_the_teacher_has_its_own_loss_where_it_should(kinds, teacher_loss):
    network = small("exposing_the_deception", information_losses=kinds, teacher_loss=teacher_loss)
    batch = batch_of()
    outputs = network(batch["image"])
    losses = network.losses(outputs, batch)
    assert losses.keys() == {"ce", "cls", "total", *kinds}
    is_taught = teacher_loss == "corrected" or "gil" in kinds
    heads = [outputs["cls"], *outputs.get("left_out", ())]
    if is_taught:
        heads.append(outputs["joint"])
    assert len(heads) == 1 + 3 * ("lil" in kinds) + is_taught
    expected = sum(F.cross_entropy(logits, batch["label"]) for logits in heads)
    torch.testing.assert_close(losses["ce"], expected)
    losses["total"].backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (name.startswith("joint_head") and not is_taught)


def test_two_predictions_are_compared_without_a_network():
    sure = etd.probabilities(torch.tensor([[0.0, 3.0]]), temperature=3 / np.log(3))  # 1/4, 3/4
    torch.testing.assert_close(sure, torch.tensor([[0.25, 0.75]]))
    unsure = torch.tensor([[0.5, 0.5]])
    of_unsure = -0.5 * np.log(0.75)  # KL(unsure ‖ sure) = .5 log(.5 / .25) + .5 log(.5 / .75)
    of_sure = 0.75 * np.log(3) - np.log(2)  # KL(sure ‖ unsure)
    assert etd.distance(unsure, sure).item() == pytest.approx(of_unsure / 2, rel=1e-5)
    corrected = etd.distance(unsure, sure, kl_reduction="corrected", kl_direction="corrected")
    assert corrected.item() == pytest.approx(of_sure, rel=1e-5)
    moved = etd.distance(unsure, sure, estimator="sinkhorn", sinkhorn_points="corrected")
    assert moved.item() == pytest.approx(0.125, rel=1e-3)  # of both probabilities by .25


def transport_by_hand(x, y, epsilon=0.01, tolerance=0.1, iterations=100):
    """Sinkhorn's iterations for points of equal weight: the potentials in turn, then the cost."""
    cost = ((x[:, None] - y[None]) ** 2).sum(2)
    u, v = np.zeros(len(x)), np.zeros(len(x))
    for _ in range(iterations):
        before = u
        plan = np.exp((u[:, None] + v[None] - cost) / epsilon)
        u = u - epsilon * np.log(len(x) * (plan.sum(1) + 1e-6))
        plan = np.exp((u[:, None] + v[None] - cost) / epsilon)
        v = v - epsilon * np.log(len(x) * (plan.sum(0) + 1e-6))
        if np.abs(u - before).sum() < tolerance:
            break
    return (np.exp((u[:, None] + v[None] - cost) / epsilon) * cost).sum()


@pytest.mark.parametrize("spread", [0.05, 0.4, 3.0])
def test_the_transport_is_that_of_sinkhorn_s_iterations(spread):
    x, y = spread * torch.randn(2, 6, 2, dtype=torch.float64)
    expected = transport_by_hand(x.numpy(), y.numpy())
    assert etd.sinkhorn(x, y).item() == pytest.approx(expected, rel=1e-9)


def test_a_term_keeps_its_fixed_weight_without_the_others(outputs):
    outputs.pop("balance")
    weights = (0.5, 3.0, 7.0)  # of CE, GIL and LIL
    losses = losses_of(outputs, information_losses=("lil",), weighting="fixed", weights=weights)
    expected = 0.5 * losses["ce"] + 7 * losses["lil"]
    assert losses["total"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("direction", ["released", "corrected"])
@pytest.mark.parametrize("estimator", ["kl", "sinkhorn"])
def test_certainty_gives_no_nan(estimator, direction):
    network = small("exposing_the_deception", estimator=estimator, kl_direction=direction)
    sure = torch.tensor([[400.0, 0.0], [0.0, 400.0]], requires_grad=True)
    left_out = torch.stack([sure, -sure, sure])
    outputs = {"cls": sure, "joint": sure.detach(), "left_out": left_out, "balance": torch.ones(3)}
    losses = network.losses(outputs, batch_of(2))
    losses["total"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(sure.grad).all()


def test_learned_weights_begin_at_one_and_fall_with_the_square():
    network = small("exposing_the_deception")
    balance = network(batch_of()["image"])["balance"]
    assert network.balance.tolist() == balance.tolist() == [1, 1, 1]
    with torch.no_grad():
        network.balance.copy_(torch.tensor([1.0, -2.0, 0.5]))
    s_squared = network(batch_of()["image"])["balance"]
    terms = {"ce": torch.tensor(3.0), "gil": torch.tensor(0.8), "lil": torch.tensor(0.5)}
    expected = 3 / 2 + 0.8 / 8 + 0.5 / 0.5 + np.log(2) + np.log(5) + np.log(1.25)
    assert network.weighted_sum(terms, s_squared).item() == pytest.approx(expected)


@pytest.mark.parametrize("estimator", ["kl", "sinkhorn"])
def test_no_gradient_passes_through_the_teacher(outputs, estimator):
    network = small("exposing_the_deception", cross_entropy="figure", estimator=estimator)
    for logits in outputs.values():
        logits.requires_grad_()
    network.losses(outputs, batch_of())["total"].backward()
    assert outputs["joint"].grad is None
    assert outputs["cls"].grad.any() and outputs["left_out"].grad.any()


# ---------------------------------------------------------------- the network


def test_dropout_stands_behind_two_layers_of_the_fusion_and_before_the_class():
    fusion = etd.fusion(5, (8, 6, 4), dropout=0.5)
    z = torch.randn(16, 5)
    torch.manual_seed(1)
    found = fusion(z)
    first, first_norm, second, second_norm, last = [
        layer for layer in fusion if [*layer.parameters()]
    ]
    torch.manual_seed(1)
    g = F.dropout(F.relu(first_norm(first(z))), 0.5)
    g = F.dropout(F.relu(second_norm(second(g))), 0.5)
    torch.testing.assert_close(found, last(g))
    network = small("exposing_the_deception", dropout=0.25)
    _, layer = network.cls_head
    features = torch.randn(4, layer.in_features)
    torch.manual_seed(1)
    found = network.cls_head(features)
    torch.manual_seed(1)
    torch.testing.assert_close(found, layer(F.dropout(features, 0.25)))
    shares = [part.p for part in network.modules() if isinstance(part, torch.nn.Dropout)]
    assert shares == [0.25] * 3


def test_heads_see_the_local_representations_that_their_names_say():
    network = small("exposing_the_deception").eval()
    outputs = network(batch_of()["image"])
    a, b, c = outputs["local"]
    joint, heads = network.joint_head, network.left_out_heads
    torch.testing.assert_close(outputs["joint"], joint(torch.cat([a, b, c], 1)))
    for i, others in enumerate(([b, c], [a, c], [a, b])):
        torch.testing.assert_close(outputs["left_out"][i], heads[i](torch.cat(others, 1)))
    for name in ("joint", "left_out", "cls"):  # each trains the branches
        weight = network.branches[2].features[0].conv.weight
        gradient = torch.autograd.grad(outputs[name].sum(), weight, retain_graph=True)[0]
        assert gradient.any(), name


def test_grey_weighs_red_and_blue_as_if_they_were_exchanged():
    colours = 200 * torch.eye(3)[:, :, None]  # a pixel each of red, green and blue
    grey = etd.grey_of_blue_first(colours)
    torch.testing.assert_close(grey[0, :, 0], 200 * torch.tensor([0.114, 0.587, 0.299]))
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])


def test_released_channels_are_blue_first():
    """The released network sees red and blue exchanged, normalised as if red were first."""
    scale = {"mean": (0.2, 0.5, 0.6), "std": (0.1, 0.3, 0.5)}
    mean, std = [torch.tensor(values).view(3, 1, 1) for values in scale.values()]
    pixels = torch.rand(2, 3, 96, 96)
    red_first = (pixels - mean) / std
    blue_first = (pixels.flip(1) - mean) / std
    for order, expected in (("released", blue_first), ("corrected", red_first)):
        network = small("exposing_the_deception", channel_order=order, **scale).eval()
        features = network(red_first)["local"][2]
        torch.testing.assert_close(features, network.branches[2](expected), rtol=1e-3, atol=1e-4)


def test_heads_fit_a_backbone_that_widens_its_pooled_features():
    network = small("exposing_the_deception", backbone="mobilenetv3_small_050").eval()
    outputs = network(batch_of(2)["image"])
    assert network.branches[0].num_features == 288
    assert outputs["local"].shape == (3, 2, 1024) and outputs["cls"].shape == (2, 2)


def test_branches_of_a_transformer_are_built_for_the_size_of_the_images():
    network = small("exposing_the_deception", backbone="vit_tiny_patch16_224", branches=2)
    assert network.eval()(torch.randn(1, 3, 96, 96))["cls"].shape == (1, 2)


def test_smaller_images_are_not_smoothed_as_released(tmp_path):
    table = toy.table(tmp_path).head(3)
    for paper in ("exposing_the_deception", "xception"):
        settings = recipe(paper, image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        shown = torch.tensor(pictures(as_batch(table, settings), settings)).permute(0, 3, 1, 2)
        crops, _ = toy.pixels("a", "real", 3)
        crops = torch.tensor(crops).permute(0, 3, 1, 2).float()
        smoothed = paper == "xception"
        expected = F.interpolate(crops, (32, 32), mode="bilinear", antialias=smoothed)
        assert (shown - expected).abs().max() <= 1  # grey levels, rounded


# ---------------------------------------------------------------- how much branches differ


def test_branches_are_compared_by_their_maps_and_features():
    network = small("exposing_the_deception").eval()
    maps = np.random.default_rng(0).random((3, 4, 8, 8))
    comparison = network.compare(maps, torch.randn(4, 3, 96, 96))
    overlaps = [etd.overlap(maps[i], maps[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(comparison["apart"], 1 - np.mean(overlaps, axis=0))
    assert 0 < comparison["CKA"] <= 1


def test_overlap_is_the_shared_part_of_two_maps():
    a, b = np.zeros((2, 2, 48, 48))
    a[:, :24, :24] = 1
    b[0, :24, 12:36] = 1
    np.testing.assert_array_equal(etd.overlap(a, b), [12 / 36, np.nan])


def test_branches_that_are_the_same_have_likeness_one():
    class Branches(torch.nn.Module):
        def forward(self, images):
            first = images.flatten(1)
            rotation = torch.linalg.qr(torch.ones(12, 12).triu())[0]
            rotated = 3 * first @ rotation + 1
            return {"local": torch.stack([first, rotated, torch.randn_like(first)])}

    torch.manual_seed(0)
    likeness = etd.branch_likeness(Branches(), torch.randn(40, 3, 2, 2))
    assert likeness.loc["branch 1", "branch 2"] == pytest.approx(1, abs=1e-6)
    assert likeness.loc["branch 1", "branch 3"] < 0.6
