"""The audit finds the leaks and shortcuts that are planted, and nothing where none is."""

import itertools

import cv2
import numpy as np
import pandas as pd
import pytest

from dfnb import core, synth
from dfnb.data import audit as module
from dfnb.data import frames
from dfnb.data.audit import audit, between, duplicates, shortcuts

SIZE = 48


def scene(draw):
    """A picture with structure at all scales, so that two of them look different."""
    layers = [
        cv2.resize(draw.uniform(0, 1, (n, n, 3)), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for n in (3, 6, 12)
    ]
    return np.clip(sum(layers) * 60 + draw.normal(0, 6, (SIZE, SIZE, 3)) + 30, 0, 255).astype(np.uint8)


ROW = {
    "dataset": "toy",
    "track": 0,
    "frame": 0,
    "source": "",
    "landmarks": [1.0] * 10,
    "crop_box": [0] * 4,
    "scale": 1.0,
}


def make(folder, n=60, change=lambda crop, label, draw: crop, box=lambda label, draw: 80, alter=lambda video: {}):
    """n real and n fake videos of one frame in train and as many in test; what is planted is given by the functions."""
    draw = core.rng("audit", 0)
    for split, i, label in itertools.product(("train", "test"), range(n), (0, 1)):
        video, person, side = f"{split}/{'fake' if label else 'real'}/{i}", f"{split}{i}", box(label, draw)
        row = ROW | {"split": split, "cluster": person, "identity": person, "crop_box": [10, 10, 10 + side, 10 + side]}
        row |= {"method": "swap" if label else "real", "label": label}
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
    settings = synth.preset("smoke-a", frames=1, size=160)
    drawn = [synth.film(person, person.number, 0, (0, 0), settings) for person in synth.cast("smoke-a", settings)[0]]
    people = [synth.to_bytes(shots[0].image) for shots in drawn[:12]]
    copy = people[2]
    if how == "brighter":
        copy = np.clip(copy * 1.15 + 8, 0, 255).astype(np.uint8)
    if how == "smaller":
        copy = cv2.resize(cv2.resize(copy, (96, 96), interpolation=cv2.INTER_AREA), (160, 160))
    if how == "recompressed":
        copy = cv2.imdecode(cv2.imencode(".jpg", copy, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    for number, crop in enumerate([*people, copy]):
        split = "train" if number < 8 else "test"
        facts = {"split": split, "cluster": str(number), "identity": "", "method": "real", "label": 0}
        frames.write_video(tmp_path / "copy" / "videos" / str(number), [ROW | facts], crop[None], None)
    frames.write_dataset(tmp_path / "copy", {})
    table = frames.load_frames(tmp_path / "copy")
    assert audit(table)["videos that look like one of another split"] == 1
    (pair,) = duplicates(table).itertuples(index=False)
    assert (pair.video, pair.split, pair.other, pair.other_split) == ("12", "test", "2", "train")


def dataset(folder, videos, **facts):
    """A frames table of videos {name: (split, person, crop)}."""
    for name, (split, person, crop) in videos.items():
        row = ROW | {"split": split, "cluster": person, "identity": person, "method": "real", "label": 0}
        frames.write_video(folder / "videos" / name, [row], crop[None], None)
    frames.write_dataset(folder, {}, **facts)
    return frames.load_frames(folder)


def test_videos_of_a_test_set_that_are_in_a_training_set_are_counted(tmp_path):
    draw = core.rng("between", 0)
    a, b, c, d, e = (scene(draw) for _ in range(5))
    again = cv2.imdecode(cv2.imencode(".jpg", b, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    train = {"0": ("train", "0", a), "1": ("val", "1", b), "2": ("test", "2", c)}
    test = {
        "0": ("test", "0", d),
        "1": ("test", "5", again),
        "2": ("test", "6", c),
        "3": ("train", "1", a),
        "4": ("val", "1", e),
    }
    first, second = dataset(tmp_path / "train", train), dataset(tmp_path / "test", test)
    assert between(first, second) == {"people of the same name": "–", "videos that look alike": 1}
    (pair,) = duplicates(first, second)[lambda pairs: pairs["split"] == "val"].itertuples(index=False)
    assert (pair.video, pair.other, pair.other_split) == ("1", "1", "test")
    assert between(second, first) == {"people of the same name": "–", "videos that look alike": 0}


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ("FaceForensics++", "FaceForensics++", 1),
        ("FaceForensics++", "", "–"),
        ("", "", "–"),
        ("FaceForensics++", "DFD", "–"),
    ],
)
def test_names_are_compared_only_where_they_mean_the_same_people(tmp_path, train, test, expected):
    draw = core.rng("between", 1)
    videos = {"0": ("train", "000", scene(draw)), "1": ("val", "", scene(draw)), "2": ("test", "001", scene(draw))}
    others = {"0": ("test", "000", scene(draw)), "1": ("test", "", scene(draw)), "2": ("test", "001", scene(draw))}
    first = dataset(tmp_path / "first", videos, people=train)
    second = dataset(tmp_path / "second", others, people=test)
    assert between(first, second) == {"people of the same name": expected, "videos that look alike": 0}


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
    real, fake = found.loc[row, ["median of real", "median of fake"]]
    assert (real > fake) == (row.startswith(("contrast", "compressed")))


@pytest.mark.parametrize("n", [1, 6])
def test_few_videos_decide_nothing(tmp_path, n):
    table = make(tmp_path / "few", n=n)
    for part in (table, frames.select(table, "test"), table[table["label"] == 0]):
        found = shortcuts(part)
        assert len(found) == 8 and (found["verdict"] == "too few videos to tell").all(), found


def test_what_was_found_is_kept_for_the_same_frames_alone(tmp_path, monkeypatch):
    """Nothing is measured twice, in no process: the probes of a study take a minute."""
    table, measured = make(tmp_path / "kept", n=20), []
    for name in ("features", "_bits"):
        of = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, of=of, name=name: measured.append(name) or of(*given))
    first = shortcuts(table), audit(table), duplicates(table)
    assert measured.count("features") == 1 and measured.count("_bits") == 80  # two for the audit and the pairs
    again = shortcuts(table), audit(table), duplicates(table)
    assert len(measured) == 81 and all(a.equals(b) for a, b in zip(first, again))
    relabelled = table.assign(label=1 - table["label"])
    assert not shortcuts(relabelled).equals(first[0]) and measured.count("features") == 2
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert shortcuts(table).equals(first[0]) and measured.count("features") == 3


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
