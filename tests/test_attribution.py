"""Maps: each method must find a planted mark, the measures must say so, and what ignores the network must be caught."""

import os
from pathlib import Path

import captum.attr
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from records import SAID
from torch import nn
from typer.testing import CliRunner

from dfnb import core, papers, scores, train
from dfnb.attribution import maps, measures
from dfnb.cli import app
from dfnb.core import DfnbError
from dfnb.data import prepare
from dfnb.data.frames import as_batch, write_dataset, write_video
from dfnb.papers import xception
from dfnb.train import Run

SIDE, MARK = 48, 12
EXPLAIN = [name for name in maps.METHODS if name not in maps.CONTROLS]


class Planted(papers.Network):
    """Fake is what has something red in it: one convolution that sees red, and nothing else."""

    def __init__(self):
        super().__init__()
        self.red, self.relu, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Linear(2, 2)
        with torch.no_grad():
            self.red.weight.zero_()
            self.red.weight[0, :, 1, 1] = torch.tensor([1.0, -0.5, -0.5])
            self.red.bias.copy_(torch.tensor([-1.0, -1.0]))
            self.head.weight.copy_(torch.tensor([[0.0, 0.0], [80.0, 0.0]]))
            self.head.bias.copy_(torch.tensor([0.0, -2.0]))

    def forward(self, images):
        seen = self.relu(self.red(images))
        return {"cls": self.head(seen.mean((2, 3))), "seen": seen, "local": seen.mean(3).transpose(0, 1)}

    def localise(self, outputs):
        return (outputs["seen"][:, 0] > 0).float()

    def maps(self):
        return {"marks": "localise", "red stream": "red", "union": ("marks", "red stream")}


class PlantedRun(Run):
    """A run whose network is the planted one."""

    def network(self, weights=None):
        return Planted().eval()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A dataset whose fakes have a red mark in one corner, which is their mask, and the run that knows it."""
    patch, home = pytest.MonkeyPatch(), tmp_path_factory.mktemp("planted")
    patch.setenv("DFNB_HOME", str(home))
    common = {"dataset": "planted", "track": 0, "identity": "", "source": "", "scale": 1.0}
    common |= {"landmarks": [12, 16, 36, 16, 24, 26, 16, 36, 32, 36], "crop_box": [0, 0, SIDE, SIDE]}
    for i in range(16):
        label, draw = i % 2, core.rng("planted", i)
        crops = draw.integers(90, 160, (2, SIDE, SIDE, 1), dtype=np.uint8).repeat(3, 3)
        masks = np.zeros((2, SIDE, SIDE), bool)
        if label:
            corner = tuple(slice(0, MARK) if draw.random() < 0.5 else slice(SIDE - MARK, SIDE) for _ in range(2))
            crops[(slice(None), *corner)], masks[(slice(None), *corner)] = (255, 0, 0), True
        row = {"split": "test" if i > 3 else "train", "cluster": str(i), "label": label}
        rows = [common | row | {"method": "mark" if label else "real", "frame": k} for k in range(2)]
        # the masks of two videos are unknown
        write_video(home / "datasets" / "planted" / "videos" / f"v{i}", rows, crops, None if i > 13 else masks)
    record = write_dataset(home / "datasets" / "planted", {"size": SIDE, "scale": 2.0})
    settings = xception.Settings(backbone="dfnb_plain7", pretrained=False, image_size=SIDE)
    parameters = {"paper": "xception", "train_set": "planted", "seed": 0, "seen_methods": None}
    parameters |= {"settings": settings.model_dump(mode="json"), "fingerprint": record["fingerprint"]}
    run = PlantedRun(home / "runs" / "planted", SAID | {"parameters": parameters, "weights_sha256": "planted"})
    yield run, measures.sample("planted", 6)
    patch.undo()


@pytest.fixture
def images(planted):
    run, chosen = planted
    return as_batch(chosen, run.settings)["image"]


def test_the_sample_is_balanced_and_of_the_test_split(planted):
    _, chosen = planted
    assert chosen["method"].value_counts().to_dict() == {"mark": 6, "real": 6} and set(chosen["split"]) == {"test"}
    assert chosen["video"].nunique() == 12


@pytest.mark.parametrize("name", [*EXPLAIN, "red stream"])
def test_each_method_finds_the_planted_mark_and_the_measures_say_so(planted, name):
    run, chosen = planted
    measures.measure(run, chosen, name)
    table = core.read_table(train.shard(run.folder, "planted", f"map {name}"))
    assert len(table) == 6 and (table["label"] == 1).all()
    clean = (
        core.read_table(train.shard(run.folder, "planted"))
        .astype({"video": str})
        .set_index(["video", "frame"])["score"]
    )
    assert (table.set_index(["video", "frame"])["score"] == clean.reindex(zip(table["video"], table["frame"]))).all()
    masked = table[table["chance"].notna()]
    assert len(masked) == 5 and (masked["chance"] == round(MARK**2 / SIDE**2, scores.DIGITS)).all()
    assert masked["pointing"].mean() > 0.9 and masked["energy"].mean() > 0.55 and masked["pixel_ap"].mean() > 0.8
    assert masked["best_iou"].mean() > 0.6 and masked["pixel_auc"].mean() > 0.97
    chance = measures.measure(run, chosen, "random")
    assert chance["energy"].mean() < 0.2 and chance["pixel_ap"].mean() < 0.3
    for kind, sign in (("deletion", 1), ("insertion", -1)):  # these need no mask
        assert table[[kind, f"{kind} 0", f"{kind} 100"]].notna().all(axis=None)
        assert sign * table[kind].mean() < sign * chance[kind].mean()


def test_deletion_and_insertion_end_where_they_must(planted, images):
    network = planted[0].network()
    curves = measures.faithfulness(network, images, (images[:, 0] - images[:, 1] > 1).float().numpy())
    whole, empty = (network.score(network(shown)).detach().numpy() for shown in (images, images * 0))
    for kind, ends in {"deletion": (whole, empty), "insertion": (empty, whole)}.items():
        np.testing.assert_allclose(curves[kind][:, [0, -1]], np.stack(ends, 1), atol=1e-6)
    fake = planted[1]["label"].to_numpy() == 1  # the mark is 6 % of their pixels
    assert (curves["deletion"][fake, 1] < 0.2).all() and (curves["insertion"][fake, 1] > 0.9).all()


def test_grad_cam_is_its_formula(planted, images):
    network = planted[0].network()
    activation = network.relu(network.red(images)).detach().requires_grad_()
    network.head(activation.mean((2, 3))).diff(dim=1).sum().backward()
    expected = (activation.grad.mean((2, 3), keepdim=True) * activation).sum(1).relu().detach()
    np.testing.assert_allclose(maps.grad_cam(network, images).numpy(), expected.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["Grad-CAM", "Integrated Gradients", "superpixels"])
def test_maps_are_those_of_captum_by_hand(planted, images, method):
    network = planted[0].network()

    def logit(batch):
        cls = network(batch)["cls"]
        return cls[:, 1] - cls[:, 0]

    by_hand = {
        "Grad-CAM": lambda: captum.attr.LayerGradCam(logit, network.relu).attribute(images).relu(),
        "Integrated Gradients": lambda: captum.attr.IntegratedGradients(logit).attribute(
            images, 0 * images, n_steps=24
        ),
        "superpixels": lambda: captum.attr.FeatureAblation(logit).attribute(
            images, 0, feature_mask=maps.segments(images)
        ),
    }[method]()
    expected = by_hand.sum(1).clamp(min=0).detach().numpy()
    expected /= np.maximum(expected.max((1, 2), keepdims=True), 1e-12)
    np.testing.assert_allclose(maps.compute(network, images, method), expected, atol=2e-3)


def test_grad_cam_sees_what_moves_the_score_also_where_it_is_sure(planted, images):
    network = planted[0].network()
    before = maps.compute(network, images, "Grad-CAM")
    with torch.no_grad():
        network.head.bias[1] += 200  # P(fake) is exactly 1 in float32: the gradient of the score is gone
    assert (network.score(network(images)) == 1).all()
    np.testing.assert_allclose(maps.compute(network, images, "Grad-CAM"), before, atol=1e-3)


def test_grad_cam_is_of_the_last_map_that_the_decision_uses():
    class Sideways(nn.Module):
        """Residual block, in-place activation, and a map beside the decision."""

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
            self.aside, self.head = nn.Conv2d(4, 1, 1), nn.Linear(4, 2)

        def forward(self, images):
            seen = self.body(images)
            return {"cls": self.head(seen.mean((2, 3))), "aside": self.aside(seen)}

    torch.manual_seed(0)
    network, images = Sideways(), torch.randn(2, 3, 8, 8)
    weights = network.head.weight[1] - network.head.weight[0]
    seen = network.body(images)
    expected = (weights[:, None, None] / 64 * seen).sum(1).relu()  # the gradient of a mean is 1 / n
    torch.testing.assert_close(maps.grad_cam(network, images), expected.detach())
    with pytest.raises(DfnbError, match="no map with an effect on the decision"):
        maps.grad_cam(network, images, network.aside)


def test_superpixels_keep_to_colours(planted, images):
    regions = maps.segments(images)
    assert regions.shape == (len(images), 1, SIDE, SIDE) and regions.dtype == torch.int64
    assert 50 < regions.max() < 80 and regions.min() == 0
    fake = int(np.flatnonzero(planted[1]["label"])[0])
    red = images[fake, 0] - images[fake, 1] > 1
    crossing = np.intersect1d(regions[fake, 0][red], regions[fake, 0][~red])
    assert np.isin(regions[fake, 0][red], crossing).mean() < 0.2


def test_random_blocks_differ_for_every_frame_and_are_the_same_again(planted, monkeypatch):
    run, chosen = planted
    whole = maps.explain(run.network(), run.settings, chosen, "random")
    assert len(np.unique(whole.reshape(len(whole), -1), axis=0)) == len(chosen)
    monkeypatch.setattr(maps, "PIXELS", 5 * SIDE**2)  # other chunks
    np.testing.assert_array_equal(maps.explain(run.network(), run.settings, chosen, "random"), whole)
    alone = maps.explain(run.network(), run.settings, chosen.iloc[[7]], "random")
    np.testing.assert_array_equal(alone[0], whole[7])


def test_the_union_is_the_maximum_and_says_how_far_apart_its_parts_are(planted, images, monkeypatch):
    run, chosen = planted
    network = run.network()
    parts = [maps.compute(network, images, name) for name in ("marks", "red stream")]
    np.testing.assert_array_equal(maps.compute(network, images, "union"), np.maximum(*parts))

    def squares(run, frames, name):
        """Squares of 24 pixels; the second is moved by 12 and empty in the first frame."""
        drawn = np.zeros((len(frames), SIDE, SIDE), np.float32)
        shift = 12 * (name == "red stream")
        drawn[int(shift > 0) :, :24, shift : 24 + shift] = 1
        return drawn

    monkeypatch.setattr(maps, "of", squares)
    table = measures.measure(run, chosen, "union", curves=False)
    assert "deletion" not in table and (table["energy"].dropna() < 1).all()
    assert np.isnan(table["apart"][0]) and (table["apart"][1:] == np.float32(round(1 - 12 / 36, scores.DIGITS))).all()


def test_the_cascade_makes_everything_random_from_the_decision_down(planted, images):
    network = planted[0].network()
    before = {name: value.clone() for name, value in network.named_parameters()}
    copies = measures.cascade(network, images[:1])
    changed = {
        stage: {name.split(".")[0] for name, value in made.named_parameters() if not torch.equal(value, before[name])}
        for stage, made in copies.items()
    }
    assert changed == {"quarter": set(), "half": {"head"}, "all": {"head", "red"}}
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())
    again = measures.cascade(network, images[:1])["all"].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in copies["all"].state_dict().items())


def test_likeness_is_a_rank_correlation(planted):
    draw = core.rng("similarity")
    a = draw.random((3, 24, 24)).astype(np.float32)
    flat = np.ones_like(a)
    np.testing.assert_allclose(measures.similarity(a, np.sqrt(a)), 1)  # the same order
    np.testing.assert_allclose(measures.similarity(a, 1 - a), -1)
    np.testing.assert_array_equal(measures.similarity(a, flat), 0)
    assert abs(measures.similarity(a, draw.random((3, 24, 24)).astype(np.float32))).max() < 0.2


def test_the_sanity_test_finds_what_ignores_the_network(planted, monkeypatch):
    run, chosen = planted
    monkeypatch.setitem(maps.EXPLAINERS, "zeros", lambda network, images: 0 * images[:, 0])
    names = ["Grad-CAM", "superpixels", "edges", "random", "zeros"]
    measures.sanity(run, chosen, names, {"another seed": run})
    tables = {name: core.read_table(train.shard(run.folder, "planted", f"sanity {name}")) for name in names}
    assert all(len(table) == 6 and (table["label"] == 1).all() for table in tables.values())
    means = {name: table.mean(numeric_only=True) for name, table in tables.items()}
    for name in ("edges", "random"):
        assert means[name]["all"] == pytest.approx(1, abs=1e-4) and means[name]["empty"] == 0
    for name in ("Grad-CAM", "superpixels"):
        assert means[name]["all"] < measures.FAILS["all"] and means[name]["another seed"] == pytest.approx(1, abs=1e-4)
    assert means["zeros"]["empty"] == 1 and means["zeros"]["all"] == 0


def test_maps_are_computed_once(planted, monkeypatch):
    run, chosen = planted
    first = maps.of(run, chosen, "edges")
    monkeypatch.setattr(maps, "compute", lambda *_: pytest.fail("made twice"))
    np.testing.assert_array_equal(maps.of(run, chosen, "edges"), first)
    other = PlantedRun(run.folder, run.record | {"weights_sha256": "other weights"})
    for changed in ((other, chosen), (run, chosen.head(3))):
        with pytest.raises(pytest.fail.Exception):
            maps.of(*changed, "edges")


def test_maps_are_made_in_inference_mode_too(planted):
    run, chosen = planted
    with torch.inference_mode():
        assert maps.of(run, chosen.head(2), "Grad-CAM").shape == (2, SIDE, SIDE)


def test_maps_that_are_not_there_are_named(planted, images):
    run, _ = planted
    for name in ("DeepLift", "relu"):
        with pytest.raises(DfnbError, match=f"no map '{name}'; it has marks.*, random"):
            maps.compute(run.network(), images, name)


def test_branches_that_are_the_same_have_likeness_one():
    class Branches(nn.Module):
        def forward(self, images):
            first = images.flatten(1)
            turned = first @ torch.linalg.qr(torch.ones(12, 12).triu())[0]
            return {"local": torch.stack([first, 3 * turned + 1, torch.randn(first.shape)])}

    torch.manual_seed(0)
    likeness = measures.branch_likeness(Branches(), torch.randn(40, 3, 2, 2))
    assert likeness.loc["branch 1", "branch 2"] == pytest.approx(1, abs=1e-6)  # turned, scaled and shifted
    assert likeness.loc["branch 1", "branch 3"] < 0.6 and (np.diag(likeness) == pytest.approx(1))


class Red:
    """A detector: what is red is a face."""

    sha256 = "0" * 64

    def __call__(self, image):
        red = ((image[..., 2] > 140) & (image[..., 0] < 100)).astype(np.uint8)
        boxes = cv2.connectedComponentsWithStats(red)[2][1:]
        return np.array([[x, y, w, h, *[x, y] * 5, 0.9] for x, y, w, h, n in boxes if n > 60], float).reshape(-1, 15)


@pytest.fixture
def red(planted, monkeypatch):
    monkeypatch.setattr(prepare, "detector_path", lambda: None)
    monkeypatch.setattr(prepare, "YuNet", lambda path: Red())


def faces(*boxes, size=(300, 200)):
    image = np.full((size[1], size[0], 3), 100, np.uint8)
    for x, y, side in boxes:
        image[y : y + side, x : x + side] = (200, 30, 30)
    return image


def test_a_readers_picture_is_prepared_like_the_training_set(red, planted, tmp_path):
    Image.fromarray(faces((20, 20, 40), (150, 60, 80))).save(tmp_path / "two.png")
    face = measures.picture(tmp_path / "two.png", "planted")
    left, _, right, _ = face["crop_box"].item()
    assert len(face) == 1 and left < 150 < 230 < right  # the larger one
    assert right - left == pytest.approx(2 * 80, abs=4) and face["scale"].item() == pytest.approx(SIDE / 160, rel=0.05)
    assert maps.of(planted[0], face, "Grad-CAM").shape == (1, SIDE, SIDE)


def test_the_command_scores_files_and_says_which_it_could_not(red, planted, tmp_path, monkeypatch):
    Image.fromarray(faces((20, 20, 40), (150, 60, 80))).save(tmp_path / "two.png")
    Image.fromarray(faces()).save(tmp_path / "none.png")
    run = planted[0]
    record = run.record | {"validation_threshold": {"threshold": 0.25}}
    monkeypatch.setattr(papers.Run, "open", lambda name: PlantedRun(run.folder, record))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["score", "none.png", "two.png", "--run", run.id])
    assert done.exit_code == 2 and "not scored: none.png: " in done.stderr
    said, limit = done.stdout.splitlines()
    face = measures.picture("two.png", "planted", 8)
    fake = train.predict(Planted().eval(), face, run.settings)["score"].item()
    panel = f"two-{Path(face.attrs['folder']).name}-{run.id}.png"
    assert (
        said == f"two.png: P(fake) {fake:.2f}, mean of 1 frames; maps: {panel}"
        and (tmp_path / panel).stat().st_size > 5000
    )
    assert limit == "0.25 is exceeded by 5 % of the detector's own real validation frames. No score is a proof."
    assert CliRunner().invoke(app, ["score", "two.png", "--run", run.id]).exit_code == 0


def test_the_panels_of_files_of_one_name_stand_side_by_side_and_any_name_is_a_text(red, planted, tmp_path, monkeypatch):
    run = planted[0]
    record = run.record | {"validation_threshold": {"threshold": 0.25}}
    monkeypatch.setattr(papers.Run, "open", lambda name: PlantedRun(run.folder, record))
    monkeypatch.chdir(tmp_path)
    names = ["a/two.png", "b/two.png", "$\\frac{a}{$.png", os.fsdecode(b"caf\xe9.png"), "x" * 240 + ".png"]
    for number, name in enumerate(names):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(faces((20 + number, 20, 40), (150, 60, 80))).save(name)
    done = CliRunner().invoke(app, ["score", *names, "--run", run.id])
    assert done.exit_code == 0, done.exception
    assert len([*tmp_path.glob(f"*{run.id}.png")]) == len(names)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "~no_such_user/x.png"])
def test_a_path_that_cannot_be_one_is_one_sentence(red, name):
    with pytest.raises(DfnbError, match="give the path of an image or a video") as error:
        measures.picture(name, "planted")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [0, -3])
def test_no_frames_of_a_clip_are_refused(red, tmp_path, number):
    Image.fromarray(faces((20, 20, 40))).save(tmp_path / "one.png")
    with pytest.raises(DfnbError, match="frames_per_video = "):
        measures.picture(tmp_path / "one.png", "planted", number)


def test_a_panel_that_cannot_be_written_is_one_sentence(red, planted, tmp_path, monkeypatch):
    run = planted[0]
    record = run.record | {"validation_threshold": {"threshold": 0.25}}
    monkeypatch.setattr(papers.Run, "open", lambda name: PlantedRun(run.folder, record))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(faces((20, 20, 40))).save("one.png")
    face = measures.picture("one.png", "planted", 8)
    Path(f"one-{Path(face.attrs['folder']).name}-{run.id}.png").mkdir()
    Path(f"one-{Path(face.attrs['folder']).name}-{run.id}.png/x").touch()
    done = CliRunner().invoke(app, ["score", "one.png", "--run", run.id])
    assert done.exit_code == 2 and "cannot be written" in done.stderr
    assert not [*tmp_path.glob(".*")]


def test_a_picture_without_a_face_or_file_is_one_sentence(red, tmp_path):
    Image.fromarray(faces()).save(tmp_path / "none.png")
    with pytest.raises(
        DfnbError, match=r"none\.png: .* no video gave a usable face; only faces of 32 pixels or more are used"
    ):
        measures.picture(tmp_path / "none.png", "planted")
    with pytest.raises(DfnbError, match="there is no file"):
        measures.picture(tmp_path / "nowhere.png", "planted")
