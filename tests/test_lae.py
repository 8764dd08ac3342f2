"""LAE: its attention's identities, its terms, two phases, which masks are read, active learning, masks painted by a person."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dfnb import core, papers, train
from dfnb.core import DfnbError
from dfnb.data import frames
from dfnb.data.frames import load_frames, select
from dfnb.papers import lae

SMALL = {
    "backbone": "dfnb_plain7", "pretrained": False, "image_size": 96, "batch_size": 16, "optimiser": "adamw", "lr": 1e-3,
    "schedule": "onecycle", "augmentation": "light", "epochs": 1, "representation_epochs": 1, "images_per_epoch": 32,
    "decoder_widths": (16, 8, 8), "adversary_widths": (8, 8), "perceptual_weight": 0.0, "annotated": 0.1, "clusters": 4,
}  # fmt: skip


def settings(**changes):
    return lae.Settings(**{**SMALL, **changes})


def network(**changes):
    torch.manual_seed(0)
    return lae.Network(settings(**changes))


def batch(n=8, masked=True):
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 2
    mask = torch.zeros(n, 1, 96, 96)
    mask[label == 1, :, 24:48, 24:48] = float(masked)
    image = torch.randn(n, 3, 96, 96, generator=generator)
    return {"image": image, "label": label, "mask": mask, "has_mask": (label == 0) | masked, "epoch": 0}


def fit(**changes):
    return train.train("lae", "smoke-a", settings(**changes), seed=3)


class FirstPhase(papers.Run):
    """A run whose network was not trained."""

    def network(self):
        return network().eval()


@pytest.fixture
def table(home):
    return select(load_frames("smoke-a"), "train")


@pytest.fixture
def start(table, tmp_path):
    """Phase one as if it had been trained."""
    return FirstPhase(tmp_path, {"parameters": {"seed": 3}})


@pytest.fixture
def home_of_its_own(home, tmp_path, monkeypatch):
    """A home of the test's own with a copy of the dataset, which it may damage."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    shutil.copytree(home / "datasets" / "smoke-a", tmp_path / "datasets" / "smoke-a")
    return tmp_path


# ------------------------------------------------------------------------------------------------------------ the model


def test_the_mean_of_a_units_map_is_the_unit_less_its_bias():
    net = network().eval().double()
    maps = net.encoder.forward_features(batch()["image"].double())
    unit_maps = torch.einsum("uk,bkhw->buhw", net.to_latent.weight, maps)
    outputs = net(batch()["image"].double())
    torch.testing.assert_close(unit_maps.mean((2, 3)), outputs["latent"] - net.to_latent.bias)
    signs = outputs["latent"].sign()
    torch.testing.assert_close(
        outputs["attention"], (signs[:, :, None, None] * unit_maps).unflatten(1, (2, -1)).mean(2)
    )
    bias_share = (signs * net.to_latent.bias).unflatten(1, (2, -1)).mean(2)
    torch.testing.assert_close(outputs["attention"].mean((2, 3)), outputs["activation"] - bias_share)
    torch.testing.assert_close(outputs["channels"].sum(1), outputs["attention"].mean((2, 3)).sum(1))


def test_the_attention_is_grad_cam_of_the_activation_but_for_a_constant():
    net = network().eval().double()
    maps = net.encoder.forward_features(batch()["image"].double()).detach().requires_grad_()
    latent = net.to_latent(maps.mean((2, 3)))
    activation = latent.unflatten(1, (2, -1)).abs().mean(2)
    for half in (0, 1):
        gradient = torch.autograd.grad(activation[:, half].sum(), maps, retain_graph=True)[0]
        torch.testing.assert_close(net.channel_weights(latent)[:, half], gradient.sum((2, 3)))


def test_the_score_is_the_share_of_the_fake_half():
    net = network().eval()
    outputs = net(batch()["image"])
    real, fake = outputs["activation"].unbind(1)
    torch.testing.assert_close(net.score(outputs), fake / (fake + real), atol=1e-4, rtol=1e-4)
    assert net.maps() == {"attention": "localise"} and "reconstruction" not in outputs
    located = net.localise(outputs)
    assert located.shape == (8, 12, 12) and located.min() >= 0 and located.amax() <= 1


def test_the_reconstruction_is_an_image_normalised_as_the_others():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    net = network(mean=mean, std=std)
    outputs = net(batch()["image"])
    restored = outputs["reconstruction"]
    pixels = net.pixels(restored)
    torch.testing.assert_close(pixels, net.decoder(outputs["latent"]))
    assert restored.shape == (8, 3, 96, 96) and pixels.min() >= 0 and pixels.max() <= 1
    by_hand = restored * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    torch.testing.assert_close(pixels, by_hand)


@pytest.mark.parametrize("weights_from", ["ImageNet", "drawn faces"])
def test_the_encoder_sees_what_its_weights_were_trained_on(weights_from, monkeypatch):
    create = lae.backbones.create

    def created(name, *arguments, **options):
        encoder = create(name, *arguments, **options)
        encoder.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        encoder.weights_from = weights_from
        return encoder

    monkeypatch.setattr(lae.backbones, "create", created)
    net, seen = network().eval(), []
    monkeypatch.undo()
    scored = network().eval()  # as a finished run is opened: without pretrained weights
    scored.load_state_dict(net.state_dict())
    pixels = torch.rand(2, 3, 96, 96)
    for each in (net, scored):
        monkeypatch.setattr(
            each.encoder, "forward_features", lambda x, real=each.encoder.features: seen.append(x) or real(x)
        )
        each((pixels - 0.5) / 0.5)
    assert torch.equal(seen[0], seen[1])
    if weights_from == "drawn faces":
        assert torch.equal(seen[0], (pixels - 0.5) / 0.5)
        return
    mean, std = (torch.tensor(each).double()[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (pixels.double() - mean) / std
    few_roundings = 4 * torch.finfo(torch.float32).eps * expected.abs().max().item()  # one an operation
    torch.testing.assert_close(seen[0].double(), expected, atol=few_roundings, rtol=0)


def test_neither_loss_reaches_what_the_other_trains():
    net = network(adversarial_weight=1.0)
    losses = net.losses(net(batch()["image"]), batch())
    names, values = zip(*net.named_parameters())
    total = torch.autograd.grad(losses["total"], values, retain_graph=True, allow_unused=True)
    adversary = torch.autograd.grad(losses["adversary"], values, allow_unused=True)
    for name, of_total, of_adversary in zip(names, total, adversary):
        trained, other = (of_adversary, of_total) if name.startswith("adversary.") else (of_total, of_adversary)
        assert other is None and trained is not None and trained.any(), name
    groups = net.parameter_groups(0.01)
    assert sum(len(group["params"]) for group in groups) == sum(not name.startswith("adversary.") for name in names)


def test_total_is_the_weighted_sum_of_the_terms():
    weights = {"latent": 2.0, "pixel": 3.0, "adversarial": 5.0, "attention": 7.0}
    net = network(**{f"{name}_weight": weight for name, weight in weights.items()})
    losses = net.losses(net(batch()["image"]), batch())
    assert set(losses) == {*weights, "adversary", "total"}
    torch.testing.assert_close(losses["total"], sum(weight * losses[name] for name, weight in weights.items()))
    assert net.monitor(net(batch()["image"]), batch()) == {"latent": pytest.approx(losses["latent"].item(), rel=1e-4)}
    net = network(pixel_weight=0.0, adversarial_weight=0.0, attention_weight=0.0)
    assert net.adversary is None and set(net.losses(net(batch()["image"]), batch())) == {"latent", "total"}


class Features(nn.Module):
    """A comparator that keeps what it was shown."""

    def __init__(self, weights_from):
        super().__init__()
        self.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        self.layer = nn.Conv2d(3, 4, 3)
        self.weights_from, self.seen = weights_from, []

    def forward(self, images):
        self.seen.append(images)
        return [self.layer(images)]


@pytest.mark.parametrize("weights_from", ["ImageNet", "random weights"])
def test_the_perceptual_term_needs_weights_and_shows_them_what_they_were_trained_on(weights_from, monkeypatch, caplog):
    features, create = Features(weights_from), lae.backbones.create
    monkeypatch.setattr(
        lae.backbones, "create", lambda name, *a, **k: features if name == "vgg16.tv_in1k" else create(name, *a, **k)
    )
    lae.comparator.cache_clear()
    net = network(perceptual_weight=1.0)
    names = set(net.state_dict())
    losses = net.losses(net(batch()["image"]), batch())
    losses["total"].backward()
    lae.comparator.cache_clear()
    assert ("perceptual" in losses) == (weights_from == "ImageNet") == ("perceptual term is off" not in caplog.text)
    assert set(net.state_dict()) == names and all(value.grad is None for value in features.parameters())
    if weights_from == "ImageNet":
        statistics = (torch.tensor(features.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
        mean, std = statistics
        torch.testing.assert_close(features.seen[1], ((batch()["image"] * 0.5 + 0.5) - mean) / std)
        assert losses["perceptual"] > 0 and features.seen[0].requires_grad


# --------------------------------------------------------------------------------------------------- the attention loss


def test_the_attention_loss_by_hand():
    net = network()
    attention = torch.zeros(4, 2, 2, 2)
    attention[0, 1] = torch.tensor([[4.0, 2.0], [-1.0, 0.0]])  # of an annotated fake; by its maximum 1, .5, 0, 0
    attention[1] = 3.0  # of a fake without a mask
    attention[2, 0], attention[2, 1] = 1.5, 0.5  # of a real frame
    attention[3, 0] = 1.0  # and of one that is as it should be
    mask = torch.zeros(4, 1, 4, 4)
    mask[0, :, :2, :2] = 1
    mask[1] = 1
    known = {"label": torch.tensor([1, 1, 0, 0]), "mask": mask, "has_mask": torch.tensor([True, False, True, True])}
    fake, real = 0.5**2 / 4, (0.5**2 + 0.5**2) / 4
    assert net.attention_loss({"attention": attention}, known).item() == pytest.approx(0.5 * fake + 0.5 * real)
    unknown = {**known, "has_mask": known["label"] == 0}
    alone = net.attention_loss({"attention": attention.requires_grad_()}, unknown)
    assert alone.item() == pytest.approx(0.5 * real)  # the same as before: a batch without masks changes no weight
    assert not torch.autograd.grad(alone, attention)[0][:2].any()


def test_a_batch_without_anything_to_compare_has_a_loss_of_zero():
    net = network()
    fakes = batch(masked=False) | {
        "label": torch.ones(8, dtype=torch.int64),
        "has_mask": torch.zeros(8, dtype=torch.bool),
    }
    losses = net.losses(net(batch()["image"]), fakes)
    losses["total"].backward()
    assert losses["attention"] == 0 and all(torch.isfinite(value.grad).all() for value in net.encoder.parameters())


# ------------------------------------------------------------------------------------------ two phases and their masks


def test_phase_one_is_the_same_for_all_settings_of_phase_two():
    first = settings().before()
    changes = {"annotated": 1.0, "attention_weight": 0.0, "selection": "random", "epochs": 7}
    assert settings(**changes, clusters=9, lr=0.5).before() == first
    assert first.phase == "representation" and first.before() is None and first.epochs == 1 and first.lr == 1e-3
    assert settings(latent=64).before() != first
    net = lae.Network(first)
    assert "attention" not in net.losses(net(batch()["image"]), batch())


def test_only_phase_two_sees_masks_and_only_of_training_frames(table, start):
    def seen(table=table, start=start, **changes):
        return len(frames.masked(settings(**changes).visible(table, 3, start)))

    assert seen() == round(0.1 * len(table)) > 0
    assert seen(start=None) == seen(attention_weight=0.0) == seen(annotated=0.0) == 0
    few = frames.masked(table)[::3]  # only these have a mask at all
    assert seen(table=frames.keep_masks(table, few)) == round(0.1 * len(table)) < len(few)
    validation = select(load_frames("smoke-a"), "val")
    assert len(frames.masked(validation)) and not seen(table=validation)


def test_the_arm_without_attention_loss_shows_the_same_frames_with_their_masks_hidden(table, start):
    for changes in ({}, {"selection": "random"}, {"annotated": 1.0}):
        with_masks, without = settings(**changes), settings(**changes, attention_weight=0.0)
        shown = [sorted(each.always(table, 3, start)) for each in (with_masks, without)]
        assert shown[0] == shown[1] == sorted(frames.masked(with_masks.visible(table, 3, start)))
        assert not len(frames.masked(without.visible(table, 3, start)))
    assert not len(settings().always(table, 3, None)) and not len(settings(annotated=0.0).always(table, 3, start))
    nobody = frames.keep_masks(table, [])
    assert not len(settings(attention_weight=0.0).always(nobody, 3, start))
    with pytest.raises(DfnbError, match="has 0 masks for"):
        settings().visible(nobody, 3, start)


def test_every_batch_of_phase_two_has_an_annotated_fake(home, monkeypatch):
    """And none of phase one; without an attention loss the same frames come at the same places."""
    drawn, real = [], train.EpochSampler
    monkeypatch.setattr(train, "EpochSampler", lambda *given: drawn.append(real(*given)) or drawn[-1])
    for weight in (1.0, 0.0):
        fit(attention_weight=weight, lr=1.5e-3)
    samplers = [sampler for sampler in drawn if sampler.limit]  # the others draw validation batches
    assert [len(sampler.always) > 0 for sampler in samplers] == [False, True, True]
    with_masks, without = (list(sampler) for sampler in samplers[1:])
    assert with_masks == without and len(without) == 2
    annotated = set(samplers[1].always)
    assert all(sum(row in annotated for _, _, row in batch) >= 2 for batch in samplers[1])


def test_budgets_are_nested_and_random_is_another_choice(table, start):
    def chosen(**changes):
        return set(frames.masked(settings(**changes).visible(table, 3, start)))

    assert chosen(annotated=0.1) < chosen(annotated=0.2) < chosen(annotated=1.0)
    assert chosen(annotated=1.0) == set(frames.masked(table))
    assert chosen(annotated=0.2, selection="random") != chosen(annotated=0.2)
    with pytest.raises(DfnbError, match=r"annotated = 0\.001 is none"):
        chosen(annotated=0.001)
    with pytest.raises(DfnbError, match="clusters = 99999 is more than the"):
        chosen(clusters=99999)


def test_concepts_are_those_of_the_network_in_the_order_of_the_table_and_need_no_mask(table, start, monkeypatch):
    def refuse(self, path, row, shape):
        assert not path
        return np.zeros(shape, bool)

    monkeypatch.setattr(frames.Pixels, "mask", refuse)
    few = table.iloc[::17]
    vectors, losses = lae.concepts(start.network(), few)
    images = frames.as_batch(frames.keep_masks(few, []), start.network().settings)["image"]
    outputs = papers.outputs_of(start.network(), images)
    np.testing.assert_allclose(vectors, outputs["channels"], atol=1e-6)
    activation, label = outputs["activation"].numpy(), few["label"].to_numpy()
    np.testing.assert_allclose(losses, abs(activation[:, 0] - (1 - label)) + abs(activation[:, 1] - label), atol=1e-6)


def test_candidates_come_from_challenging_clusters_in_turn_and_are_kept(table, start, monkeypatch):
    place = np.arange(len(table))
    vectors = np.stack([place % 4 * 100.0, place * 0.01], 1)  # four clusters
    losses = np.array([0.5, 2.0, 3.0, 0.4])[place % 4]  # of which two are hard
    monkeypatch.setattr(lae, "concepts", lambda *_: (vectors, losses))
    order = lae.candidates(start, table, 4)
    assert sorted(order["row"]) == np.flatnonzero(table["label"].to_numpy() == 1).tolist()
    np.testing.assert_array_equal(order["challenge"], losses[order["row"]])
    hard = (order["challenge"] > losses.mean()).to_numpy()
    assert hard[: hard.sum()].all() and not hard[hard.sum() :].any()
    assert order["challenge"].iloc[:4].tolist() == [3.0, 2.0, 3.0, 2.0]  # in turn, the hardest first
    assert order["challenge"][~hard].iloc[:4].tolist() == [0.5, 0.4, 0.5, 0.4]
    assert all(of_cluster["distance"].is_monotonic_increasing for _, of_cluster in order.groupby("cluster"))
    monkeypatch.setattr(lae, "concepts", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(order, lae.candidates(start, table, 4))
    assert [path.name for path in start.folder.iterdir()] == ["candidates-4.parquet"]


def test_impossible_settings_are_refused_in_one_sentence():
    for wrong, message in (
        ({"mixup_probability": 0.5}, "mixup_probability must be 0"),
        ({"image_size": 32, "decoder_widths": (8,) * 6}, "image_size must be a multiple of 64"),
        ({"pixel_norm": "l2"}, "there is no parameter 'pixel_norm'"),
    ):
        with pytest.raises(DfnbError, match=message) as error:
            lae.Settings.check(wrong, "test")
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- training


def test_phase_two_starts_from_phase_one_and_reads_no_other_mask(home_of_its_own, monkeypatch):
    """Reading any mask but the annotated ones raises; the others are gone from the disk."""
    still = settings(lr=1e-12, images_per_epoch=128)
    first = train.train("lae", "smoke-a", still.before(), seed=3)
    shown = still.visible(select(load_frames("smoke-a"), "train"), 3, first)
    allowed = {(str(shown["mask"].iloc[i]), int(shown["row"].iloc[i])) for i in frames.masked(shown)}
    read, real = set(), frames.Pixels.mask

    def guarded(self, path, row, shape):
        if path:
            assert (path, row) in allowed, f"{path} row {row} was read"
            read.add((path, row))
        return real(self, path, row, shape)

    monkeypatch.setattr(frames.Pixels, "mask", guarded)
    everything = load_frames("smoke-a")
    others = set(everything.loc[everything["split"] != "test", "mask"].astype(str)) - {path for path, _ in allowed}
    for path in others - {""}:
        (home_of_its_own / "datasets" / "smoke-a" / path).unlink()
    run = train.train("lae", "smoke-a", still, seed=3)
    assert train.Run.open(run.record["start"]) == first
    assert read and "loss_attention" in run.log and "loss_attention" not in first.log
    assert np.isfinite(run.log["loss_adversary"]).all() and run.record["rule"] == "the last epoch"
    one, two = (dict(trained.network().named_parameters()) for trained in (first, run))
    for name in one:  # the learning rate is the encoder's; the discriminator has its own
        assert name.startswith("adversary.") != torch.allclose(one[name], two[name], atol=1e-6), name


def test_interrupted_in_either_phase_it_ends_in_the_same_weights(home, tmp_path, monkeypatch):
    """Two epochs of two steps in phase one and one in phase two, stopped before the third and the sixth step of all."""
    straight = fit(representation_epochs=2)
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "datasets").symlink_to(home / "datasets")
    monkeypatch.setattr(train, "CHECKPOINT_S", -1)
    real, steps = core.torch_seed, []

    def counted(purpose, *key):
        if purpose == "dropout":
            steps.append(key)
            if len(steps) in (3, 6):
                raise KeyboardInterrupt
        return real(purpose, *key)

    monkeypatch.setattr(core, "torch_seed", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(representation_epochs=2)
    resumed = fit(representation_epochs=2)
    assert len(steps) == 8
    ours, theirs = (torch.load(run.folder / "last.ckpt") for run in (resumed, straight))
    assert all(torch.equal(ours["network"][name], theirs["network"][name]) for name in theirs["network"])
    moments = [state["adversary"]["state"] for state in (ours, theirs)]
    assert moments[0] and all(torch.equal(moments[0][k]["exp_avg"], moments[1][k]["exp_avg"]) for k in moments[1])
