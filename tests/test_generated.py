"""The generated portraits that ship: files and table agree, and the script makes them again."""

import hashlib

import cv2
import numpy as np
import pandas as pd
import portraits as script
import pytest

from facesets import faces, generated
from facesets.forge import LEFT_EYE, LIPS, RIGHT_EYE
from facesets.portraits import MIN_EYE_DISTANCE

NAMES = generated.people().index


@pytest.fixture(scope="module")
def table(checkout):
    """All people of the source, with those who are left out."""
    return pd.read_csv(checkout / generated.FOLDER / "people.csv", index_col="name")


def crop(name):
    return cv2.imread(str(generated.crops() / f"{name}.webp"))


def test_each_person_is_used_or_left_out_for_a_reason(table):
    expected = [f"{sex}-{number}" for sex in ("female", "male") for number in range(100)]
    assert [*table.index] == expected
    assert (table["prompt_sex"] == table.index.str.split("-").str[0]).all()
    left_out = table[table["left_out"].notna()]
    assert left_out[["split", "stratum", "complexion", "sha256_crop"]].isna().all(axis=None)
    used = table[table["left_out"].isna()]
    assert used.drop(columns="left_out").notna().all(axis=None)
    assert {*NAMES} == {*used.index}


def test_crops_are_those_of_the_table(table, checkout):
    folder = checkout / generated.FOLDER / "crops"
    assert {path.stem for path in folder.iterdir()} == {*NAMES}
    for name, expected in table["sha256_crop"].dropna().items():
        assert hashlib.sha256((folder / f"{name}.webp").read_bytes()).hexdigest() == expected, name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6


def test_no_two_originals_or_crops_are_the_same_file(table):
    assert table["sha256_original"].is_unique
    assert table["sha256_crop"].dropna().is_unique


def test_points_lie_on_the_face():
    """In the crop, and where detector and mesh model, which know nothing of each other, agree."""
    for name in NAMES:
        height, width, _ = crop(name).shape
        landmarks = generated.landmarks(name)
        mesh = generated.mesh(name)
        assert landmarks.shape == (5, 2)
        assert mesh.shape == (468, 2)
        assert height == width <= 384
        for points in (landmarks, mesh):
            assert (points > 0).all()
            assert (points < width - 1).all()
        eyes = np.linalg.norm(landmarks[1] - landmarks[0])
        assert eyes >= MIN_EYE_DISTANCE * 224  # else a frame would be larger than its portrait
        for points, places in (
            (mesh[RIGHT_EYE].mean(axis=0), landmarks[0]),
            (mesh[LEFT_EYE].mean(axis=0), landmarks[1]),
            (mesh[LIPS].mean(axis=0), landmarks[3:].mean(axis=0)),
        ):
            assert np.linalg.norm(points - places) < 0.2 * eyes


def test_each_stratum_has_donors_in_each_split():
    table = generated.people()
    counts = pd.crosstab(table["stratum"], table["split"])
    assert {*counts.columns} == {"train", "val", "test"}
    assert counts.min(axis=None) >= 2
    shares = table["split"].value_counts(normalize=True)
    assert shares[["train", "val", "test"]].tolist() == pytest.approx([0.4, 0.2, 0.4], abs=0.02)


def test_the_stratum_says_what_a_person_looks_like():
    for name, person in generated.people().iterrows():
        sex, tone, age = person["stratum"].split("-")
        assert sex == person["prompt_sex"]
        assert (age == "older") == (person["prompt_age"] >= 45), name
        assert (tone == "dark") == (person["complexion"] < 5), name
        assert (tone == "light") == (person["complexion"] >= 33), name
        angle = script.complexion(crop(name), generated.mesh(name))
        assert angle == pytest.approx(person["complexion"], abs=0.06), name


def test_the_splits_are_those_of_the_written_seed():
    table = generated.people()
    assert script.splits(table["stratum"]).sort_index().equals(table["split"].sort_index())


def test_a_person_left_out_later_moves_nobody():
    table = script.people()
    crops = {
        name: script.Crop(b"", np.zeros((5, 2)), np.zeros((468, 2)), table["complexion"][name])
        for name in NAMES[1:]
    }
    assert script.filled(table, crops)["split"][NAMES[1:]].equals(table["split"][NAMES[1:]])
    assert pd.isna(script.filled(table, crops)["split"][NAMES[0]])


def test_listed_pairs_are_of_two_splits_and_no_copies(checkout):
    pairs = pd.read_csv(checkout / "reports/benchmarks/portraits-near-duplicates.csv")
    splits = generated.people()["split"]
    assert (pairs["split"] == splits[pairs["person"]].to_numpy()).all()
    assert (pairs["other_split"] == splits[pairs["other"]].to_numpy()).all()
    assert (pairs["split"] != pairs["other_split"]).all()
    assert pairs["picture"].max() < 0.97  # casts.SAME_PICTURE


def test_an_original_gives_the_committed_crop_and_points(samples, detector):
    detect = faces.YuNet()
    for name in (NAMES[0], NAMES[80], NAMES[-1]):
        made = script.crop_of(samples / "generated-portraits" / f"{name}.jpg", detect)
        assert made.webp == (generated.crops() / f"{name}.webp").read_bytes()
        assert (made.landmarks == generated.landmarks(name) * generated.PER_PIXEL).all()
        assert (made.mesh == generated.mesh(name) * generated.PER_PIXEL).all()
