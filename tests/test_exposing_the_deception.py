"""Exposing the Deception: its losses by hand, its switches, its heads, and the optimal transport."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import batch_of, small
from scipy.optimize import linear_sum_assignment

from dfnb.papers import backbones
from dfnb.papers import exposing_the_deception as etd


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def etd_losses(outputs, batch, **changes):
    """The losses of given outputs under other settings: ``losses`` depends on nothing else."""
    network = small("exposing_the_deception", branches=len(outputs["left_out"]), **changes)
    kept = {name: value for name, value in outputs.items() if name != "balance" or network.balance is not None}
    return network.losses(kept, batch)


@pytest.fixture
def heads():
    """Outputs with heads far enough apart that no comparison is near zero, and a batch."""
    outputs = {"cls": 2 * torch.randn(4, 2), "joint": 2 * torch.randn(4, 2), "left_out": torch.randn(3, 4, 2)}
    return outputs | {"local": torch.zeros(3, 4, 1), "balance": torch.tensor([1.0, 0.25, 4.0])}, batch_of()


def by_hand(outputs, distance):
    """GIL and LIL of a comparison (student, P)."""
    soft = {name: (outputs[name] / 1.5).softmax(-1) for name in ("cls", "joint", "left_out")}
    exponent = sum(distance(student, soft["joint"]) for student in soft["left_out"])
    return distance(soft["cls"], soft["joint"]).item(), torch.exp(-exponent).item()


@pytest.mark.parametrize(
    ("changes", "distance"),
    [
        ({}, lambda s, p: F.kl_div(p.log(), s, reduction="none").mean()),
        ({"kl_reduction": "corrected"}, lambda s, p: F.kl_div(p.log(), s, reduction="batchmean")),
        ({"kl_direction": "corrected"}, lambda s, p: F.kl_div(s.log(), p, reduction="none").mean()),
        ({"estimator": "sinkhorn"}, lambda s, p: etd.sinkhorn(p.log(), s)),
        ({"estimator": "sinkhorn", "sinkhorn_points": "corrected"}, lambda s, p: etd.sinkhorn(p, s)),
        ({"estimator": "sinkhorn", "kl_direction": "corrected"}, lambda s, p: etd.sinkhorn(p.log(), s)),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_the_switches_of_the_estimators(heads, changes, distance):
    outputs, batch = heads
    plain, switched = etd_losses(outputs, batch), etd_losses(outputs, batch, **changes)
    assert (switched["gil"].item(), switched["lil"].item()) == pytest.approx(by_hand(outputs, distance), rel=1e-5)
    assert switched["ce"].item() == plain["ce"].item()
    assert (switched["gil"].item() != plain["gil"].item()) == bool(changes)


@pytest.mark.parametrize("kinds", [(), ("gil",), ("lil",), ("lil", "gil")])
@pytest.mark.parametrize("teacher_loss", ["released", "corrected"])
def test_the_teacher_has_its_own_loss_where_it_should(kinds, teacher_loss):
    network = small("exposing_the_deception", information_losses=kinds, teacher_loss=teacher_loss)
    batch = batch_of()
    outputs = network(batch["image"])
    losses = network.losses(outputs, batch)
    assert losses.keys() == {"ce", "cls", "total", *kinds}
    assert losses["cls"].item() == pytest.approx(F.cross_entropy(outputs["cls"], batch["label"]).item())
    assert not losses["cls"].requires_grad
    taught = teacher_loss == "corrected" or "gil" in kinds
    wanted = [outputs["cls"], *outputs.get("left_out", ()), *([outputs["joint"]] if taught else [])]
    assert len(outputs.get("left_out", ())) == 3 * ("lil" in kinds)
    assert losses["ce"].item() == pytest.approx(sum(F.cross_entropy(w, batch["label"]).item() for w in wanted))
    losses["total"].backward()
    joint = [p.grad is not None for name, p in network.named_parameters() if name.startswith("joint_head")]
    assert joint == ([taught] * 2 if kinds or taught else [])
    assert all(p.grad is not None for name, p in network.named_parameters() if not name.startswith("joint_head"))


def test_released_channels_are_blue_first():
    """Red first goes in; the released network sees the same picture with red and blue exchanged, before the means."""
    scale = {"mean": (0.2, 0.5, 0.6), "std": (0.1, 0.3, 0.5)}
    pixels = torch.rand(2, 3, 96, 96)
    mean, std = (torch.tensor(scale[name]).view(3, 1, 1) for name in ("mean", "std"))
    red_first, blue_first = (pixels - mean) / std, (pixels[:, [2, 1, 0]] - mean) / std
    for order, expected in (("released", blue_first), ("corrected", red_first)):
        network, seen = small("exposing_the_deception", channel_order=order, **scale), []
        network.branches[2].register_forward_pre_hook(lambda branch, inputs, seen=seen: seen.append(inputs[0]))
        network(red_first)
        torch.testing.assert_close(seen[0], expected)


def test_the_weights_of_the_terms(heads):
    outputs, batch = heads
    auto = etd_losses(outputs, batch)
    ce, gil, lil = (auto[name].item() for name in ("ce", "gil", "lil"))
    learned = ce / 2 + np.log(2) + gil / 0.5 + np.log(1.25) + lil / 8 + np.log(5)
    assert auto["total"].item() == pytest.approx(learned, rel=1e-5)
    fixed = etd_losses(outputs, batch, weighting="fixed", weights=(0.5, 3.0, 7.0))
    assert fixed["total"].item() == pytest.approx(0.5 * ce + 3 * gil + 7 * lil, rel=1e-5)
    assert [fixed[name].item() for name in ("ce", "gil", "lil")] == [ce, gil, lil]
    alone = etd_losses(outputs, batch, weighting="fixed", weights=(0.5, 3.0, 7.0), information_losses=("lil",))
    assert alone["total"].item() == pytest.approx(0.5 * ce + 7 * lil, rel=1e-5)  # LIL keeps its weight


def test_one_branch_has_no_left_out_heads():
    network = small("exposing_the_deception", branches=1, information_losses=("gil",))
    assert "left_out" not in network(torch.randn(2, 3, 96, 96))
    assert network.maps() == {"branch 1": "branches.0", "union": ("branch 1",)}


def test_sinkhorn_is_the_optimal_assignment_of_points_far_apart():
    """Spaced 1 apart and moved by a tenth of that, so that entropy at ε = 0.01 blurs nothing; 1e-4 is left for the 1e-6."""
    for _ in range(2):
        x = torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0))
        y = x[torch.randperm(6)] + 0.1 * torch.randn(6, 2)
        cost = torch.cdist(x, y).square()
        rows, columns = linear_sum_assignment(cost.numpy())
        wanted = cost[rows, columns].mean().item()
        assert cost.diagonal().mean() > 2 * wanted
        assert etd.sinkhorn(x, y).item() == pytest.approx(wanted, rel=1e-4)
        assert etd.sinkhorn(x, x[torch.randperm(6)]).item() < 1e-6


@pytest.mark.parametrize("direction", ["released", "corrected"])
@pytest.mark.parametrize("estimator", ["kl", "sinkhorn"])
def test_certainty_gives_no_nan(estimator, direction):
    network = small("exposing_the_deception", estimator=estimator, kl_direction=direction)
    sure = torch.tensor([[400.0, 0.0], [0.0, 400.0]], requires_grad=True)
    outputs = {"cls": sure, "joint": sure.detach(), "left_out": torch.stack([sure, -sure, sure])}
    losses = network.losses(outputs | {"balance": network.balance.square()}, batch_of(2))
    losses["total"].backward()
    assert all(torch.isfinite(value) for value in losses.values()) and torch.isfinite(sure.grad).all()


def test_recomputed_branches_give_the_same_gradients_and_update_their_statistics_once(monkeypatch):
    images, found = torch.randn(4, 3, 96, 96), []
    for short in (False, True):
        torch.manual_seed(0)
        network = small("exposing_the_deception", dropout=0.0).train()
        monkeypatch.setattr(network, "_short_of_memory", lambda images, short=short: short)
        outputs = network(images)
        (outputs["cls"].square().sum() + outputs["left_out"].square().sum()).backward()
        found.append(
            {name: value.grad for name, value in network.branches.named_parameters() if value.grad is not None}
        )
        found[-1] |= dict(network.branches.named_buffers())
    assert len(found[0]) == len(found[1]) > 30
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    counted = [value.item() for name, value in found[1].items() if name.endswith("num_batches_tracked")]
    assert set(counted) == {1} and {
        norm.momentum for norm in network.branches.modules() if hasattr(norm, "momentum")
    } == {0.1}


def test_what_a_branch_keeps_is_what_is_reckoned_with():
    branch, kept = backbones.create("resnet34", False, num_classes=0).train(), []
    weights = {value.untyped_storage().data_ptr() for value in branch.parameters()}

    def pack(saved):
        kept.append(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        branch(torch.randn(2, 3, 224, 224))
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in kept}
    found = sum(size for place, size in stored.items() if place not in weights)
    assert pytest.approx(found / (2 * 224 * 224), rel=0.01) == etd.KEPT


@pytest.mark.parametrize(("gib", "short"), [(24, True), (40, True), (80, False), (141, False)])
def test_the_published_training_recomputes_on_small_gpus(monkeypatch, gib, short):
    class Images:
        is_cuda, shape, device = True, torch.Size((256, 3, 224, 224)), "cuda"

    class Device:
        total_memory = gib * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Device)
    network = small("exposing_the_deception", branches=4)
    assert network.train()._short_of_memory(Images) == short and not network.eval()._short_of_memory(Images)
    assert not network.train()._short_of_memory(torch.empty(256, 3, 224, 224, device="meta"))
