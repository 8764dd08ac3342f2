"""Locate and Verify: its parts do what their equations say, each can be left out, and SSPSL teaches what it should."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from networks import batch_of, small

from dfnb import papers
from dfnb.core import DfnbError
from dfnb.data.frames import COLUMNS, Sample
from dfnb.papers import locate_and_verify as lv

MODULES = ("second_stream", "srm", "cmce", "lfga", "mpff")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def mpff_by_its_equation(mpff, maps):
    """Every map projected as a whole, its border repeated, x5 tiled to its size."""
    height, width = maps[5].shape[-2:]
    patch, fused = mpff.project[5](maps[5]), []
    for x, project, k in zip(maps[:5], mpff.project, mpff.sides):
        x = project(x)
        down, right = height * k - x.shape[2], width * k - x.shape[3]
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")
        t = torch.tanh(x * F.interpolate(patch, size=x.shape[-2:], mode="nearest")).sum(1, keepdim=True)
        fused.append(F.pixel_unshuffle(t, k))
    return torch.cat([*fused, maps[5]], 1)


@pytest.mark.parametrize("training", [True, False])
def test_mpff_is_its_equation_with_gradients_and_running_statistics(training):
    """Odd sizes, so that borders are repeated; the statistics move once although the projection is computed twice."""
    results = []
    for forward in (lambda mpff, maps: mpff(maps), mpff_by_its_equation):
        torch.manual_seed(0)
        mpff = lv.MPFF([3, 4, 5, 6, 6, 6], [2, 4, 8, 16, 16, 16], 8).double().train(training)
        sizes = ((29, 43), (15, 22), (8, 11), (4, 6), (4, 6), (4, 6))
        maps = [torch.randn(2, c, *s, dtype=torch.float64) for c, s in zip((3, 4, 5, 6, 6, 6), sizes)]
        maps = [x.requires_grad_() for x in maps]
        fused = forward(mpff, maps)
        assert fused.shape == (2, mpff.out_channels, 4, 6)
        (fused * torch.randn_like(fused)).sum().backward()
        gradients = [x.grad for x in maps] + [p.grad for p in mpff.parameters()]
        results.append([fused, *gradients, *(value.double() for value in mpff.buffers())])
    torch.testing.assert_close(*results)


def test_cmce_updates_the_second_stream_from_the_first_as_named():
    x, y = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([4.0, 3.0]).view(1, 2, 1, 1)
    s = 24 / 25
    torch.testing.assert_close(lv.cmce(x, y, "released"), (x + s * y, y + s * (x + s * y)))
    torch.testing.assert_close(lv.cmce(x, y, "corrected"), (x + s * y, y + s * x))


def test_images_without_a_mask_are_left_out_of_seg():
    network, batch = small("locate_and_verify").eval(), batch_of()
    outputs = network(batch["image"])
    some = network.losses(outputs, batch | {"has_mask": torch.tensor([True, False, True, True])})
    known = {name: batch[name][[0, 2, 3]] for name in ("label", "mask", "has_mask")}
    alone = network.losses({name: value[[0, 2, 3]] for name, value in outputs.items()}, batch | known)
    assert some["seg"].item() == pytest.approx(alone["seg"].item())
    assert some["cls"].item() == pytest.approx(network.losses(outputs, batch)["cls"].item())
    none = network.losses(outputs, batch | {"has_mask": torch.zeros(4, dtype=torch.bool)})
    none["total"].backward()
    assert none["seg"].item() == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_released_labels_call_every_frame_fake():
    batch = batch_of()
    outputs = small("locate_and_verify").eval()(batch["image"])
    released = small("locate_and_verify", real_label="released").losses(outputs, batch)
    corrected = small("locate_and_verify").losses(outputs, batch)
    as_fake = small("locate_and_verify").losses(outputs, batch | {"label": torch.ones(4, dtype=torch.int64)})
    assert released["cls"].item() == as_fake["cls"].item() != corrected["cls"].item()
    assert released["seg"].item() == corrected["seg"].item()


@pytest.mark.parametrize(
    "modules", [*(tuple(m for m in MODULES if m != without) for without in MODULES[1:]), ("mpff",), ()]
)
def test_each_module_can_be_left_out(modules):
    network, batch = small("locate_and_verify", modules=modules), batch_of()
    network.losses(network(batch["image"]), batch)["total"].backward()
    assert all(p.grad is not None for p in network.parameters())
    assert len(network.rgb) == 6 and len(network.srm) == (7 if "second_stream" in modules else 1)
    assert len(network.lfga) == 3 * ("lfga" in modules) and (network.mpff is not None) == ("mpff" in modules)
    assert list(network.maps()) == ["located patches", "RGB stream", "SRM stream"][: 3 if len(network.srm) > 1 else 2]
    assert list(network.panel({}, batch)) == ["SRM residual"] * ("srm" in modules)


def test_a_crop_one_pixel_larger_is_cut_and_not_resized():
    pixels = np.random.default_rng(0).random((300, 300, 3))
    sample = Sample(pixels, pixels[..., 0] > 0.5, np.zeros((5, 2)), 1, True)
    (cut,) = lv.Settings().samples(sample, None)
    assert np.array_equal(cut.image, sample.image[:299, :299]) and np.array_equal(cut.mask, sample.mask[:299, :299])
    (same,) = lv.Settings(augmentation="light").samples(sample, None)
    assert same.image.shape[:2] == (300, 300)


# Semi-supervised patch similarity learning

FACE = torch.tensor([[38.3, 41.7], [73.5, 41.5], [56.0, 61.7], [41.5, 82.4], [70.7, 82.2]])  # in 112 × 112


def region_of(landmarks, part, size=112, grid=112):
    """The region of one face as (grid, grid); with a grid of the image's size, of pixels."""
    return lv.reference_region(landmarks[None], (size, size), (grid, grid), part)[0]


@pytest.mark.parametrize(("part", "inside"), [("mouth", [3, 4]), ("nose", [2]), ("eyes", [0, 1])])
def test_the_reference_region_is_the_named_part_of_the_face_and_turns_with_it(part, inside):
    region = region_of(FACE, part)
    x, y = FACE.round().long().T
    assert region[y, x].nonzero().flatten().tolist() == inside
    height, width = (region.nonzero().max(0).values - region.nonzero().min(0).values + 1).tolist()
    half_width, half_height = lv.TABLES["reference"][part]
    eyes = (FACE[1] - FACE[0]).norm().item()
    assert abs(width - 2 * half_width * eyes) <= 1.5 and abs(height - 2 * half_height * eyes) <= 1.5
    tilted = (FACE - 56) @ torch.tensor([[0.9, 0.3], [-0.3, 0.9]]) + 53
    before = region_of(tilted, part, grid=14)
    turned = torch.stack([tilted[:, 1], 111 - tilted[:, 0]], 1)  # a quarter turn counter-clockwise
    assert torch.equal(region_of(turned, part, grid=14), before.rot90())
    mirrored = torch.stack([111 - tilted[:, 0], tilted[:, 1]], 1)[[1, 0, 2, 4, 3]]
    assert torch.equal(region_of(mirrored, part, grid=14), before.flip(1))
    assert before.any() and not torch.equal(before, before.rot90()) and not torch.equal(before, before.flip(1))


def test_sspsl_without_any_landmarks_is_refused():
    frames = pd.DataFrame({"label": [0, 1], "mask": ["", "m.npy"], "landmarks": [None, None]})
    frames["landmarks"] = frames["landmarks"].astype(pd.ArrowDtype(COLUMNS["landmarks"]))
    frames.attrs["folder"] = "data/plain"
    settings = lv.Settings(sspsl=True, annotated=0.0, mixup_probability=0.0)
    with pytest.raises(DfnbError, match="data/plain has no landmarks, by which SSPSL finds its reference region"):
        settings.visible(frames, 0, None)


def test_without_masks_of_fakes_and_sspsl_only_patches_of_real_frames_teach():
    network, batch = small("locate_and_verify", annotated=0.0, mixup_probability=0.0), batch_of()
    batch["has_mask"] = batch["label"] == 0
    outputs = network(batch["image"])
    loss = network.losses(outputs, batch)["seg"]
    real = outputs["seg"][batch["label"] == 0]
    torch.testing.assert_close(loss, F.cross_entropy(real, torch.zeros(real[:, 0].shape, dtype=torch.int64)))


def test_patches_without_a_mask_are_taught_by_the_anchor_they_resemble():
    projection = torch.zeros(3, 2, 1, 4)
    projection[0, 0] = 1  # real: all patches show the first direction
    projection[1, 1, 0, :2] = projection[1, 0, 0, 2:] = 1  # a fake: its first two show the second
    projection[2, 1, 0, 3] = projection[2, 0, 0, :2] = 1
    projection[2, :, 0, 2] = torch.tensor([0.8, 0.6])  # nearer to the first, unless real patches blur the fake anchor
    region = torch.zeros(3, 1, 4, dtype=torch.bool)
    region[1, 0, 0] = region[0] = True  # of a real image it must not count
    labels = lv.pseudo_labels(projection, torch.tensor([0, 1, 1]), region)
    assert labels.dtype == torch.int64 and labels[:, 0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]


def sspsl(**changes):
    return small("locate_and_verify", sspsl=True, mixup_probability=0.0, **changes)


def unmasked(**changes):
    """Two real and two fakes of 96 × 96, the fakes with a face but without a mask, after the warm-up."""
    landmarks = (FACE * 96 / 112).expand(4, 5, 2).clone()
    known = torch.tensor([True, False, True, False])
    return batch_of(mask=torch.zeros(4, 1, 96, 96), has_mask=known, landmarks=landmarks, epoch=2) | changes


@pytest.mark.parametrize("missing", ["real images", "landmarks"])
def test_sspsl_without_an_anchor_ignores_the_fakes(missing):
    batch = unmasked()
    if missing == "landmarks":
        batch["landmarks"] = torch.full((4, 5, 2), torch.nan)
    else:
        batch |= {"label": torch.ones(4, dtype=torch.int64), "has_mask": torch.zeros(4, dtype=torch.bool)}
    network = sspsl()
    outputs = network(batch["image"])
    labels = network.pseudo(outputs, batch)
    assert (labels[batch["label"] == 1] == papers.IGNORED).all() and (labels[batch["label"] == 0] == 0).all()
    assert network.panel(outputs, batch)["pseudo-labels"][3].isnan().all()
    losses = network.losses(outputs, batch)
    losses["total"].backward()
    real = outputs["seg"][[0, 2]]
    expected = F.cross_entropy(real, torch.zeros(2, 12, 12).long()).item() if missing == "landmarks" else 0
    assert losses["seg"].item() == pytest.approx(expected)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_masks_teach_where_they_are_known_and_pseudo_labels_elsewhere():
    network, batch = sspsl(), unmasked()
    batch["has_mask"][1] = True
    batch["mask"][1, :, 40:] = 1
    outputs = network(batch["image"])
    pseudo = network.pseudo(outputs, batch)
    assert pseudo[3].unique().tolist() == [0, 1] and not pseudo[[0, 2]].any()
    taught = torch.stack([torch.zeros(12, 12).long(), (torch.arange(12) >= 5).long()[:, None].expand(12, 12)])
    taught = torch.cat([taught, torch.zeros(1, 12, 12).long(), pseudo[3:]])
    assert not torch.equal(pseudo[1], taught[1])
    losses = network.losses(outputs, batch)
    assert losses["seg"].item() == pytest.approx(F.cross_entropy(outputs["seg"], taught).item())
    assert losses.keys() == {"cls", "seg", "total"}


def test_real_patches_count_once_more_in_the_first_epochs():
    network, batch = sspsl(warmup_epochs=3), unmasked()
    outputs = network(batch["image"])
    real = F.cross_entropy(outputs["seg"][[0, 2]], torch.zeros(2, 12, 12, dtype=torch.int64)).item()
    for epoch, warm in ((0, True), (2, True), (3, False)):
        losses = network.losses(outputs, batch | {"epoch": epoch})
        assert ("warm" in losses) == warm
        assert losses["total"].item() == pytest.approx(losses["cls"].item() + losses["seg"].item() + real * warm)


def test_the_monitor_compares_pseudo_labels_with_masks(monkeypatch):
    network, batch = sspsl().eval(), batch_of()
    batch["has_mask"][3] = False
    taken = torch.zeros(4, 12, 12, dtype=torch.int64)
    taken[1, 3:9] = taken[3] = 1  # the true patches are the upper six rows; the last fake has no mask to tell
    monkeypatch.setattr(network, "pseudo", lambda outputs, batch: taken)
    found = network.monitor(network(batch["image"]), batch)
    assert found == pytest.approx({"pseudo_iou": 3 / 9, "pseudo_precision": 3 / 6, "pseudo_recall": 3 / 6})
    assert small("locate_and_verify").monitor({}, batch) == {}


SHARED = [[0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1, 1, 0]]  # the first process sees no fake in the first batch


def shared_case():
    draw = torch.Generator().manual_seed(0)
    projection = F.normalize(torch.randn(8, 6, 3, 3, generator=draw), dim=1)
    return projection, torch.rand(8, 3, 3, generator=draw) > 0.6


def labelled_by_one_of_two(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    projection, region = shared_case()
    part = slice(4 * rank, 4 * rank + 4)
    found = [
        [lv.pseudo_labels(projection[part], torch.tensor(label)[part], region[part], together) for label in SHARED]
        for together in (True, False)
    ]
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_share_their_anchors(tmp_path):
    torch.multiprocessing.start_processes(labelled_by_one_of_two, (str(tmp_path),), 2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    projection, region = shared_case()
    whole = [lv.pseudo_labels(projection, torch.tensor(label), region) for label in SHARED]
    together, alone = ([torch.cat(pair) for pair in zip(*(part[i] for part in parts))] for i in (0, 1))
    assert all(torch.equal(*pair) for pair in zip(together, whole))
    assert (whole[0][4:] == 1).any() and (alone[0][4:] == papers.IGNORED).all()
    assert not torch.equal(alone[1], whole[1])
