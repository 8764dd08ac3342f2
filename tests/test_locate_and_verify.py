"""Locate and Verify: its parts follow their equations, and SSPSL teaches what it should."""

import numpy as np
import pandas as pd
import paper_check
import pytest
import torch
import torch.nn.functional as F
from networks import batch_of, recipe, small

from dfnb.data.loading import Sample
from dfnb.papers import locate_and_verify as lv
from dfnb.papers.contract import IGNORED
from facesets.checks import DfnbError
from facesets.frames import COLUMNS

MODULES = ("second_stream", "srm", "cmce", "lfga", "mpff")
WITHOUT_ONE = [tuple(m for m in MODULES if m != left_out) for left_out in MODULES[1:]]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---------------------------------------------------------------- parts


def test_noise_residuals_are_those_of_the_three_published_filters():
    square = torch.tensor([[-1.0, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    wide = torch.tensor([[-1.0, 2, -2], [2, -6, 8], [-2, 8, -12]]) / 12  # a corner with the middle
    line = torch.tensor([1.0, -2, 1]) / 2
    dot = torch.zeros(1, 3, 9, 9)
    dot[0, 1, 4, 4] = 0.6
    found = lv.srm_residual(dot)[0] / 0.6
    torch.testing.assert_close(found[0, 3:6, 3:6], square)
    torch.testing.assert_close(found[1, 2:5, 2:5], wide)
    torch.testing.assert_close(found[1], found[1].rot90())
    torch.testing.assert_close(found[2, 4, 3:6], line)
    assert [int(each.count_nonzero()) for each in found] == [9, 25, 3]
    bright = lv.srm_residual(100 * dot)
    assert (bright.min(), bright.max()) == (-3, 3)
    torch.testing.assert_close(lv.srm_residual(dot.roll(1, 1))[0], 0.6 * found)  # of any colour


def test_cmce_updates_the_second_stream_from_the_first_as_named():
    x = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    y = torch.tensor([4.0, 3.0]).view(1, 2, 1, 1)
    s = 24 / 25
    torch.testing.assert_close(lv.cmce(x, y, "released"), (x + s * y, y + s * (x + s * y)))
    torch.testing.assert_close(lv.cmce(x, y, "corrected"), (x + s * y, y + s * x))
    nothing = torch.zeros(1, 2, 1, 1)  # of ReLU
    torch.testing.assert_close(lv.cmce(x, -x, "released"), (2 * x, nothing))
    torch.testing.assert_close(lv.cmce(-x, x, "released"), (nothing, 3 * x))


@pytest.mark.parametrize("modules", [*WITHOUT_ONE, ("mpff",), ()])
def test_each_module_can_be_left_out(modules):
    network = small("locate_and_verify", modules=modules)
    batch = batch_of()
    network.losses(network(batch["image"]), batch)["total"].backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert ("SRM stream" in network.maps()) == ("second_stream" in modules)


def test_maps_are_normed_and_lose_what_is_negative_before_they_are_compared_or_judged():
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), False, keepdim=True)
    normed = (x - mean) / (variance + 1e-5).sqrt()
    head = lv.patch_head(3, 2).double()
    expected = torch.einsum("oc,bchw->bohw", head[2].weight[:, :, 0, 0], normed.clamp(min=0))
    torch.testing.assert_close(head(x), expected)
    projection = lv.MPFF([3] * 6, [1] * 6, 5).double().project[2]
    mapped = torch.einsum("oc,bchw->bohw", projection[0].weight[:, :, 0, 0], x)
    mean = mapped.mean((0, 2, 3), keepdim=True)
    variance = mapped.var((0, 2, 3), False, keepdim=True)
    expected = ((mapped - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(projection(x), expected)


def test_likeness_compares_each_position_with_the_patch_that_covers_it():
    last = torch.rand(2, 3, 2, 3, dtype=torch.float64)
    fine = torch.rand(2, 3, 5, 10, dtype=torch.float64)  # of 8 rows and 12 columns
    found = lv.likeness(fine, last, 4)
    assert found.shape == (2, 1, 8, 12)
    for row in range(8):
        for column in range(12):
            inside = fine[..., min(max(row - 1, 0), 4), min(max(column - 1, 0), 9)]
            patch = last[..., row // 4, column // 4]
            expected = torch.tanh(inside * patch).sum(1)
            torch.testing.assert_close(found[:, 0, row, column], expected)


def test_dropout_stands_behind_the_tanh_of_the_fusion_and_before_the_layer_of_the_class():
    fusion = lv.HBFusion(5, 6, 8, 4, dropout=0.5)
    a, b = torch.randn(2, 3, 5), torch.randn(2, 3, 6)
    torch.manual_seed(1)
    found = fusion(a, b)
    torch.manual_seed(1)
    hidden = F.dropout(torch.tanh(fusion.a(a) * fusion.b(b)), 0.5)
    torch.testing.assert_close(found, fusion.out(hidden))
    network = small("locate_and_verify", dropout=0.25)
    assert network.fusion.dropout.p == 0.25
    _, layer = network.cls_head
    features = torch.randn(4, layer.in_features)
    torch.manual_seed(1)
    found = network.cls_head(features)
    torch.manual_seed(1)
    torch.testing.assert_close(found, layer(F.dropout(features, 0.25)))
    assert sum(isinstance(part, torch.nn.Dropout) for part in network.modules()) == 2


def test_lfga_adds_what_related_positions_have_to_the_second_stream():
    guide = lv.LFGA(8, 4).double()
    assert guide.gamma.tolist() == [0]
    x, y = torch.randn(2, 2, 8, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(guide(x, y), y.clamp(min=0))  # at the start
    guide.gamma.data.fill_(0.7)
    query, key, value = [
        layer(given).flatten(2)  # (B, channels, positions)
        for layer, given in ((guide.query, x), (guide.key, x), (guide.value, y))
    ]
    attention = torch.einsum("bci,bcj->bij", query, key).exp()
    attention = attention / attention.sum(2, keepdim=True)
    attended = torch.einsum("bij,bcj->bci", attention, value).view_as(y)
    torch.testing.assert_close(guide(x, y), (y + 0.7 * attended).clamp(min=0))


def test_the_second_stream_classifies_from_its_maps_but_the_fourth():
    """Seven stages: CMCE thrice, both go on from the sum, LFGA thrice; logits and gradients."""
    network = small("locate_and_verify").eval().double()
    for guide in network.lfga:
        guide.gamma.data.fill_(0.7)
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64, requires_grad=True)
    x, y, ys = images, lv.srm_residual(images), []
    for i in range(3):
        x, y = lv.cmce(network.rgb[i](x), network.srm[i](y), "released")
        ys.append(y)
    y = x = x + y
    for i in range(3):
        x = network.rgb[3 + i](x)
        y = network.lfga[i](x, network.srm[3 + i](y))
        ys.append(y)
    last = network.srm[6](y)
    fine = [F.adaptive_max_pool2d(ys[i], 12) for i in (0, 1, 2, 3, 5)]
    by_position = [each.flatten(2).mT for each in (torch.cat(fine, 1), last)]
    norm = network.cls_norm
    fused = network.fusion(*by_position) - norm.running_mean
    normed = fused / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    expected = network.cls_head[1](normed.clamp(min=0).mean(1))
    found = network(images)["cls"]
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(each[:, 1].sum(), images)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_gradients_pass_through_every_part_of_a_stream():
    """Of CMCE's cosine, LFGA's queries, MPFF's likeness and the fused maps, by differences."""
    x, y = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    guide, fusion = lv.LFGA(4, 2).double(), lv.HBFusion(4, 4, 3, 2, 0.0).double()
    guide.gamma.data.fill_(0.7)
    assert torch.autograd.gradcheck(lambda x, y: lv.cmce(x, y, "released"), (x, y))
    assert torch.autograd.gradcheck(guide, (x, y))
    assert torch.autograd.gradcheck(lambda x, y: lv.likeness(x, y[..., :1, :1], 2), (x, y))
    assert torch.autograd.gradcheck(fusion, (lv.positions(x), lv.positions(y)))


def test_the_augmentation_of_july_2023_moves_every_image():
    july = lv.Settings(augmentation_of="2023-07").released_transform()
    november = lv.Settings().released_transform()
    moved = [[step.p for step in steps.transforms[2:4]] for steps in (july, november)]
    assert moved == [[1, 1], [0.4, 0.5]]
    affine = [steps.transforms[3].transforms[0].degrees for steps in (july, november)]
    assert affine == [[-15, 15], [-45, 45]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mixup_probability": 0.5}, "SSPSL has no meaning for mixed images"),
        ({"real_label": "released"}, "the released SSPSL labels real frames right"),
    ],
)
def test_sspsl_is_refused_with_what_it_never_had(changes, sentence):
    with pytest.raises(DfnbError, match=sentence):
        lv.Settings.check({"sspsl": True, "mixup_probability": 0.0, **changes}, "the profile")


def test_a_released_random_start_is_that_of_torch():
    """Of a depthwise convolution of 3 × 3, torch's has a deviation of 1 / √(3 · 9)."""
    for start, deviation in (("released", 27**-0.5), ("corrected", (2 / (9 * 728)) ** 0.5)):
        changes = {"random_start": start, "mpff_width": 8, "fusion_width": 16, "fusion_out": 16}
        network = lv.Network(lv.Settings(pretrained=False, **changes))
        for stream in (network.rgb, network.srm):
            depthwise = stream[4].block4.rep[1].conv1.weight
            assert depthwise.shape == (728, 1, 3, 3)
            assert depthwise.std().item() == pytest.approx(deviation, rel=0.05)


def test_it_trains_a_step_on_an_efficientnet():
    changes = {"backbone": "efficientnet_b4", "pretrained": False, "image_size": 64}
    lv_settings = recipe("locate_and_verify", **changes)
    paper_check.check(lv, lv_settings)
    network = lv.Network(lv_settings).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 64, 64))["seg"].shape == (1, 2, 4, 4)


def test_a_crop_one_pixel_larger_is_cut_and_not_resized():
    pixels = np.random.default_rng(0).random((300, 300, 3))
    sample = Sample(pixels, pixels[..., 0] > 0.5, np.zeros((5, 2)), 1, True)
    cut = lv.Settings().sample(sample)
    assert np.array_equal(cut.image, sample.image[:299, :299])
    assert np.array_equal(cut.mask, sample.mask[:299, :299])
    same = lv.Settings(augmentation="light").sample(sample)
    assert same.image.shape[:2] == (300, 300)


# ---------------------------------------------------------------- labels


def test_a_patch_is_forged_if_any_of_its_pixels_is():
    mask = torch.zeros(1, 1, 11, 11)
    mask[0, 0, 2, 3] = mask[0, 0, 5, 8] = mask[0, 0, 10, 10] = 1  # the last is in no patch
    assert lv.patch_labels(mask, (3, 3))[0].tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_the_located_map_is_the_probability_of_forged_patches():
    logits = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    located = small("locate_and_verify").localise({"seg": logits})
    assert located.item() == pytest.approx(1 / (1 + np.exp(-2)))


def test_images_without_a_mask_do_not_count_in_seg():
    network = small("locate_and_verify").eval()
    batch = batch_of(has_mask=torch.tensor([True, False, True, True]))
    outputs = network(batch["image"])
    labels = lv.patch_labels(batch["mask"], (12, 12))
    expected = F.cross_entropy(outputs["seg"][[0, 2, 3]], labels[[0, 2, 3]])
    torch.testing.assert_close(network.losses(outputs, batch)["seg"], expected)
    batch["has_mask"] = torch.zeros(4, dtype=torch.bool)
    assert network.losses(outputs, batch)["seg"] == 0


def test_the_released_labels_call_every_frame_fake():
    batch = batch_of()
    outputs = small("locate_and_verify").eval()(batch["image"])
    losses = small("locate_and_verify", real_label="released").losses(outputs, batch)
    all_fake = F.cross_entropy(outputs["cls"], torch.ones(4).long())
    torch.testing.assert_close(losses["cls"], all_fake)


# ---------------------------------------------------------------- SSPSL

FACE = torch.tensor(
    [[38.3, 41.7], [73.5, 41.5], [56.0, 61.7], [41.5, 82.4], [70.7, 82.2]]
)  # of 112


def region_of(landmarks, part, grid=112):
    """The region of one face; with a grid of the image's size, of pixels."""
    return lv.reference_region(landmarks[None], (112, 112), (grid, grid), part)[0]


def test_points_are_seen_from_the_face_in_eye_distances():
    centres = lv.patch_centres((60, 40), (3, 4))
    assert centres[0, 0].tolist() == [4.5, 9.5] and centres[2, 3].tolist() == [34.5, 49.5]
    # Two faces whose eyes are 10 pixels apart, the second turned by 90°.
    eyes = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [0.0, 10.0]]])
    landmarks = torch.cat([eyes, torch.full((2, 3, 2), torch.nan)], 1)
    points = torch.tensor([[[10.0, 0.0], [5.0, 20.0]]])  # 1 × 2 of them
    origins = torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    seen = lv.face_coordinates(points, landmarks, origins)
    expected = [[[[0.5, 0.0], [0.0, 2.0]]], [[[0.0, -1.0], [2.0, -0.5]]]]
    torch.testing.assert_close(seen, torch.tensor(expected))


EYES = FACE[:2].mean(0)


@pytest.mark.parametrize(
    ("part", "inside", "centre", "half_width", "half_height"),
    [
        ("mouth", [3, 4], FACE[3:].mean(0), 0.5, 0.3),
        ("nose", [2], (FACE[2] + EYES) / 2, 0.32, 0.4),
        ("eyes", [0, 1], EYES, 0.8, 0.2),
    ],
)
def test_the_reference_region_is_the_named_part_of_the_face_and_turns_with_it(
    part, inside, centre, half_width, half_height
):
    region = region_of(FACE, part)
    x, y = FACE.round().long().T
    assert region[y, x].nonzero().flatten().tolist() == inside
    rows, columns = region.numpy().nonzero()
    eye_distance = (FACE[1] - FACE[0]).norm().item()
    assert np.ptp(columns) + 1 == pytest.approx(2 * half_width * eye_distance, abs=1.5)
    assert np.ptp(rows) + 1 == pytest.approx(2 * half_height * eye_distance, abs=1.5)
    assert (columns.mean(), rows.mean()) == pytest.approx(centre.tolist(), abs=0.6)
    tilted = (FACE - 56) @ torch.tensor([[0.9, 0.3], [-0.3, 0.9]]) + 53
    before = region_of(tilted, part, grid=14)
    quarter_turn = torch.stack([tilted[:, 1], 111 - tilted[:, 0]], 1)
    assert torch.equal(region_of(quarter_turn, part, grid=14), before.rot90())


def test_sspsl_without_any_landmarks_is_refused():
    frames = pd.DataFrame({"label": [0, 1], "mask": ["", "m.npy"], "landmarks": [None, None]})
    frames["landmarks"] = frames["landmarks"].astype(pd.ArrowDtype(COLUMNS["landmarks"]))
    frames["dataset"] = "plain"
    settings = lv.Settings(sspsl=True, annotated=0.0, mixup_probability=0.0)
    with pytest.raises(DfnbError, match="plain has no landmarks"):
        settings.visible(frames, 0, None)
    # Without a fake nothing is known of landmarks: that fakes are missing is said elsewhere.
    real = frames.head(1).assign(split="val")
    assert len(settings.visible(real, 0, None)) == 1


def test_a_larger_share_of_annotated_fakes_holds_a_smaller_one():
    frames = pd.DataFrame({"label": [0] * 4 + [1] * 8, "mask": [""] * 4 + ["m.npy"] * 8})
    frames = frames.assign(landmarks=0, split="train")
    few = lv.Settings(annotated=0.25).visible(frames, 0, None)["mask"] != ""
    more = lv.Settings(annotated=0.75).visible(frames, 0, None)["mask"] != ""
    assert few.sum() == 2
    assert more.sum() == 6
    assert more[few].all()


def test_a_patch_without_a_mask_gets_the_label_of_the_anchor_that_it_resembles():
    real, fake = torch.eye(2)
    between = torch.tensor([0.8, 0.6])  # resembles real patches more
    first = torch.stack([real, real, real, real])
    second = torch.stack([fake, fake, real, real])
    third = torch.stack([real, real, between, fake])
    projection = torch.stack([first, second, third]).transpose(1, 2)[:, :, None]
    region = torch.zeros(3, 1, 4, dtype=torch.bool)
    region[1, 0, 0] = True
    region[0] = True  # must not count, because the image is real
    labels = lv.pseudo_labels(projection, torch.tensor([0, 1, 1]), region)
    assert labels[:, 0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]


def sspsl():
    return small("locate_and_verify", sspsl=True, mixup_probability=0.0)


def unmasked():
    """Two real images and two fakes with a face and without a mask, after the warm-up."""
    landmarks = (FACE * 96 / 112).expand(4, 5, 2).clone()
    mask = torch.zeros(4, 1, 96, 96)
    has_mask = torch.tensor([True, False, True, False])
    return batch_of(mask=mask, has_mask=has_mask, landmarks=landmarks, epoch=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("landmarks", torch.full((4, 5, 2), torch.nan)), ("label", torch.ones(4).long())],
)
def test_sspsl_without_an_anchor_ignores_the_fakes(name, value):
    network, batch = sspsl(), {**unmasked(), name: value}
    outputs = network(batch["image"])
    lengths = outputs["projection"].square().sum(1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    labels = network.pseudo(outputs, batch)
    fake = batch["label"] == 1
    assert (labels[fake] == IGNORED).all()
    assert (labels[~fake] == 0).all()


def test_masks_teach_where_they_are_known_and_pseudo_labels_elsewhere():
    network, batch = sspsl(), unmasked()
    batch["has_mask"][1] = True
    batch["mask"][1, :, 40:] = 1
    outputs = network(batch["image"])
    labels = network.pseudo(outputs, batch)
    assert labels[3].unique().tolist() == [0, 1]
    labels[[0, 2]] = 0
    labels[1] = (torch.arange(12) >= 5)[:, None]
    losses = network.losses(outputs, batch)
    torch.testing.assert_close(losses["seg"], F.cross_entropy(outputs["seg"], labels))


def test_real_patches_count_once_more_in_the_first_epochs():
    network, batch = sspsl(), unmasked()
    outputs = network(batch["image"])
    real = F.cross_entropy(outputs["seg"][[0, 2]], torch.zeros(2, 12, 12).long())
    losses = network.losses(outputs, {**batch, "epoch": 1})
    torch.testing.assert_close(losses["warm"], real)
    torch.testing.assert_close(losses["total"], losses["cls"] + losses["seg"] + real)
    assert "warm" not in network.losses(outputs, batch)
