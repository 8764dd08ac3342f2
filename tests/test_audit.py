"""The audit finds the leaks and shortcuts that are planted, and nothing where none is."""

import cv2
import numpy as np
import pandas as pd
import pytest
import trees

from dfnb import core
from dfnb.data import frames
from dfnb.data.audit import audit, duplicates, shortcuts

SIZE = 48


def scene(draw):
    """A picture with structure at all scales, so that two of them look different."""
    layers = [
        cv2.resize(draw.uniform(0, 1, (n, n, 3)), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for n in (3, 6, 12)
    ]
    return np.clip(sum(layers) * 60 + draw.normal(0, 6, (SIZE, SIZE, 3)) + 30, 0, 255).astype(np.uint8)


def make(folder, n=60, change=lambda crop, label, draw: crop, box=lambda label, draw: 80, alter=lambda video: {}):
    """n real and n fake videos of one frame in train and as many in test; what is planted is given by the functions."""
    draw = core.rng("audit", 0)
    for split in ("train", "test"):
        for i in range(n):
            for label in (0, 1):
                video = f"{split}/{'fake' if label else 'real'}/{i}"
                side = box(label, draw)
                row = {
                    "dataset": "toy", "split": split, "track": 0, "frame": 0, "cluster": f"{split}{i}",
                    "identity": f"{split}{i}", "source": "", "method": "swap" if label else "real", "label": label,
                    "landmarks": [1.0] * 10, "crop_box": [10, 10, 10 + side, 10 + side], "scale": SIZE / side,
                }  # fmt: skip
                masks = np.ones((1, SIZE, SIZE), bool) if label else None
                crop = change(scene(draw), label, draw)
                frames.write_video(folder / "videos" / video, [row | alter(video)], crop[None], masks)
    frames.write_dataset(folder, {})
    return frames.load_frames(folder)


def test_nothing_is_found_where_nothing_is_planted(tmp_path):
    table = make(tmp_path / "clean")
    checks = audit(table)
    assert (checks.iloc[:7] == 0).all() and checks["share of fake frames, test"] == "0.50"
    verdicts = shortcuts(table)["verdict"]
    assert not (verdicts == "given away").any() and len(verdicts) == 8


@pytest.mark.parametrize(
    ("check", "planted"),
    [
        ("people in more than one split", {"test/fake/3": {"source": "train5"}}),
        ("clusters in more than one split", {"test/real/3": {"cluster": "train5"}}),
        ("people in more than one split", {"test/real/3": {"identity": "train5"}}),
    ],
)
def test_people_and_clusters_of_two_splits_are_counted(tmp_path, check, planted):
    table = make(tmp_path / "leak", n=6, alter=lambda video: planted.get(video, {}))
    checks = audit(table)
    assert checks[check] == 1 and checks.iloc[:7].drop(check).eq(0).all()


def test_a_video_listed_twice_under_both_labels_is_counted(tmp_path):
    table = make(tmp_path / "twice", n=4)
    again = table.iloc[[0]].assign(label=1 - table["label"].iloc[0], split="train")
    both = pd.concat([table, again])
    both.attrs = table.attrs
    checks = audit(both)
    assert checks["frames listed twice"] == checks["videos with both labels"] == 1
    assert checks["videos in more than one split"] == 1  # the first row is of the test split


@pytest.mark.parametrize("how", ["recompressed", "smaller", "brighter"])
def test_a_copy_in_another_split_is_found_under_any_name(tmp_path, how):
    people = [trees.faces(number)[0][0] for number in range(12)]
    copy = people[2]
    if how == "brighter":
        copy = np.clip(copy * 1.15 + 8, 0, 255).astype(np.uint8)
    if how == "smaller":
        copy = cv2.resize(cv2.resize(copy, (96, 96), interpolation=cv2.INTER_AREA), (160, 160))
    if how == "recompressed":
        copy = cv2.imdecode(cv2.imencode(".jpg", copy, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    for number, crop in enumerate([*people, copy]):
        row = {
            "dataset": "toy", "split": "train" if number < 8 else "test", "track": 0, "frame": 0, "cluster": str(number),
            "identity": "", "source": "", "method": "real", "label": 0, "landmarks": [1.0] * 10,
            "crop_box": [0, 0, 160, 160], "scale": 1.0,
        }  # fmt: skip
        frames.write_video(tmp_path / "copy" / "videos" / str(number), [row], crop[None], None)
    frames.write_dataset(tmp_path / "copy", {})
    table = frames.load_frames(tmp_path / "copy")
    assert audit(table)["videos that look like one of another split"] == 1
    (pair,) = duplicates(table).itertuples(index=False)
    assert (pair.video, pair.split, pair.other, pair.other_split) == ("12", "test", "2", "train")


def border(crop, label, draw):
    crop[:4] = np.clip(crop[:4].astype(int) + 25 * label, 0, 255)
    return crop


PLANTED = {
    "a linear classifier on border pixels": {"change": border},
    "brightness alone": {
        "change": lambda crop, label, draw: np.clip(crop.astype(int) + 25 * label, 0, 255).astype(np.uint8)
    },
    "contrast alone": {
        "change": lambda crop, label, draw: (128 + (crop.astype(float) - 128) * (1 - 0.4 * label)).astype(np.uint8)
    },
    "compressed size alone": {
        "change": lambda crop, label, draw: cv2.GaussianBlur(crop, (0, 0), 0.8) if label else crop
    },
    "face scale, source pixels alone": {"box": lambda label, draw: int(draw.integers(60, 90)) + 15 * label},
    "a linear classifier on place and size": {"box": lambda label, draw: int(draw.integers(60, 90)) - 15 * label},
}


@pytest.mark.parametrize("row", PLANTED)
def test_each_planted_shortcut_is_given_away_in_its_row(tmp_path, row):
    found = shortcuts(make(tmp_path / "planted", **PLANTED[row]))
    assert found.loc[row, "verdict"] == "given away", found
    if row.startswith("a linear"):
        return
    real, fake = (float(found.loc[row, f"median of {who}"]) for who in ("real", "fake"))
    assert (real > fake) == (row.startswith(("contrast", "compressed")))


@pytest.mark.parametrize("n", [1, 2, 6])
def test_few_videos_decide_nothing(tmp_path, n):
    table = make(tmp_path / "few", n=n)
    test = frames.select(table, "test")
    for given in (table, test, test[test["label"] == 0]) if n < 6 else (table,):
        given.attrs = table.attrs
        found = shortcuts(given)
        assert len(found) == 8 and (found["verdict"] == "too few videos to tell").sum() >= 6, found


def test_images_of_several_sizes_are_audited_too(tmp_path):
    table = make(tmp_path / "sizes", n=20)
    for number, (path, label) in enumerate(zip(table["path"].astype(str), table["label"])):
        crop = np.load(tmp_path / "sizes" / path)[0]
        side = SIZE - 8 * label  # the fakes were delivered smaller
        cv2.imwrite(str(tmp_path / "sizes" / f"{number}.png"), cv2.resize(crop, (side, side)))
    images = table.assign(path=[f"{i}.png" for i in range(len(table))], crop_box=None)
    images.attrs = table.attrs
    assert shortcuts(images).loc["a linear classifier on place and size", "verdict"] == "given away"
    assert len(duplicates(images)) == 0
