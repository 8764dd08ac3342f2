"""The audit finds the leaks and shortcuts that are planted, and nothing where none is."""

import cv2
import numpy as np
import pytest

import notebooks
from facesets.audit import audit, shared_crops
from facesets.frames import load_frames, select, write_dataset, write_video
from facesets.seeds import rng

SIZE = 48
PROBES = ("probe-features", "probe-verdict", "probe-shortcuts")  # cells of notebook 01


def shortcuts(table):
    return notebooks.cells("01_data", *PROBES)["shortcuts"](table)


def scene(draw):
    """A picture with structure at all scales, so that two of them look different."""
    picture = draw.normal(30, 6, (SIZE, SIZE, 3))
    for n in (3, 6, 12, 24):
        layer = draw.uniform(0, 60, (n, n, 3))
        picture += cv2.resize(layer, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return to_bytes(picture)


def to_bytes(picture):
    return np.clip(picture, 0, 255).astype(np.uint8)


def write(folder, videos):
    """The frames of videos (split, person, label, crop, changes of the row), named by number."""
    for number, (split, person, label, crop, changes) in enumerate(videos):
        row = {
            "dataset": "toy",
            "split": split,
            "track": 0,
            "frame": 0,
            "cluster": person,
            "identity": person,
            "source": "",
            "method": "swap" if label else "real",
            "label": label,
            "landmarks": [1.0] * 10,
            "crop_box": [10, 10, 90, 90],
            "scale": 1.0,
        }
        masks = np.ones((1, SIZE, SIZE), bool) if label else None
        write_video(folder / f"videos/{number}", [{**row, **changes}], crop[None], masks)
    write_dataset(folder, {})
    return load_frames(folder)


def pairs(n, plant=lambda crop, draw: crop, fake_box=None):
    """n people in train and in test, each with a real and a fake video of one frame."""
    draw = rng("audit", 0)
    videos = []
    for split in ("train", "test"):
        for number in range(n):
            person = f"{split}{number}"
            videos.append((split, person, 0, scene(draw), {}))
            fake = plant(scene(draw), draw)
            videos.append((split, person, 1, fake, {"crop_box": fake_box or [10, 10, 90, 90]}))
    return videos


# ---------------------------------------------------------------- leaks


def checked(table):
    """The counts of the audit of one dataset."""
    return audit({"toy": table})["toy"]


def test_nothing_is_found_where_nothing_is_planted(tmp_path):
    table = write(tmp_path, pairs(40))
    assert (checked(table) == 0).all()
    verdicts = shortcuts(table)["verdict"]
    assert len(verdicts) == 4
    assert not (verdicts == "given away").any()
    assert checked(table.assign(mask=""))["fake frames without a mask"] == 80


@pytest.mark.parametrize(
    ("column", "check"),
    [
        ("identity", "people in more than one split"),
        ("source", "people in more than one split"),
        ("cluster", "clusters in more than one split"),
    ],
)
def test_people_and_clusters_of_two_splits_are_counted(tmp_path, column, check):
    videos = pairs(4)
    videos[-1][-1][column] = "train3"
    checks = checked(write(tmp_path, videos))
    assert checks[check] == 1
    assert (checks.drop(check) == 0).all()


def test_equal_crops_of_two_splits_are_counted_whatever_they_are_called(tmp_path):
    videos = pairs(4)
    videos[-1] = (*videos[-1][:3], videos[0][3], videos[-1][4])  # a train crop in the test split
    table = write(tmp_path, videos)
    assert checked(table)["crops in more than one split"] == 1
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    others = test[test["video"] != str(len(videos) - 1)]
    assert shared_crops(train, test) == 1 and shared_crops(train, others) == 0


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("identity", lambda table: "", "people"),
        ("cluster", lambda table: table["video"], "clusters"),
        (
            "cluster",
            lambda table: table["split"].astype(str) + "/7",
            "clusters",
        ),
        ("crop_hash", lambda table: "", "crops"),
    ],
)
def test_what_nobody_said_is_not_known_and_never_zero(tmp_path, column, value, check):
    check = f"{check} in more than one split"
    table = write(tmp_path, pairs(4))
    assert checked(table)[check] == 0
    silent = table.assign(**{column: value})
    checks = audit({"toy": silent, "spoken": table})
    assert np.isnan(checks["toy"][check])
    assert {type(count) for count in checks["spoken"]} == {int}
    assert not audit({"toy": silent[silent["split"] == "test"]})["toy"].isna().any()
    if column == "crop_hash":
        assert shared_crops(silent, table) is shared_crops(table, silent) is None


def bordered(crop, draw):
    crop[:4] = to_bytes(crop[:4].astype(int) + 25)
    return crop


def lighter(crop, draw):
    return to_bytes(crop.astype(int) + 25)


def flatter(crop, draw):
    return to_bytes(128 + (crop.astype(float) - 128) * 0.6)


def blurred(crop, draw):
    return cv2.GaussianBlur(crop, (0, 0), 0.8)


@pytest.mark.parametrize(
    ("row", "planted"),
    [
        ("border pixels", {"plant": bordered}),
        ("colour statistics", {"plant": lighter}),
        ("colour statistics", {"plant": flatter}),
        ("file size", {"plant": blurred}),
        ("place and size", {"fake_box": [10, 10, 80, 80]}),
    ],
)
def test_each_planted_shortcut_is_given_away_in_its_row(tmp_path, row, planted):
    table = shortcuts(write(tmp_path, pairs(40, **planted)))
    assert table.loc[row, "verdict"] == "given away"


def test_a_probe_that_is_reversed_is_said_to_be_below_one_half():
    """As where a clip is in another fold than its fake, which has the same border."""
    verdict_of = notebooks.cells("01_data", *PROBES)["verdict_of"]
    verdicts = [verdict_of(*interval) for interval in ((-0.008, 0.143), (0.4, 0.6), (0.4, 0.7))]
    assert verdicts == ["below one half", "nothing in sight", "too few videos to tell"]


@pytest.mark.parametrize("n", [1, 6])
def test_few_videos_decide_nothing(tmp_path, n):
    table = write(tmp_path, pairs(n))
    for part in (table, select(table, "test"), table[table["label"] == 0]):
        assert (shortcuts(part)["verdict"] == "too few videos to tell").all()


def test_images_of_several_sizes_are_audited_too(tmp_path):
    table = write(tmp_path, pairs(20))
    paths = []
    for number, (path, label) in enumerate(zip(table["path"], table["label"])):
        side = SIZE - 8 * label  # the fakes were delivered smaller
        paths.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(paths[-1], cv2.resize(cv2.imread(path), (side, side)))
    images = table.assign(path=paths, crop_box=None)
    verdicts = shortcuts(images)["verdict"]
    assert verdicts["place and size"] == "given away"
