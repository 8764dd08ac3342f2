"""LAE: its attention's identities, two phases, which masks are read, the discriminator in turn, annotation by a person."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from dfnb import core, generalise, synth, train
from dfnb.cli import app
from dfnb.core import DfnbError
from dfnb.data import annotate, frames
from dfnb.data.frames import load_frames, select
from dfnb.metrics import balanced_accuracy
from dfnb.papers import lae

SMALL = {
    "backbone": "dfnb_plain7", "pretrained": False, "image_size": 96, "batch_size": 16, "optimiser": "adamw", "lr": 1e-3,
    "schedule": "onecycle", "augmentation": "light", "epochs": 1, "representation_epochs": 1, "images_per_epoch": 32,
    "decoder_widths": (16, 8, 8), "adversary_widths": (8, 8), "perceptual_weight": 0.0, "annotated": 0.1, "clusters": 4,
}  # fmt: skip


def settings(**changes):
    return lae.Settings(**{**SMALL, **changes})


def trained(**changes):
    return train.train("lae", "smoke-a", settings(**changes), seed=3, echo=lambda line: None)


def batch(n=8, masked=True):
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 2
    mask = torch.zeros(n, 1, 96, 96)
    mask[label == 1, :, 24:48, 24:48] = float(masked)
    image = torch.randn(n, 3, 96, 96, generator=generator)
    return {"image": image, "label": label, "mask": mask, "has_mask": (label == 0) | masked, "epoch": 0}


def network(**changes):
    torch.manual_seed(0)
    return lae.Network(settings(**changes))


@pytest.fixture
def home_of_its_own(home, tmp_path, monkeypatch):
    """A home of the test's own with a copy of the dataset, which it may damage."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    shutil.copytree(home / "datasets" / "smoke-a", tmp_path / "datasets" / "smoke-a")
    return tmp_path


def test_the_mean_of_a_units_map_is_the_unit_less_its_bias():
    net = network().eval().double()
    maps = net.encoder.forward_features(batch()["image"].double())
    cams = torch.einsum("uk,bkhw->buhw", net.to_latent.weight, maps)
    outputs = net(batch()["image"].double())
    torch.testing.assert_close(cams.mean((2, 3)), outputs["latent"] - net.to_latent.bias)
    signed = (outputs["latent"].sign()[:, :, None, None] * cams).unflatten(1, (2, -1)).mean(2)
    torch.testing.assert_close(outputs["attention"], signed)


def test_cam_is_grad_cam_but_for_a_constant():
    net = network().eval().double()
    maps = net.encoder.forward_features(batch()["image"].double()).detach().requires_grad_()
    latent = net.to_latent(maps.mean((2, 3)))
    for unit in (0, 77):
        gradient = torch.autograd.grad(latent[:, unit].sum(), maps, retain_graph=True)[0]
        grad_cam = torch.einsum("bk,bkhw->bhw", gradient.mean((2, 3)), maps)
        cam = torch.einsum("k,bkhw->bhw", net.to_latent.weight[unit], maps)
        torch.testing.assert_close(grad_cam * maps[0, 0].numel(), cam)


def test_sign_agrees_with_the_gradient_of_the_activation_and_magnitude_does_not():
    nets = {how: network(unit_weights=how).eval().double() for how in ("sign", "magnitude")}
    maps = nets["sign"].encoder.forward_features(batch()["image"].double()).detach().requires_grad_()
    latent = nets["sign"].to_latent(maps.mean((2, 3)))
    activation = latent.unflatten(1, (2, -1)).abs().mean(2)
    gradient = torch.autograd.grad(activation[:, 1].sum(), maps, retain_graph=True)[0].sum((2, 3))
    weights = {how: net.attend(latent)[:, 1] for how, net in nets.items()}
    torch.testing.assert_close(weights["sign"], gradient)
    assert (torch.cosine_similarity(weights["magnitude"], gradient) < 0.99).all()


def test_the_score_is_the_share_of_the_fake_half():
    net = network().eval()
    outputs = net(batch()["image"])
    real, fake = outputs["activation"].unbind(1)
    torch.testing.assert_close(net.score(outputs), fake / (fake + real), atol=1e-4, rtol=1e-4)
    located = net.localise(outputs)
    assert located.shape == (8, 12, 12) and located.min() >= 0 and located.amax() <= 1


def test_neither_loss_reaches_what_the_other_trains():
    net = network(adversarial_weight=1.0)
    losses = net.losses(net(batch()["image"]), batch())
    own = {name: value for name, value in net.named_parameters() if name.startswith("adversary.")}
    rest = {name: value for name, value in net.named_parameters() if name not in own}
    total = torch.autograd.grad(losses["total"], [*own.values(), *rest.values()], retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in total[: len(own)])
    assert all(gradient is not None and gradient.any() for gradient in total[len(own) :])
    other = torch.autograd.grad(losses["adversary"], [*own.values(), *rest.values()], allow_unused=True)
    assert all(gradient is not None for gradient in other[: len(own)])
    assert all(gradient is None for gradient in other[len(own) :])


def test_only_annotated_fakes_meet_a_mask():
    net = network(real_target="nothing", attention_weight=1.0)
    outputs = net(batch()["image"])
    assert net.losses(outputs, batch(masked=False))["attention"] == 0
    known = batch()
    known["has_mask"] = known["label"] == 0
    known["has_mask"][1] = True
    alone = net.attention_loss(outputs, known)
    known["mask"][3] = 1 - known["mask"][3]  # of a frame whose mask is not known
    assert torch.equal(alone, net.attention_loss(outputs, known)) and alone > 0
    known["mask"][1] = 1 - known["mask"][1]
    assert not torch.equal(alone, net.attention_loss(outputs, known))


def test_without_weight_there_is_no_locality_term_and_no_mask_is_read(home):
    off = settings(attention_weight=0.0)
    net = network(attention_weight=0.0)
    losses = net.losses(net(batch()["image"]), batch())
    assert "attention" not in losses
    table = select(load_frames("smoke-a"), "train")
    assert not len(frames.masked(off.visible(table, 0, object())))


@pytest.mark.parametrize("choice", [{"normalisation": "none"}, {"normalisation": "range"}, {"attention_norm": "l1"},
    {"attention_norm": "outside"}, {"real_target": "zero"}, {"attention_units": "all"}, {"losing_half": "zeroed"},
    {"pixel_norm": "l2"}, {"pixel_weight": 0.0, "adversarial_weight": 0.0}])  # fmt: skip
def test_every_open_choice_changes_the_gradient(choice):
    def gradient(**changes):
        net = network(**changes)
        losses = net.losses(net(batch()["image"]), batch())
        return torch.autograd.grad(losses["total"], net.to_latent.weight)[0]

    assert torch.isfinite(gradient(**choice)).all()
    assert not torch.allclose(gradient(**choice), gradient(), rtol=1e-4, atol=1e-7)


def test_budgets_share_one_phase_one_and_start_from_its_weights(home):
    few, all_masks, off = trained(), trained(annotated=1.0), trained(attention_weight=0.0)
    starts = {run.record["parameters"]["start"]["run"] for run in (few, all_masks, off)}
    assert len(starts) == 1
    first = train.Run.open(starts.pop())
    assert (
        first.record["parameters"]["settings"]["phase"] == "representation"
        and "start" not in first.record["parameters"]
    )
    assert "loss_attention" in few.log and "loss_attention" not in first.log and "loss_attention" not in off.log
    assert "loss_adversary" in first.log and few.record["rule"] == "the last epoch"
    still = trained(lr=1e-12)
    one, two = (dict(run.network().named_parameters()) for run in (first, still))
    rest = [name for name in one if not name.startswith("adversary.")]
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in rest)
    assert any(not torch.equal(one[name], two[name]) for name in one.keys() - set(rest))


def test_masks_of_the_unannotated_are_never_read(home_of_its_own, monkeypatch):
    """Reading any mask but the annotated ones raises; so they may as well be gone from the disk."""
    whole = settings(images_per_epoch=None)
    first = train.train("lae", "smoke-a", whole.before(), seed=3, echo=lambda line: None)
    table = select(load_frames("smoke-a"), "train")
    budget = round(0.1 * len(table))
    shown = whole.visible(table, 3, first)
    allowed = {(shown["mask"].iloc[i], shown["row"].iloc[i]) for i in frames.masked(shown)}
    assert len(allowed) == budget
    read, real = set(), frames.Pixels.mask

    def guarded(self, path, row, shape):
        if path:
            if (path, row) not in allowed:
                raise AssertionError(f"{path} row {row} was read")
            read.add((path, row))
        return real(self, path, row, shape)

    monkeypatch.setattr(frames.Pixels, "mask", guarded)
    kept = {path for path, _ in allowed}
    everything = load_frames("smoke-a")
    for path in set(everything.loc[everything["split"] != "test", "mask"].astype(str)) - kept - {""}:
        (home_of_its_own / "datasets" / "smoke-a" / path).unlink()
    run = train.train("lae", "smoke-a", whole, seed=3, echo=lambda line: None)
    assert read and read <= allowed and np.isfinite(run.log["loss_attention"]).all()


def test_candidates_come_from_challenging_clusters_in_turn(home, monkeypatch):
    first = train.train("lae", "smoke-a", settings().before(), seed=3, echo=lambda line: None)
    table = select(load_frames("smoke-a"), "train")
    label = table["label"].to_numpy()
    vectors = np.zeros((len(table), 2))
    vectors[:, 0] = np.arange(len(table)) % 3 * 100.0  # three clusters
    vectors[:, 1] = np.arange(len(table)) * 0.01
    losses = np.select([vectors[:, 0] == 100], [2.0], 0.5)  # the middle one is hard
    monkeypatch.setattr(lae, "concepts", lambda *_: (vectors, losses))
    for old in first.folder.glob("candidates-*.csv"):
        old.unlink()
    order = lae.candidates(first, table, 3)
    assert sorted(order["row"]) == np.flatnonzero(label == 1).tolist()
    hard = vectors[order["row"], 0] == 100
    assert hard[: hard.sum()].all() and not hard[hard.sum() :].any()
    assert order["distance"][hard].is_monotonic_increasing and (order["challenge"][hard] == 2.0).all()
    again = lae.candidates(first, table, 3)
    pd.testing.assert_frame_equal(order.reset_index(drop=True), again, check_dtype=False)
    for old in first.folder.glob("candidates-*.csv"):
        old.unlink()


def test_budgets_are_nested_and_random_is_another_choice(home):
    first = train.train("lae", "smoke-a", settings().before(), seed=3, echo=lambda line: None)
    table = select(load_frames("smoke-a"), "train")

    def chosen(**changes):
        return set(frames.masked(settings(**changes).visible(table, 3, first)))

    assert chosen(annotated=0.1) < chosen(annotated=0.2) < chosen(annotated=1.0)
    assert chosen(annotated=1.0) == set(frames.masked(table))
    assert chosen(annotated=0.2, selection="random") != chosen(annotated=0.2)
    with pytest.raises(DfnbError, match=r"annotated = 0\.001 of them is none"):
        chosen(annotated=0.001)
    with pytest.raises(DfnbError, match="clusters = 999 is more than the"):
        chosen(clusters=999)


def test_the_perceptual_term_is_off_without_weights_and_on_with_them(monkeypatch, caplog):
    real = lae.backbones.create

    def create(name, pretrained, **kwargs):
        model = real(name, False, **kwargs)
        model.pretrained_loaded = at_hand and pretrained
        return model

    monkeypatch.setattr(lae.backbones, "create", create)
    for at_hand in (False, True):
        net = network(perceptual_weight=1.0, comparator="resnet10t")
        names = set(net.state_dict())
        losses = net.losses(net(batch()["image"]), batch())
        losses["total"].backward()
        assert ("perceptual" in losses) == at_hand == ("The perceptual term is off" not in caplog.text)
        assert set(net.state_dict()) == names
        caplog.clear()
    assert losses["perceptual"] > 0


def test_impossible_settings_are_said_in_one_sentence():
    for wrong, message in (
        ({"mixup_probability": 0.5}, "mixup_probability must be 0"),
        ({"image_size": 32, "decoder_widths": (8,) * 6}, "image_size must be a multiple of 64"),
    ):
        with pytest.raises(DfnbError, match=message) as error:
            lae.Settings.check(wrong, "test")
        assert "\n" not in str(error.value)


def paint(folder, index, value=255):
    for row in index.itertuples():
        shape = cv2.imread(str(folder / row.image)).shape[:2]
        mask = np.zeros(shape, np.uint8)
        mask[20:50, 30:60] = value
        cv2.imwrite(str(folder / row.mask), mask)


def test_a_person_paints_the_masks_of_the_candidates(home_of_its_own, tmp_path, monkeypatch):
    for path in (home_of_its_own / "datasets").rglob("masks.npy"):
        path.unlink()  # nobody has masks of this dataset
    first = train.train("lae", "smoke-a", settings().before(), seed=3, echo=lambda line: None)
    out = tmp_path / "Maskén für Anna"
    said = CliRunner().invoke(app, ["annotate", "export", first.folder.name, str(out), "--share", "0.1"])
    assert said.exit_code == 0, said.output
    index = pd.read_csv(out / "index.csv")
    assert len(index) == round(0.1 * first.record["n"]["train"]) and (out / index["image"].iloc[-1]).exists()
    paint(out, index.iloc[:-1])
    said = CliRunner().invoke(app, ["annotate", "import", str(out)])
    assert said.exit_code == 0, said.output
    assert f"{len(index) - 1} of {len(index)} masks imported" in said.output
    name = said.output.split('"')[1]
    run = train.train(
        "lae", "smoke-a", settings(annotations=name, images_per_epoch=None), seed=3, echo=lambda line: None
    )
    assert (run.log["loss_attention"] > 0).all()
    shown = settings(annotations=name).visible(select(load_frames("smoke-a"), "train"), 3, first)
    assert len(frames.masked(shown)) == len(index) - 1
    read = frames.Pixels(shown.attrs["folder"]).mask(shown["mask"].iloc[frames.masked(shown)[0]], 0, (96, 96))
    assert read.sum() == 900


def test_painted_masks_that_cannot_be_used_are_all_named(home_of_its_own, tmp_path):
    first = train.train("lae", "smoke-a", settings().before(), seed=3, echo=lambda line: None)
    out = tmp_path / "round"
    index = annotate.export(first.folder, out, 0.15)
    with pytest.raises(DfnbError, match=f"none of the {len(index)} masks"):
        annotate.load(out)
    paint(out, index)
    cv2.imwrite(str(out / "0001_mask.png"), np.full((40, 50), 255, np.uint8))
    cv2.imwrite(str(out / "0002_mask.png"), np.zeros((96, 96), np.uint8))
    cv2.imwrite(str(out / "0003_mask.png"), np.full((96, 96), 128, np.uint8))
    (out / "0004_mask.png").write_bytes(b"no image")
    with pytest.raises(DfnbError) as error:
        annotate.load(out)
    for said in (
        "0001_mask.png is 50 × 40 pixels, its picture 96 × 96",
        "0002_mask.png is empty",
        "0003_mask.png is not black and white",
        "0004_mask.png cannot be read",
    ):
        assert said in str(error.value)
    assert "\n" not in str(error.value) and not (home_of_its_own / "annotations").exists()
    with pytest.raises(DfnbError, match="is not empty"):
        annotate.export(first.folder, out, 0.15)
    with pytest.raises(DfnbError, match="holds no imported annotations"):
        settings(annotations="nobody").visible(select(load_frames("smoke-a"), "train"), 3, first)


def scores(right_real, right_fake, n=40):
    rows = []
    for label, right in ((0, right_real), (1, right_fake)):
        for i in range(n):
            hit = i < right * n
            rows.append({"video": f"{label}/{i}", "track": 0, "frame": 0, "cluster": str(i), "label": label,
                "method": "swap" if label else "real", "score": 0.9 if hit == bool(label) else 0.1})  # fmt: skip
    return pd.DataFrame(rows)


def test_balanced_accuracy_by_hand():
    row = balanced_accuracy(
        pd.concat([scores(0.9, 0.5), scores(0.9, 0.5).query("label == 0").assign(video=lambda t: t["video"] + "b")])
    )
    assert row["value"] == pytest.approx(0.7) and row["low"] < 0.7 < row["high"]
    spread = np.sqrt((0.09 / 39 + 0.25 / 39) / 4)
    assert row["high"] - row["low"] == pytest.approx(4 * spread, rel=0.5)


def test_gains_are_paired_by_seed():
    lines = {"0 %": [0.5, 0.52, 0.54, 0.5, 0.51], "main": [0.6, 0.63, 0.63, 0.61, 0.6], "few": [0.7]}
    rows = [
        {"line": line, "seed": seed, "accuracy unseen": value, "AUC unseen": 1 - value}
        for line, values in lines.items()
        for seed, value in enumerate(values)
    ]
    gain = generalise.gains(pd.DataFrame(rows), "0 %", ("accuracy unseen", "AUC unseen"))
    differences = np.subtract(lines["main"], lines["0 %"])
    half = stats.t.ppf(0.975, 4) * differences.std(ddof=1) / 5**0.5
    expected = f"{differences.mean():+.3f} [{differences.mean() - half:+.3f}, {differences.mean() + half:+.3f}]"
    assert gain.loc["main", "Δ accuracy unseen"] == expected and gain.loc["main", "seeds"] == "5"
    assert gain.loc["main", "Δ AUC unseen"].startswith("-0.100 [")
    assert gain.loc["few", "Δ accuracy unseen"] == "+0.200" and gain.loc["few", "seeds"] == "1 (exploratory)"


def test_the_mark_tells_as_much_as_the_cue_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))

    def agreeing(cue):
        said = []
        real = synth.mark
        monkeypatch.setattr(synth, "mark", lambda images, warm, draw: said.append(warm) or real(images, warm, draw))
        made = synth.Settings(identities={"train": 60}, videos=1, frames=1, size=64, methods=("swap",), cue=cue)
        people, _ = synth.cast("x", made)
        labels = []
        for each in people:
            labels += [
                bool(row[1][0]["label"])
                for row in synth.make_videos(tmp_path / str(cue), "x", each, people[each.donor], made)
            ]
        monkeypatch.setattr(synth, "mark", real)
        return np.mean(np.equal(said, labels))

    assert agreeing(1.0) == 1.0
    assert 0.83 < agreeing(0.8) < 0.97
    assert 0.35 < agreeing(0.0) < 0.65


def test_a_dataset_without_a_cue_is_described_as_before(home):
    assert "cue" not in core.read_json(home / "datasets" / "smoke-a" / "dataset.json")


def test_interrupted_in_either_phase_it_ends_in_the_same_weights(home, tmp_path, monkeypatch):
    """Two epochs of two steps in phase one and one in phase two, stopped before steps 3 and 5 of all."""
    changes = {"representation_epochs": 2, "seed": 3}
    seed = changes.pop("seed")
    straight = train.train("lae", "smoke-a", settings(**changes), seed, echo=lambda line: None)
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "datasets").symlink_to(home / "datasets")
    monkeypatch.setattr(train, "CHECKPOINT_MINUTES", 1e-6)
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
            train.train("lae", "smoke-a", settings(**changes), seed, echo=lambda line: None)
    resumed = train.train("lae", "smoke-a", settings(**changes), seed, echo=lambda line: None)
    phases = [
        core.read_json(path)["parameters"]["settings"]["phase"] for path in (tmp_path / "runs").glob("*/record.json")
    ]
    assert sorted(phases) == ["regularisation", "representation"] and len(steps) == 8
    ours, theirs = (torch.load(run.folder / "last.ckpt") for run in (resumed, straight))
    assert all(torch.equal(ours["network"][name], theirs["network"][name]) for name in theirs["network"])
    moments = [state["adversary"]["state"] for state in (ours, theirs)]
    assert moments[0] and all(torch.equal(moments[0][k]["exp_avg"], moments[1][k]["exp_avg"]) for k in moments[1])
