"""LAE: its attention, its loss terms, its two phases, and which masks it may read."""

import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import batch_of, recipe
from sklearn.cluster import KMeans
from steps import few_steps
from torch import nn

from dfnb import device
from dfnb.data.loading import EpochSampler, FrameDataset, as_batch, loader, prepared
from dfnb.papers import backbones, contract, lae
from dfnb.training import train
from facesets.checks import DfnbError
from facesets.frames import keep_masks, load_frames, masked_positions, select
from facesets.seeds import torch_seed

SHORT = {
    "batch_size": 16,
    "epochs": 1,
    "representation_epochs": 1,
    "images_per_epoch": 32,
    "annotated": 0.1,
    "clusters": 4,
}


def settings(**changes):
    return recipe("lae", **{**SHORT, **changes})


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def standardised(pixels):
    mean, std = [torch.tensor(values).view(3, 1, 1) for values in IMAGENET.values()]
    return (pixels - mean) / std


def network(**changes):
    torch.manual_seed(0)
    return lae.Network(settings(**changes))


NOISE = torch.randn(8, 3, 96, 96, generator=torch.Generator().manual_seed(0))
BATCH = batch_of(8, image=NOISE)


def losses_of(net):
    return net.losses(net(NOISE), BATCH)


@pytest.fixture
def table(home):
    return select(load_frames("smoke-a"), "train")


@pytest.fixture
def start():
    """A network of phase one that was not trained."""
    return network().eval()


# ---------------------------------------------------------------- outputs


def test_the_attention_is_grad_cam_of_the_activation():
    net = network().eval().double()
    outputs = net(NOISE.double())
    maps = net.encoder.forward_features(NOISE.double()).detach().requires_grad_()
    latent = net.to_latent(maps.mean((2, 3)))
    activation = latent.unflatten(1, (2, -1)).abs().mean(2)
    for half in (0, 1):
        gradient = torch.autograd.grad(activation[:, half].sum(), maps, retain_graph=True)[0]
        weights = gradient.sum((2, 3), keepdim=True)
        torch.testing.assert_close(outputs["attention"][:, half], (weights * maps).sum(1))


def test_the_map_of_a_backbone_that_widens_its_pooled_features_gives_the_attention():
    net = network(backbone="mobilenetv3_small_050").eval()
    outputs = net(NOISE)
    assert net.encoder.head_hidden_size == 1024 and outputs["channels"].shape == (8, 288)
    assert outputs["attention"].shape == (8, 2, 3, 3)


def test_the_score_is_the_share_of_the_fake_half():
    net = network().eval()
    outputs = net(NOISE)
    real, fake = outputs["activation"].double().unbind(1)
    torch.testing.assert_close(net.score(outputs), fake / (fake + real), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weights_from", ["ImageNet", "drawn faces"])
def test_the_encoder_sees_images_as_its_weights_were_trained(weights_from, monkeypatch):
    create = lae.backbones.create

    def created(*args, **kwargs):
        encoder = create(*args, **kwargs)
        encoder.weights_from = weights_from
        if weights_from == "ImageNet":
            encoder.pretrained_cfg |= IMAGENET
        return encoder

    monkeypatch.setattr(lae.backbones, "create", created)
    trained = network().eval()
    monkeypatch.undo()
    opened = network().eval()  # a finished run is opened without pretrained weights
    opened.load_state_dict(trained.state_dict())
    pixels = torch.rand(2, 3, 96, 96)
    given = (pixels - 0.5) / 0.5
    expected = standardised(pixels) if weights_from == "ImageNet" else given
    for net in (trained, opened):
        latent = net.to_latent(net.encoder.forward_features(expected).mean((2, 3)))
        torch.testing.assert_close(net(given)["latent"], latent)


# ---------------------------------------------------------------- losses


def test_activations_score_and_latent_loss_are_those_of_the_example_of_notebook_03():
    net = network(latent=4).eval()
    with torch.no_grad():
        net.to_latent.weight.zero_()
        net.to_latent.bias.copy_(torch.tensor([0.1, -0.3, 1.2, -0.8]))
        outputs = net(NOISE[:2])
        torch.testing.assert_close(outputs["activation"], torch.tensor([[0.2, 1.0]] * 2))
        assert net.score(outputs).tolist() == pytest.approx([1 / 1.2] * 2, rel=1e-5)
        loss = lae.latent_loss(outputs, torch.tensor([1, 0]))
        torch.testing.assert_close(loss, torch.tensor([0.2, 1.8]))
        net.to_latent.bias.zero_()
        silent = net(NOISE[:2])
    torch.testing.assert_close(silent["cls"], torch.full((2, 2), math.log(1e-6)))


def test_concepts_are_the_parts_of_both_activations_but_for_the_bias():
    net = network().eval()
    with torch.no_grad():
        net.to_latent.bias.zero_()
        outputs = net(NOISE)
    torch.testing.assert_close(outputs["channels"].sum(1), outputs["activation"].sum(1))


def test_the_decoder_is_that_of_its_description():
    """A linear layer; per width twice as large, 3×3, BatchNorm and ReLU; at last a sigmoid."""
    torch.manual_seed(0)
    decoder = lae.decoder(6, (8, 4), 16)
    z = 3 * torch.randn(5, 6)
    weights = [weight.detach() for weight in decoder.parameters()]
    linear, bias, first, gain, offset, last, colour = weights
    x = F.linear(z, linear, bias).view(5, 8, 4, 4)
    x = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), first, padding=1)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), False, keepdim=True)
    x = (x - mean) / (variance + 1e-5).sqrt() * gain.view(-1, 1, 1) + offset.view(-1, 1, 1)
    x = x.clamp(min=0).repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = 1 / (1 + torch.exp(-F.conv2d(x, last, colour, padding=1)))
    torch.testing.assert_close(decoder(z).detach(), expected)


def test_the_discriminator_is_that_of_its_description():
    """Convolutions of 4×4 with stride 2 and a leak of .2, the mean over positions, a logit."""
    torch.manual_seed(0)
    discriminator = lae.discriminator((8, 4))
    *layers, linear, bias = [weight.detach() for weight in discriminator.parameters()]
    x = NOISE
    for weight, offset in zip(layers[::2], layers[1::2]):
        x = F.conv2d(x, weight, offset, stride=2, padding=1)
        x = torch.where(x > 0, x, 0.2 * x)
    expected = x.mean((2, 3)) @ linear.T + bias
    torch.testing.assert_close(discriminator(NOISE).detach(), expected)


def test_the_terms_of_the_reconstruction_and_of_the_discriminator_by_hand():
    net = network()
    outputs = {name: value.detach() for name, value in net(NOISE).items()}
    decoded = net.decoder(outputs["latent"]).detach()
    torch.testing.assert_close(outputs["reconstruction"], (decoded - 0.5) / 0.5)
    with torch.no_grad():
        losses = net.losses(outputs, BATCH)
        of_images, of_restored = [
            1 / (1 + torch.exp(-net.adversary(images)))  # D, that an image is no reconstruction
            for images in (NOISE, outputs["reconstruction"])
        ]
    real, fake = outputs["activation"].T
    label = BATCH["label"]
    latent = ((real - (1 - label)).abs() + (fake - label).abs()).mean()
    torch.testing.assert_close(losses["latent"], latent)
    pixel = (NOISE - outputs["reconstruction"]).abs().mean()
    torch.testing.assert_close(losses["pixel"], pixel)
    torch.testing.assert_close(losses["adversarial"], (1 - of_restored).log().mean())
    adversary = -of_images.log().mean() - (1 - of_restored).log().mean()
    torch.testing.assert_close(losses["adversary"], adversary)
    total = latent + 0.1 * pixel + 0.01 * losses["adversarial"] + losses["attention"]
    torch.testing.assert_close(losses["total"], total)


def test_each_term_of_the_reconstruction_reaches_the_encoder():
    net = network()
    for name in ("pixel", "adversarial"):
        losses = losses_of(net)
        weight = net.encoder.features[0].conv.weight
        assert torch.autograd.grad(losses[name], weight)[0].any(), name


def test_both_phases_have_the_rates_of_the_interpretation():
    for given, rate in ((lae.Settings(), 1e-4), (lae.Settings().before(), 1e-3)):
        (first, second), schedule = given.optimisation(network(), 10)
        assert [group["lr"] for group in first.param_groups] == schedule.get_last_lr() == [rate]
        (group,) = second.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.9, 0.999), 0)
        assert isinstance(second, torch.optim.Adam)


def test_neither_loss_reaches_what_the_other_trains():
    net = network(adversarial_weight=1.0)
    losses = losses_of(net)
    names, weights = zip(*net.named_parameters())
    options = {"retain_graph": True, "allow_unused": True}
    of_total = torch.autograd.grad(losses["total"], weights, **options)
    of_adversary = torch.autograd.grad(losses["adversary"], weights, **options)
    for name, total, adversary in zip(names, of_total, of_adversary):
        if name.startswith("adversary."):
            assert total is None and adversary.any(), name
        else:
            assert adversary is None and total.any(), name
    trained = net.parameter_groups(0.01)[0]["params"]
    assert len(trained) == sum(not name.startswith("adversary.") for name in names)


class Features(nn.Module):
    """A comparator that remembers its inputs."""

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = IMAGENET
        self.layer = nn.Conv2d(3, 4, 3)
        self.inputs = []

    def forward(self, images):
        self.inputs.append(images)
        return [self.layer(images), images.mean((2, 3), keepdim=True)]


def test_steps_of_phase_two_are_those_of_a_plain_loop(own_home):
    """The discriminator has an optimiser of its own and learns from its own loss alone."""
    weights = {"pixel_weight": 0.1, "adversarial_weight": 0.01, "attention_weight": 1.0}
    settings = recipe("lae", batch_size=8, images_per_epoch=24, **weights)
    frames = select(load_frames("smoke-a"), "train")
    batches = [*loader(FrameDataset(frames, settings, 0), EpochSampler(frames, settings, 0))]
    training = train.make_training("lae", "smoke-a", settings, 0)
    by_package = few_steps(training, frames, batches).network.state_dict()
    with torch.random.fork_rng(), device.fixed_threads(), device.reproducible():
        torch.manual_seed(torch_seed("init", 0))
        plain = lae.Network(settings).to(device.DEVICE, memory_format=torch.channels_last)
        descents, rates = settings.optimisation(plain, len(batches))
        for item in batches:
            batch = prepared(item, settings, device.DEVICE)
            x, D = batch["image"], plain.adversary
            out = plain(x.contiguous(memory_format=torch.channels_last))
            wanted = F.one_hot(batch["label"], 2)  # of a_T and a_F
            total = (out["activation"] - wanted).abs().sum(1).mean()
            total = total + 0.1 * (out["reconstruction"] - x).abs().mean()
            total = total + 0.01 * F.logsigmoid(-D(out["reconstruction"])).mean()
            (total + plain.attention_loss(out, batch)).backward()
            D.zero_grad()
            restored = D(out["reconstruction"].detach())
            (F.softplus(-D(x)).mean() + F.softplus(restored).mean()).backward()
            for descent in descents:
                descent.step()
                descent.zero_grad()
            rates.step()
    torch.testing.assert_close(by_package, plain.state_dict())


def test_the_perceptual_term_compares_features_of_a_network_that_does_not_learn(monkeypatch):
    net = network(perceptual_weight=1.0)
    features = Features()
    made = []
    monkeypatch.setattr(lae.backbones, "find_start", lambda *args, **kwargs: None)
    monkeypatch.setattr(lae.backbones, "create", lambda *a, **k: made.append(a) or features)
    names = [*net.state_dict()]
    losses = losses_of(net)
    losses["total"].backward()
    assert losses["perceptual"] > 0 and features.layer.weight.grad is None
    restored, shown = features.inputs
    torch.testing.assert_close(shown, standardised(NOISE * 0.5 + 0.5))
    differences = [a - b for a, b in zip(features(restored), features(shown))]
    expected = sum(difference.abs().mean() for difference in differences) / 2
    torch.testing.assert_close(losses["perceptual"], expected)
    losses_of(net)
    assert len(made) == 1 and [*net.state_dict()] == names


def test_a_comparator_that_cannot_be_had_is_told_before_training(home, monkeypatch):
    def offline(url):
        raise OSError("no network")

    monkeypatch.setattr(backbones, "get_hf_file_metadata", offline)
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda repository, name: None)
    remedy = r"vgg16.tv_in1k cannot be fetched .* or set perceptual_weight = 0"
    wanted = settings(pretrained=False, perceptual_weight=0.1)
    for call in (wanted.fetch, lambda: losses_of(lae.Network(wanted))):
        with pytest.raises(DfnbError, match=remedy):
            call()
    with pytest.raises(DfnbError, match=remedy):
        train.train(train.make_training("lae", "smoke-a", wanted))
    settings(perceptual_weight=0.0).fetch()


def test_the_attention_loss_by_hand():
    net = network()
    attention = torch.zeros(4, 2, 2, 2)
    # An annotated fake: divided by the maximum, without what is negative, it is 1, .5, 0, 0.
    attention[0, 1] = torch.tensor([[0.4, 0.2], [-0.1, 0.0]])
    attention[1] = 3.0  # a fake without a mask
    attention[2, 0] = 1.5  # a real frame: .5 above its target
    attention[2, 1] = 0.5  # and here, too
    attention[3, 0] = 1.0  # a real frame on its target
    mask = torch.zeros(4, 1, 4, 4)
    mask[0, :, :2, 0] = 1  # half of the first cell
    known = torch.tensor([True, False, True, True])
    frames = {"label": torch.tensor([1, 1, 0, 0]), "mask": mask, "has_mask": known}
    fake_loss = (0.5**2 + 0.5**2) / 4
    real_loss = (0.5**2 + 0.5**2) / 4
    loss = net.attention_loss({"attention": attention}, frames)
    assert loss.item() == pytest.approx(0.5 * fake_loss + 0.5 * real_loss)
    frames["has_mask"] = frames["label"] == 0
    loss = net.attention_loss({"attention": attention}, frames)
    assert loss.item() == pytest.approx(0.5 * real_loss)


def test_the_attention_loss_of_a_sigmoid_by_hand():
    net = network(attention_map="sigmoid")
    attention = torch.zeros(3, 2, 1, 2)
    attention[0, 1] = torch.tensor([[math.log(3), 0.0]])  # an annotated fake: A is .75 and .5
    attention[1] = 3.0  # a fake without a mask
    attention[2, 0] = 1.5  # a real frame: .5 above its target
    attention[2, 1] = math.log(3)  # A is .75
    mask = torch.tensor([1.0, 0.0]).expand(3, 1, 1, 2)
    known = torch.tensor([True, False, True])
    frames = {"label": torch.tensor([1, 1, 0]), "mask": mask, "has_mask": known}
    outputs = {"attention": attention}
    torch.testing.assert_close(net.localise(outputs)[0], torch.tensor([[0.75, 0.5]]))
    fake_loss = (math.log(4 / 3) + math.log(2)) / 2
    real_loss = (0.5**2 + math.log(4)) / 2
    loss = net.attention_loss(outputs, frames)
    assert loss.item() == pytest.approx(0.5 * fake_loss + 0.5 * real_loss)


@pytest.mark.parametrize("attention_map", ["scaled", "sigmoid"])
def test_the_attention_loss_has_its_whole_gradient(attention_map):
    net = network(attention_map=attention_map)
    frames = {"label": torch.tensor([1, 0]), "mask": torch.rand(2, 1, 4, 4).double()}
    frames["has_mask"] = torch.tensor([True, True])
    attention = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda attention: net.attention_loss({"attention": attention}, frames), attention
    )


@pytest.mark.parametrize("attention_map", ["scaled", "sigmoid"])
def test_a_batch_without_anything_to_compare_has_finite_gradients(attention_map):
    net = network(attention_map=attention_map)
    nothing = {**BATCH, "label": torch.ones(8).long(), "has_mask": torch.zeros(8).bool()}
    losses = net.losses(net(NOISE), nothing)
    losses["total"].backward()
    assert losses["attention"] == 0
    assert all(torch.isfinite(weight.grad).all() for weight in net.encoder.parameters())


# ---------------------------------------------------------------- phases and masks


def test_phase_one_is_the_same_for_all_settings_of_phase_two():
    first = settings().before()
    assert first.phase == "representation" and first.before() is None and first.lr == 1e-3
    changes = {"annotated": 1.0, "attention_weight": 0.0, "selection": "random", "epochs": 7}
    changes["attention_map"] = "sigmoid"
    assert settings(**changes, clusters=9, lr=0.5).before() == first
    assert settings(latent=64).before() != first
    assert "attention" not in losses_of(lae.Network(first))


def visible_masks(table, start, **changes):
    return set(masked_positions(settings(**changes).visible(table, 3, start)))


def test_only_phase_two_reads_masks_and_only_of_training_frames(table, start):
    assert len(visible_masks(table, start)) == round(0.1 * len(table))
    assert not visible_masks(table, None)
    assert not visible_masks(table, start, attention_weight=0.0)
    assert not visible_masks(table, start, annotated=0.0)
    assert not visible_masks(select(load_frames("smoke-a"), "val"), start)
    with pytest.raises(DfnbError, match="has 0 masks for"):
        settings().visible(keep_masks(table, []), 3, start)


def test_budgets_are_nested_and_random_is_another_choice(table, start):
    tenth, fifth, whole = [
        visible_masks(table, start, annotated=share) for share in (0.1, 0.2, 1.0)
    ]
    assert tenth < fifth < whole == set(masked_positions(table))
    assert visible_masks(table, start, annotated=0.2, selection="random") != fifth
    with pytest.raises(DfnbError, match="clusters = 99999 is more than the"):
        visible_masks(table, start, clusters=99999)


@pytest.mark.parametrize("selection", ["active", "random"])
def test_without_attention_loss_the_same_frames_are_always_shown(table, start, selection):
    with_masks = settings(selection=selection)
    without = settings(selection=selection, attention_weight=0.0)
    visible = with_masks.visible(table, 3, start)
    always = visible["always"].to_numpy()
    assert {*np.flatnonzero(always >= 0)} == {*masked_positions(visible)} and max(always) >= 0
    assert (without.visible(table, 3, start)["always"] == always).all()
    assert "always" not in with_masks.visible(table, 3, None)


def test_concepts_are_outputs_of_the_network_in_the_order_of_the_table(table, start):
    few = table.iloc[::17]
    vectors, losses = lae.concepts(start, few)
    images = as_batch(few, settings())["image"]
    outputs = contract.outputs_of(start, images)
    np.testing.assert_allclose(vectors, outputs["channels"], atol=1e-6)
    real, fake = outputs["activation"].numpy().T
    label = few["label"].to_numpy()
    np.testing.assert_allclose(losses, abs(real - (1 - label)) + abs(fake - label), atol=1e-6)


def test_candidates_come_from_challenging_clusters_in_turn(table, start, monkeypatch):
    place = np.arange(len(table))
    vectors = np.stack([place % 6 * 100.0, place * 0.01], 1)  # six clusters
    # Two are challenging, above the mean of 1.7; the median is 1.25.
    means = np.array([0.5, 3.0, 4.0, 0.4, 1.2, 1.3])
    losses = means[place % 6] + 0.04 * (-1.0) ** (place // 6)
    monkeypatch.setattr(lae, "concepts", lambda network, table: (vectors, losses))
    order = lae.candidates(start, table, 6, seed=3)
    is_fake = table["label"].to_numpy() == 1
    assert sorted(order["row"]) == np.flatnonzero(is_fake).tolist()
    challenging = order[order["challenge"] > 1.7]
    others = order[len(challenging) :]
    first = challenging["challenge"].iloc[:4].tolist()
    assert first == pytest.approx([4.0, 3.0, 4.0, 3.0], abs=0.02)
    first = others["challenge"].iloc[:4].tolist()
    assert first == pytest.approx([1.3, 1.2, 0.5, 0.4], abs=0.02)
    for _, members in order.groupby("cluster"):
        assert members["distance"].is_monotonic_increasing
        centre = place[place % 6 == members["row"].iloc[0] % 6].mean()  # of real frames, too
        from_centre = 0.01 * (members["row"] - centre).abs()
        np.testing.assert_allclose(members["distance"], from_centre, atol=1e-9)


def test_clusters_are_the_best_of_several_starts():
    points = np.random.default_rng(0).random((60, 2))
    one_start = [KMeans(10, n_init=1, random_state=s).fit(points).inertia_ for s in range(60)]
    spread = [(lae.clustered(points, 10, seed)[1] ** 2).sum() for seed in range(12)]
    assert np.mean(spread) < np.quantile(one_start, 0.4)


def test_a_size_that_the_decoder_cannot_reach_is_refused():
    with pytest.raises(DfnbError, match="image_size must be a multiple of 64"):
        lae.Settings.check({"image_size": 32, "decoder_widths": (8,) * 6}, "test")


@pytest.mark.parametrize("backbone", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_a_backbone_without_a_map_is_refused(backbone):
    vit = network(backbone=backbone)  # tokens (B, N, K) or a map (B, h, w, K)
    with pytest.raises(DfnbError, match=f"backbone {backbone} gives no feature map"):
        vit(NOISE[:2])


# ---------------------------------------------------------------- training


def test_phase_two_starts_from_phase_one_and_needs_no_mask_but_the_annotated(
    smoke_home, empty_home
):
    data = empty_home / "datasets" / "smoke-a"
    shutil.copytree(smoke_home / "datasets" / "smoke-a", data)
    still = settings(lr=1e-12)
    first = train.train(train.make_training("lae", "smoke-a", still.before(), seed=3))
    frames = load_frames("smoke-a")
    visible = still.visible(select(frames, "train"), 3, first.network())
    others = set(frames["mask"]) - set(visible["mask"])
    assert others
    for path in others:
        (data / path).unlink()
    run = train.train(train.make_training("lae", "smoke-a", still, seed=3))
    assert run.record.start == first.id
    assert "loss_attention" in run.log and "loss_attention" not in first.log
    before = dict(first.network().named_parameters())
    for name, weight in run.network().named_parameters():
        # The learning rate is the encoder's; the discriminator has its own.
        is_still = torch.allclose(before[name], weight, atol=1e-6)
        assert is_still != name.startswith("adversary."), name


# ---------------------------------------------------------------- what ships


def test_the_perceptual_term_has_a_comparator_that_ships():
    net = network(perceptual_weight=1.0, comparator="dfnb_plain7.drawn_faces")
    comparator = lae.comparator("dfnb_plain7.drawn_faces", NOISE.device)
    maps = comparator(NOISE)
    torch.testing.assert_close(comparator(NOISE[:1])[-1], maps[-1][:1])  # images do not mix
    assert [tuple(values.shape[2:]) for values in maps] == [(96, 96), (48, 48), (24, 24), (12, 12)]
    losses = losses_of(net)
    losses["perceptual"].backward()
    gradient = torch.cat([weight.grad.flatten() for weight in net.decoder.parameters()])
    assert losses["perceptual"] > 0 and gradient.abs().max() > 0


def test_a_budget_may_be_a_number_of_masks(table, start):
    for changes, expected in (({"masks": 5}, 5), ({"masks": None}, round(0.1 * len(table)))):
        visible = settings(selection="random", **changes).visible(table, 0, start)
        assert len(masked_positions(visible)) == expected
