"""The embedded benchmark: the same bytes anywhere, exact masks, no leak, no shortcut, and every portrait accounted for."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfnb import core, synth
from dfnb.core import DfnbError, rng
from dfnb.data import frames

SMALL = {"identities": {"train": 4, "test": 3}, "videos": 2, "frames": 2}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    return tmp_path


def make(name="synth-a", workers=1, **changes):
    return synth.build(name, synth.preset("synth-a", **{**SMALL, **changes}), workers=workers, progress=False)


def shots(n=2, seed=0):
    """Captured frames of two people in the same scene."""
    settings = synth.preset("synth-a", frames=n)
    people = [synth.Person(number, "test", 1.5) for number in (0, 1)]
    return zip(*(synth.film(person, 0, 0, (seed, 7), settings) for person in people))


def test_same_seed_same_bytes_for_any_number_of_workers(home, monkeypatch):
    one = make(workers=1)
    monkeypatch.setenv("DFNB_HOME", str(home / "other"))
    two = make(workers=2)
    assert one["fingerprint"] == two["fingerprint"]
    monkeypatch.setenv("DFNB_HOME", str(home / "third"))
    assert make(seed=1)["fingerprint"] != one["fingerprint"]


def test_a_killed_build_goes_on_where_it_was(home):
    first = make()
    folder = frames.dataset_folder("synth-a")
    videos = sorted(path.parent for path in (folder / "videos").rglob("video.json"))
    (folder / "record.json").unlink()
    shutil.rmtree(videos[0])
    (videos[1] / "frames.npy").unlink()
    partial = videos[2].with_name(f".{videos[2].name}.partial-killed")
    partial.mkdir()
    (partial / "video.json").write_text("{}")
    kept = {path: (path / "frames.npy").stat().st_mtime_ns for path in videos[2:]}
    assert make()["fingerprint"] == first["fingerprint"]
    assert kept == {path: (path / "frames.npy").stat().st_mtime_ns for path in videos[2:]}


def test_a_finished_dataset_is_not_made_again(home, monkeypatch):
    first = make()
    monkeypatch.setattr(synth, "make_videos", None)
    assert make() == first


def test_a_dataset_that_another_process_looks_at_is_waited_for(home, monkeypatch):
    first, released = make(), []
    folder = frames.dataset_folder("synth-a")
    with ThreadPoolExecutor(1) as pool:
        with core.locked(folder):
            monkeypatch.setattr(synth, "WAIT_S", 0)
            with pytest.raises(DfnbError, match="synth-a is being written by another process"):
                pool.submit(make).result()
            monkeypatch.setattr(synth, "WAIT_S", 600)
            second = pool.submit(lambda: (make(), list(released)))
            released.append(True)
            assert not second.done()
        assert second.result() == (first, [True])


def test_other_settings_under_the_same_name_are_refused(home):
    make()
    with pytest.raises(
        DfnbError, match=r"synth-a holds a dataset made from other settings \(seed\); delete the folder"
    ):
        make(seed=5)


@pytest.mark.parametrize("method", synth.METHODS)
@pytest.mark.parametrize("blend", ["alpha", "poisson"])
def test_masks_are_exact(method, blend):
    settings = synth.preset("synth-a")
    forgery = settings.forgery.model_copy(update={"blend": blend})
    for target, donor in shots(4):
        image, mask = synth.forge(method, target, donor, forgery, rng(3))
        differs = (image != target.image).any(axis=-1)
        assert not (differs & ~mask).any()
        assert differs[mask].mean() > 0.99
        assert np.abs(image - target.image)[mask].mean() > 3 * np.finfo(np.float16).eps
        assert 0.01 < mask.mean() < 0.35
        assert mask[np.indices(mask.shape).min(axis=0) < 1].sum() == 0


def test_the_table_has_every_family_and_the_right_truth(home):
    make(identities={"train": 6, "val": 4, "test": 4})
    table = frames.load_frames("synth-a")
    assert set(table["method"]) == {"real", *synth.preset("synth-a").methods}
    assert ((table["label"] == 1) == (table["method"] != "real")).all()
    assert (table["source"] == "").eq(table["label"] == 0).all()
    assert table.groupby("video")["label"].nunique().eq(1).all()
    assert table.groupby("label").size().tolist() == [56, 56]
    points = frames.landmarks_array(table)
    assert ((points > 5) & (points < 90)).all()
    right, left, nose, *corners = points.transpose(1, 0, 2)
    assert (right[:, 0] < left[:, 0]).all() and (corners[0][:, 0] < corners[1][:, 0]).all()
    assert (right[:, 1] < nose[:, 1]).all() and (nose[:, 1] < corners[0][:, 1]).all()


def test_no_mask_comes_near_the_border_and_none_is_empty(home):
    make(identities={"test": 24}, frames=1)
    table = frames.load_frames("synth-a")
    pixels = frames.Pixels(table.attrs["folder"])
    fakes = table[table["label"] == 1]
    masks = np.stack([pixels.mask(path, row, (96, 96)) for path, row in zip(fakes["mask"].astype(str), fakes["row"])])
    inner = masks[:, 8:-8, 8:-8]
    assert inner.sum() == masks.sum()
    assert masks.any(axis=(1, 2)).all()


def test_no_person_is_in_two_splits_nor_in_two_clusters(home):
    make(identities={"train": 7, "val": 2, "test": 5})
    table = frames.load_frames("synth-a")
    fakes = table[table["label"] == 1]
    seen = pd.concat([table[["identity", "split", "cluster"]], fakes[["source", "split", "cluster"]].set_axis(["identity", "split", "cluster"], axis=1)])  # fmt: skip
    assert seen.groupby("identity")["split"].nunique().eq(1).all()
    assert seen.groupby("identity")["cluster"].nunique().eq(1).all()
    assert (fakes["source"].astype(str) != fakes["identity"].astype(str)).all()


def test_two_datasets_share_no_person():
    a, b = (synth.cast(name, synth.preset(name))[0] for name in ("synth-a", "synth-b"))
    assert not {person.tone for person in a} & {person.tone for person in b}


def test_every_preset_builds_and_they_differ(home):
    names = core.described("synth")
    assert len(names) >= 4
    for name in names:
        assert synth.build(name, synth.preset(name, identities={"test": 2}, frames=2), 1, progress=False)["n"]
    settings = [json.dumps(synth.preset(name).model_dump(exclude={"identities"})) for name in names]
    assert len(set(settings)) == len(names)


def test_h264_keeps_sizes_that_are_odd():
    images = np.random.default_rng(0).integers(0, 256, (3, 33, 47, 3), np.uint8)
    assert synth.h264(images, 20).shape == images.shape


def test_h264_keeps_every_frame():
    settings = synth.preset("synth-c")
    assert settings.delivery.h264
    images = [target.image for target, _ in shots(3)]
    delivered = synth.deliver(images, settings.delivery, rng(0))
    assert delivered.shape == (3, 96, 96, 3)
    assert np.abs(delivered / 255 - np.stack(images)).mean() < 0.15


# ---------------------------------------------------------------------------------------------------------- no shortcut


def upper_limit(features: np.ndarray, label: np.ndarray, group: np.ndarray) -> float:
    """Upper 95 % limit (Hanley & McNeil 1982) of a linear classifier's AUC, cross-validated by cluster."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    score = cross_val_predict(model, features, label, groups=group, cv=GroupKFold(5), method="decision_function")
    a, n = roc_auc_score(label, score), label.sum()
    variance = (a * (1 - a) + (n - 1) * (a / (2 - a) - a * a) + (n - 1) * (2 * a * a / (1 + a) - a * a)) / n**2
    return a + 1.96 * np.sqrt(variance)


def test_nothing_but_the_face_tells_real_from_fake(home):
    make(identities={"test": 1000}, videos=1, frames=1, seed=9, workers=None)
    table = frames.load_frames("synth-a")
    pixels = frames.Pixels(table.attrs["folder"])
    crops = np.stack([pixels.crop(path, row) for path, row in zip(table["path"].astype(str), table["row"])])
    label, cluster = table["label"].to_numpy(), table["cluster"].astype(str).to_numpy()
    assert label.sum() == 1000 == (1 - label).sum()
    rim = np.indices(crops.shape[1:3])
    rim = np.minimum(rim, 95 - rim).min(axis=0) < 4
    border = crops[:, rim][:, ::3].reshape(len(crops), -1) / 255
    colour = [np.r_[crop.mean(axis=(0, 1)), crop.std(axis=(0, 1)), *np.percentile(crop, [5, 25, 50, 75, 95], axis=(0, 1))] for crop in crops]  # fmt: skip
    assert upper_limit(border, label, cluster) < 0.55
    assert upper_limit(np.stack(colour), label, cluster) < 0.55
    for ending, options in (
        (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 75]),
        (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]),
        (".png", []),
    ):
        size = np.float64([[len(cv2.imencode(ending, crop, options)[1])] for crop in crops])
        assert upper_limit(size, label, cluster) < 0.55, (ending, options)


def test_the_probe_finds_a_shortcut_when_there_is_one():
    draw = rng(0)
    label = np.arange(2000) % 2
    assert upper_limit(draw.standard_normal((2000, 3)) + 0.25 * label[:, None], label, np.arange(2000) // 2) > 0.6


# ------------------------------------------------------------------------------------------------------------ portraits

REAL, DETECTOR = os.environ.get("DFNB_REAL_DATA"), os.environ.get("DFNB_DETECTOR")
needs_portraits = pytest.mark.skipif(
    not (REAL and DETECTOR),
    reason="DFNB_REAL_DATA (folder with portraits/) or DFNB_DETECTOR (YuNet's .onnx) is not set",
)


def build_portraits(folder, **changes):
    settings = synth.preset("synth-a", portraits=str(folder), detector=DETECTOR, videos=1, frames=1, **changes)
    return synth.build("photographs", settings, progress=False)


@needs_portraits
def test_every_portrait_is_used_or_listed(home):
    folder = Path(REAL) / "portraits"
    record = build_portraits(folder, identities={"train": 200, "val": 100, "test": 100})
    files = sorted(path.name for path in folder.iterdir())
    assert sorted([*record["portraits"].values(), *(each["file"] for each in record["quarantine"])]) == files
    assert len(record["portraits"]) >= 0.95 * len(files)
    table = frames.load_frames("photographs")
    assert set(table["identity"]) == set(record["portraits"])
    points = frames.landmarks_array(table)
    assert ((points > 5) & (points < 91)).all()


@needs_portraits
def test_unusable_portraits_are_listed_with_the_reason(home):
    folder = home / "mixed"
    folder.mkdir()
    good = sorted((Path(REAL) / "portraits").iterdir())[:12]
    for path in good:
        shutil.copy(path, folder)
    one, two = (cv2.imread(str(path)) for path in good[:2])
    cv2.imwrite(str(folder / "two.png"), np.hstack([one, two]))
    cv2.imwrite(
        str(folder / "small.png"), cv2.copyMakeBorder(cv2.resize(one, (22, 27)), 99, 99, 99, 99, cv2.BORDER_REPLICATE)
    )
    cv2.imwrite(str(folder / "empty.png"), np.full((99, 99, 3), 127, np.uint8))
    (folder / "broken.jpg").write_bytes(good[0].read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    record = build_portraits(folder, identities={"train": 200, "val": 100, "test": 100})
    reasons = {each["file"]: each["reason"] for each in record["quarantine"]}
    assert sorted([*reasons, *record["portraits"].values()]) == sorted(path.name for path in folder.iterdir())
    assert reasons.pop("two.png") == "2 faces found, one is needed"
    assert reasons.pop("broken.jpg") == reasons.pop("notes.txt") == "not readable as an image"
    assert reasons.pop("empty.png") == "no face found"
    assert reasons.pop("small.png") in ("no face found", "the face is too small for frames of 96 pixels")
    assert not reasons


def test_a_portrait_keeps_its_split_in_every_dataset(home, monkeypatch):
    folder = home / "faces"
    folder.mkdir()
    for number in range(24):
        (folder / f"{number}.jpg").touch()
    monkeypatch.setattr(synth, "detector", lambda model: None)
    monkeypatch.setattr(synth, "inspect", lambda path, detect, size: synth.Portrait(str(path), np.zeros((5, 2)), 1.0))

    def tested(name):
        people, facts = synth.cast(name, synth.preset(name, portraits=str(folder), detector="x"))
        assert len(facts["portraits"]) + len(facts["quarantine"]) == len(list(folder.iterdir()))
        return {facts["portraits"][f"{each.number:03d}"] for each in people if each.split == "test"}

    before = tested("synth-a")
    assert 0 < len(before) < 24
    assert tested("synth-b") == before
    for number in range(24, 48):
        (folder / f"{number}.jpg").touch()
    assert before < tested("synth-c")


# ----------------------------------------------------------------------------------------------------------- bad input


def test_mistakes_are_said_in_one_sentence(home):
    (home / "none").mkdir()
    for message, attempt in {
        "nowhere.yaml does not exist; the embedded datasets are ": lambda: synth.preset("nowhere"),
        "synth-a.yaml: sead = 1": lambda: synth.preset("synth-a", sead=1),
        "synth-a.yaml: frames = 'many'": lambda: synth.preset("synth-a", frames="many"),
        "there is no 'magic'; known are swap": lambda: synth.preset("synth-a", methods=["magic"]),
        "identities.test gives 1 people": lambda: make(identities={"test": 1}),
        "none is no folder with photographs": lambda: make(portraits=str(home / "none")),
        "give the path of YuNet's .onnx file": lambda: make(portraits=str(Path(__file__).parent)),
        "nothing.onnx is no face detector": lambda: make(portraits=str(Path(__file__).parent), detector="nothing.onnx"),
    }.items():
        with pytest.raises(DfnbError) as error:
            attempt()
        assert message in str(error.value) and "\n" not in str(error.value)
