"""The embedded benchmark: repeatable, with exact masks, without leaks, shortcuts or lost files."""

import http.server
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import notebooks
from dfnb.cli import commands
from dfnb.training.localisation import localisation
from facesets import casts, embedded, faces, films, forge, photographs
from facesets.audit import audit
from facesets.camera import motion
from facesets.checks import DfnbError
from facesets.files import dataset_folder, digest, find, sha256
from facesets.frames import data_identity, load_frames, mean_mask, read_crop, read_mask, select
from facesets.manifests import embedded_names, manifest
from facesets.portraits import inspect, landmarks_of_one_face, move, pixels, placed
from facesets.seeds import rng
from facesets.sources import frames_to_show, identity, preset

FEW = {"identities": {"train": 4, "test": 3}, "videos": 2, "frames": 2, "size": 96}
FORGERIES = preset("ff-like").forgery
# What identified datasets of the committed studies when these were made: their records have it.
STUDIED = {
    "portraits": "cccbe7a1576a8d6f",
    "portraits-world-01": "0f78904eed05d19d",
    "portraits-tasks": "ae3beb2c2b38c1c0",
    "ff-like-30": "4d0fbeb900d8f628",
    "ff-like-160": "42692322ce42c2f5",
    "ff-like-world-01": "11d42f47df372c9f",
}

pytestmark = pytest.mark.usefixtures("empty_home")


def make(name="synth-a", workers=1, **changes):
    """Build a small dataset with the settings of synth-a but for the changes; its record."""
    settings = preset("synth-a", **{**FEW, **changes})
    return embedded.build(name, settings, workers)


def masks_of(table):
    """The masks (n, 96, 96) bool of the rows of a frames table."""
    return np.stack([read_mask(path, (96, 96)) for path in table["mask"]])


# ---------------------------------------------------------------- building


def test_the_seed_alone_decides_the_bytes(empty_home, monkeypatch):
    fingerprints = []
    for place, workers, seed in (("one", 1, 0), ("two", 2, 0), ("three", 1, 1)):
        monkeypatch.setenv("DFNB_HOME", str(empty_home / place))
        fingerprints.append(make(workers=workers, seed=seed)["fingerprint"])
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_killed_build_goes_on_where_it_was():
    first = make()
    folder = dataset_folder("synth-a")
    lost, kept, *_ = sorted((folder / "videos/real").iterdir())
    (folder / "record.json").unlink()  # written last: without it, the build has not finished
    shutil.rmtree(lost)
    before = (kept / "000.png").stat()
    assert make()["fingerprint"] == first["fingerprint"]
    assert (kept / "000.png").stat().st_mtime_ns == before.st_mtime_ns


def test_a_finished_dataset_is_kept_and_other_settings_are_refused():
    first = make()
    assert make() == first  # also its wall time
    with pytest.raises(DfnbError, match=r"made from other settings \(seed\)"):
        make(seed=5)


@pytest.mark.parametrize("name", embedded_names())
def test_every_preset_builds(name):
    if photographs.is_list(preset(name).portraits):
        pytest.skip("needs photographs, which are fetched; see the tests of portraits below")
    settings = preset(name, identities={"test": 2}, frames=1)
    assert embedded.build(name, settings, 1)["n"]


def test_a_dataset_is_identified_before_it_is_built():
    assert identity("smoke-b") == data_identity(embedded.build("smoke-b", preset("smoke-b")))
    assert {name: identity(name) for name in STUDIED} == STUDIED


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nowhere", {}, "no embedded dataset is named nowhere; known are "),
        (
            "smoke-a",
            {"people_of": "nobody"},
            "dataset smoke-a: people_of = 'nobody' is none of face-swap",
        ),
        ("smoke-a", {"identities": {"test": 1}}, "generated gives 1 people for the split test"),
        ("smoke-a", {"identities": {}}, "identities has no people for train or val or test; add"),
        (
            "portraits-tasks-unmarked",
            {"identities": {"train": 4}},
            "identities has no people for test; add some",
        ),
        ("smoke-a", {"portraits": "."}, ". gives 0 people for the split train"),
        ("smoke-a", {"delivery": {"jpeg": [85, 55]}}, "[85, 55]: write the lowest value first"),
        ("smoke-a", {"delivery": {"h264": 23}, "size": 97}, "H.264 needs an even size, not 97"),
    ],
)
def test_a_mistake_is_explained_in_one_sentence(empty_home, monkeypatch, name, changes, message):
    monkeypatch.chdir(empty_home)
    with pytest.raises(DfnbError) as error:
        casts.cast("mine", preset(name, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- datasets


def test_every_family_is_there_with_the_right_truth():
    make(identities={"train": 7, "val": 4, "test": 5})
    table = load_frames("synth-a")
    assert {*table["method"]} == {"real", *preset("synth-a").methods}
    assert table.groupby("label").size().tolist() == [64, 64]
    assert ((table["source"] == "") == (table["label"] == 0)).all()
    fakes = table[table["label"] == 1]
    real = table[table["label"] == 0].set_index(["video", "frame"])
    originals = real.loc[[*zip(fakes["original"], fakes["frame"])]]  # the same scene and pose
    assert (np.stack(originals["landmarks"]) == np.stack(fakes["landmarks"])).all()
    masks = masks_of(fakes)
    # Faces are forged, not the border, of which the probe of notebook 01 takes 4 pixels.
    assert masks[:, 4:-4, 4:-4].sum() == masks.sum()
    assert masks.any(axis=(1, 2)).all()
    # No leak: neither a person nor a pair is in two splits, and no person is in two pairs.
    tables = {"synth-a": table}
    assert (audit(tables) == 0).all(axis=None)
    assert (fakes["source"].astype(str) != fakes["identity"].astype(str)).all()
    assert table.groupby("identity", observed=True)["cluster"].nunique().eq(1).all()


def test_people_of_shows_the_test_people_of_another_dataset_forged_by_every_method():
    make()
    embedded.build("again", preset("synth-a", people_of="synth-a", **FEW), workers=1)
    theirs = dataset_folder("synth-a") / "videos"
    ours = dataset_folder("again") / "videos"
    table = load_frames("again").astype({"split": str, "method": str})
    assert {*table["split"]} == {"test"}
    by_film = table.query("label == 1").groupby("original", observed=True)["method"]
    assert by_film.nunique().eq(4).all()  # all methods
    shared = set()
    for path in theirs.rglob("00?.png"):
        name = path.relative_to(theirs)
        if (ours / name).exists():  # the same films, faces and draws
            assert (ours / name).read_bytes() == path.read_bytes()
            shared.add(name.parts[0])
    assert shared == {"real", *preset("synth-a").methods}


def test_a_mark_tells_the_label_as_often_as_the_cue_says():
    make(identities={"test": 60}, videos=1, frames=1, cue=0.9, seed=4)
    table = load_frames("synth-a")
    crops = np.stack([*map(read_crop, table["path"])])
    # Mean colours (2, n, 3) of the upper left and the upper right corner, one of which is marked.
    corners = np.stack([crops[:, 6:16, 6:16], crops[:, 6:16, -16:-6]]).mean(axis=(2, 3))
    warmth = corners[..., 0] - corners[..., 2]  # red minus blue
    marked = np.abs(warmth).argmax(axis=0)
    is_warm = warmth[marked, np.arange(len(table))] > 0
    assert 0.85 < (is_warm == (table["label"] == 1)).mean() <= 1  # (1 + 0.9) / 2 = 0.95 by the cue


def test_nothing_but_the_face_tells_real_from_fake(monkeypatch):
    """No property beside the face, such as brightness or file size, separates the two.

    Every interval of an AUC lies within 0.45 and 0.55, for some 1,000 originals and as many
    forgeries of all portraits. An original and its forgery share their film, so these intervals are
    narrow: many exclude 0.5 by a hundredth. Colours and size of the file are those of the whole
    frame, the forged face included.
    """
    everybody = dict.fromkeys(("train", "val", "test"), 80)
    few = {"identities": everybody, "videos": 6, "frames": 1, "size": 96}
    embedded.build("portraits", preset("portraits", **few), workers=2)
    probes = notebooks.cells("01_data", "probe-features", "probe-verdict", "probe-shortcuts")
    table = probes["shortcuts"](load_frames("portraits"))
    ends = table["frame AUC"].str.extract(r"\[(.*), (.*)\]").astype(float)
    assert (ends[0] > 0.45).all() and (ends[1] < 0.55).all() and len(ends) == 4, table


# ---------------------------------------------------------------- scenes and worlds


def test_the_mean_mask_of_training_guesses_few_masks():
    embedded.build("portraits", preset("portraits", size=96, frames=1))
    frames = load_frames("portraits")
    guess = mean_mask(select(frames, "train"))
    fakes = select(frames, "test").query("label == 1")
    measures = [localisation(guess, mask) for mask in masks_of(fakes)]
    assert np.mean([measure["pixel_ap"] for measure in measures]) < 0.5
    assert np.mean([measure["pointing"] for measure in measures]) < 0.7


def test_a_larger_crop_of_the_head_moves_the_landmarks_along():
    people, _ = casts.cast("smoke-b", preset("smoke-b"))
    eye_distances = []
    for zoom in (1.0, 1.25):
        settings = preset("smoke-b", crop={"zoom": [zoom, zoom]}, frames=1)
        [row] = next(films.takes("smoke-b", people, settings)).videos()[0].rows
        right_eye, left_eye, *_ = np.reshape(row["landmarks"], (5, 2))
        eye_distances.append(np.linalg.norm(left_eye - right_eye))
    usual, larger = eye_distances
    assert larger / usual == pytest.approx(1.25, abs=0.01)


def test_a_few_frames_are_shown_before_the_dataset_is_built():
    shown = frames_to_show("smoke-b")
    assert not dataset_folder("smoke-b").exists()
    embedded.build("smoke-b", preset("smoke-b"), workers=1)
    table = load_frames("smoke-b")
    first = sorted(table["identity"].unique())[: embedded.EXCERPT]
    table = table[table["identity"].isin(first)]
    assert len(first) == embedded.EXCERPT and [*shown["video"]] == [*table["video"]]
    for path, built in zip(shown["path"], table["path"]):
        assert (read_crop(path) == read_crop(built)).all()


@pytest.mark.parametrize("name", ["experiments", "claims-tasks", "starts", "portraits-worlds"])
def test_a_file_of_the_manifests_that_describes_no_dataset_of_its_name_is_none(name):
    with pytest.raises(DfnbError, match=f"describes a dataset '{name}'"):
        manifest(name)


def test_each_world_is_drawn_from_the_ranges():
    chosen = {}  # by parameter, the options that some world has
    for family in ("portraits", "ff-like"):
        ranges = manifest(f"{family}-world-01")["drawn"]
        worlds = [preset(f"{family}-world-{number:02d}").model_dump() for number in range(1, 13)]
        for group, spans in ranges["spans"].items():
            for key, (low, high) in spans.items():
                drawn = [world[group][key] for world in worlds]
                assert all(low <= start < end <= high for start, end in drawn)
                assert len(set(drawn)) == len(worlds)
        for group, choices in ranges["choices"].items():
            for key, options in choices.items():
                drawn = {world[group][key] for world in worlds}
                expected = {tuple(each) if isinstance(each, list) else each for each in options}
                assert drawn <= expected
                chosen.setdefault((group, key, *expected), set()).update(drawn)
    assert all(drawn == {*options} for (_, _, *options), drawn in chosen.items())  # all occur


# ---------------------------------------------------------------- portraits

LANDMARKS = np.float64([(60, 60), (100, 60), (80, 75), (65, 95), (95, 95)])
FACE = faces.Detection(60, 50, 40, 50, LANDMARKS, 0.9)
# The points of a mesh on a spiral, in a disc around the nose with a radius of 1.
TURNS = 2.4 * np.arange(468)
RADII = np.sqrt(np.arange(468) / 468)
SPIRAL = (RADII * [np.cos(TURNS), np.sin(TURNS)]).T


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize("method", forge.METHODS)
def test_masks_of_forged_photographs_are_exact(samples, method):
    faces_there = []
    for path in sorted((samples / "portraits").iterdir())[:2]:
        landmarks_of = partial(landmarks_of_one_face, detect=faces.YuNet())
        portrait = inspect(path, landmarks_of, faces.face_mesh, 96)
        faces_there.append(forge.MeshedFace(pixels(path), portrait.mesh))
    image, opacity = forge.forge(method, *faces_there, FORGERIES, rng(1))
    differs = (image != faces_there[0].image).any(axis=-1)
    assert not differs[opacity == 0].any()
    least = 0.005 if method == "recoloured" else 0.01  # lips alone are small
    assert least < differs.mean() < 0.35


@pytest.mark.parametrize("size", [64, 96])  # 64: the film reduces the photograph, with a blur
@pytest.mark.parametrize("method", forge.METHODS)
def test_nothing_is_forged_beside_a_photograph_that_is_cut_close(method, size):
    draw = rng("close", size)
    images = draw.uniform(0, 1, (2, 160, 160, 3)).astype(np.float32)
    # The mesh reaches over the photograph's left and lower edge.
    mesh = np.float32([50, 110] + 70 * SPIRAL)
    landmarks = np.float32([(30, 90), (70, 90), (50, 105), (35, 125), (65, 125)])
    target, donor = (forge.MeshedFace(image, mesh) for image in images)
    image, opacity = forge.forge(method, target, donor, FORGERIES, draw)
    on_photograph = np.zeros((160, 160), np.float32)
    # A film blurs this by up to 5 pixels, and repeats the outermost, which stay 0, beside it.
    on_photograph[6:-6, 6:-6] = 1
    poses = motion(draw, draw, n=4)
    real, fake = (move(landmarks, of, poses, size) for of in (target.image, image))
    forged = 0
    for pose, before, after in zip(poses, real, fake):
        opacity_in_frame = placed(landmarks, opacity, pose, size)
        differs = (before.image != after.image).any(axis=-1)
        assert not differs[opacity_in_frame == 0].any()
        is_beside = placed(landmarks, on_photograph, pose, size) == 0
        assert is_beside.any() and not differs[is_beside].any()
        assert not opacity_in_frame[is_beside].any()
        forged += (opacity_in_frame > 0.05).sum()
    assert forged


def test_every_portrait_is_used_or_listed(samples):
    folder = samples / "portraits"
    settings = preset("ff-like", portraits=str(folder), videos=1, frames=1)
    record = embedded.build("mine", settings)
    unused = [entry["file"] for entry in record["quarantine"]]
    names = sorted(path.name for path in folder.iterdir())
    assert sorted([*files_of(record), *unused]) == names


TOO_CLOSE = "it is cut so close to the face that more than half of a frame would lie beside it"


@pytest.mark.parametrize(
    ("detected", "size", "reason"),
    [
        ([], 96, "no face found"),
        ([FACE] * 2, 96, "2 faces found, one is needed"),
        ([FACE], 300, "the face is too small for frames of 300 pixels"),
        ([FACE._replace(landmarks=LANDMARKS + 70)], 96, "the face is cut by the frame"),
        ([FACE._replace(landmarks=2 * LANDMARKS - 80)], 96, TOO_CLOSE),
    ],
)
def test_an_unusable_portrait_is_listed_with_the_reason(empty_home, detected, size, reason):
    cv2.imwrite(str(empty_home / "grey.png"), np.zeros((160, 160)))
    landmarks_of = partial(landmarks_of_one_face, detect=lambda image: detected)
    assert inspect(empty_home / "grey.png", landmarks_of, faces.face_mesh, size) == reason


def test_a_picture_that_is_a_thin_line_has_no_face(empty_home):
    cv2.imwrite(str(empty_home / "line.png"), np.zeros((1, 1400)))
    landmarks_of = partial(landmarks_of_one_face, detect=faces.YuNet.__call__)
    assert inspect(empty_home / "line.png", landmarks_of, faces.face_mesh, 96) == "no face found"


@pytest.fixture
def portraits(empty_home, monkeypatch):
    """A folder of 24 grey portraits, whose face and its mesh are found without a network."""
    folder = empty_home / "faces"
    folder.mkdir()
    for number in range(24):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((160, 160, 3), 100 + number, np.uint8))
    # A name in Latin-1, which is not UTF-8, and a hidden file, which is not to be listed.
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "0.png").read_bytes())
    (folder / ".DS_Store").touch()
    monkeypatch.setattr(faces, "detector_path", lambda: folder / "0.png")
    monkeypatch.setattr(faces.YuNet, "__call__", lambda self, image: [FACE])
    mesh = np.float32(LANDMARKS[2] + 20 * SPIRAL)
    monkeypatch.setattr(faces, "face_mesh", lambda image, landmarks: mesh)
    return folder


def test_portraits_that_cannot_be_used_are_printed_and_the_status_is_0(portraits):
    def status(name, preset="smoke-a"):
        """Exit code and output of ``dfnb synth``."""
        words = ["synth", preset, "--portraits", str(portraits), "--name", name]
        result = CliRunner().invoke(commands, words)
        return result.exit_code, result.output

    (portraits / "notes.txt").write_text("no photograph")
    for _ in range(2):  # also when it is there already
        code, output = status("mine")
        assert code == 0
        assert "not used: not readable as an image: 1 (notes.txt)" in output
        assert "each of 26 files counts as a person" in output
    (portraits / "notes.txt").unlink()
    # People of a split that the dataset does not have stay out, and nothing is wrong.
    code, output = status("tested", "smoke-b")
    assert code == 0 and "not used" not in output


def files_of(facts):
    """The files of all people in photographs."""
    return [file for files in facts["portraits"].values() for file in files]


def pairs_of(name, portraits):
    """The cluster of each portrait of a test person, by its file."""
    persons, facts = casts.cast(name, preset(name, portraits=str(portraits)))
    assert len(files_of(facts)) + len(facts["quarantine"]) == 25  # all files
    test_people = [person for person in persons if person.split == "test"]
    return {facts["portraits"][f"{one.number:03d}"][0]: one.pair for one in test_people}


def test_a_portrait_keeps_its_split_in_every_dataset_and_a_test_person_the_pair(portraits):
    assert {*pairs_of("synth-a", portraits)} == {*pairs_of("synth-b", portraits)} != set()
    world = pairs_of("ff-like-world-01", portraits)
    assert pairs_of("ff-like", portraits) == world != {}


def test_the_people_of_a_flat_folder_keep_numbers_splits_and_donors(portraits):
    """As they were before a folder could have folders; the identity hashes names and contents."""
    persons, facts = casts.cast("mine", preset("ff-like", portraits=str(portraits)))
    cast = []
    for person in persons:
        [file] = facts["portraits"][f"{person.number:03d}"]
        cast.append([file, person.split, person.donor, person.pair])
    assert digest(cast, 16) == "b001878e677f7c4d"
    paths = sorted(portraits.glob("[!.]*"))
    assert [*photographs.hashes(str(portraits)).items()] == [(p.name, sha256(p)) for p in paths]


def test_a_grey_photograph_has_grey_forgeries_unless_committed_results_rest_on_others(
    portraits, empty_home
):
    """Those of the committed list, whose forgeries of grey ones have colours."""

    def colourfulness(source):
        """The largest difference of two channels' means, 0 to 255, in the forged region."""
        settings = preset(
            "ff-like",
            portraits=source,
            methods=["FaceSwap-like"],
            videos=1,
            frames=1,
            delivery={"white_balance": 0},
        )
        persons, _ = casts.cast("mine", settings)
        real, fake = next(films.takes("mine", persons, settings)).videos()
        assert real.masks is None
        return np.ptp(fake.frames[fake.masks].mean(axis=0))

    assert colourfulness(str(portraits)) < 2
    shutil.copytree(portraits, empty_home / "photographs")  # as if they were fetched
    listed = {path.name: sha256(path) for path in portraits.glob("[0-9]*.png")}
    shutil.copytree(find("data_manifest"), empty_home / "data_manifest")
    text = "".join(f"{value}  {name}\n" for name, value in listed.items())
    (empty_home / "data_manifest/mine.sha256").write_text(text)
    assert colourfulness("mine.sha256") > 6


@pytest.fixture
def person_folders(empty_home, portraits):
    """A folder of 12 people with a folder each: five have 3 photographs, the others one."""
    folder = empty_home / "people"
    draw = rng("people")
    for number in range(12):
        (folder / f"p{number}").mkdir(parents=True)
        for shot in range(3 if number < 5 else 1):
            picture = draw.integers(0, 256, (160, 160, 3), np.uint8)
            cv2.imwrite(str(folder / f"p{number}/{shot}.png"), picture)
    return folder


@pytest.mark.parametrize("name", ["ff-like", "synth-a"])
def test_a_folder_per_person_keeps_a_person_in_one_split_and_never_as_their_own_donor(
    person_folders, name
):
    settings = preset(name, portraits=str(person_folders), videos=1, frames=1)
    record = embedded.build("mine", settings, workers=1)
    assert sorted(files_of(record)) == sorted(
        path.relative_to(person_folders).as_posix() for path in person_folders.rglob("*.png")
    )
    table = load_frames("mine")
    real = table[table["label"] == 0]
    for number, files in record["portraits"].items():
        assert len({Path(file).parent for file in files}) == 1
        assert (real["identity"] == number).sum() == len(files)  # a film per photograph
    assert table["video"].is_unique
    fakes = table[table["label"] == 1]
    assert (fakes["identity"].astype(str) != fakes["source"].astype(str)).all()
    assert (audit({"mine": table}) == 0).all(axis=None)
    # By the folder's name: other files in it do not move a person to another split.
    split_of = table.groupby("identity", observed=True)["split"].first()
    for folder in person_folders.iterdir():
        (folder / "0.png").rename(folder / "another.png")
    _, facts = casts.cast("mine", preset(name, portraits=str(person_folders)))
    named = {number: files[0].split("/")[0] for number, files in record["portraits"].items()}
    now = {number: files[0].split("/")[0] for number, files in facts["portraits"].items()}
    assert named == now and {*split_of} == {"train", "val", "test"}


def test_a_person_with_many_photographs_has_as_many_films(person_folders):
    settings = preset("synth-a", portraits=str(person_folders), videos=26)
    persons, _ = casts.cast("mine", settings)
    films_there = [*films.takes("mine", persons, settings)]
    assert len({take.film for take in films_there}) == len(films_there) == 26 * 22
    by_portrait = {}
    for take in films_there:
        by_portrait.setdefault(take.target.shown(take.number).path, []).append(take)
    assert [len(takes) for takes in by_portrait.values()] == [26] * 22


def test_files_beside_folders_and_folders_in_folders_are_refused(person_folders):
    (person_folders / "p0" / "more").mkdir()
    with pytest.raises(DfnbError, match="more is a folder; put its photographs into") as error:
        photographs.hashes(str(person_folders))
    assert "\n" not in str(error.value)
    (person_folders / "0.png").touch()
    with pytest.raises(DfnbError, match=r"both files and folders, such as 0\.png and p0; give"):
        photographs.hashes(str(person_folders))


def test_nobody_knows_who_is_shown_in_a_flat_folder_but_a_copy_is_found(person_folders, empty_home):
    flat = empty_home / "flat"
    flat.mkdir()
    for path in person_folders.rglob("*.png"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")

    def audited(name):
        record = embedded.build(name, preset("synth-a", portraits=str(flat), frames=1, videos=1), 1)
        return record["repeated"], audit({"mine": load_frames(name)})["mine"]

    repeated, checks = audited("alone")
    assert repeated == [] and np.isnan(checks["people in more than one split"])
    # Smaller, compressed copies of all: by their names, some are in another split.
    for path in sorted(flat.iterdir()):
        smoother = cv2.GaussianBlur(cv2.imread(str(path)), (0, 0), 3)
        cv2.imwrite(str(path), smoother)
        cv2.imwrite(str(flat / f"copy-{path.stem}.jpg"), cv2.resize(smoother, (150, 150)))
    repeated, checks = audited("copied")
    for pair in repeated:
        assert len({file.removeprefix("copy-").split(".")[0] for file in pair}) == 1
    assert checks["people in more than one split"] == len(repeated) > 3


def test_copies_of_copies_show_one_person():
    portraits = {number: [f"{number}.png"] for number in "abcde"}
    pairs = [["a.png", "b.png"], ["c.png", "d.png"], ["b.png", "d.png"]]
    shown = casts._shown(portraits, pairs, are_named=False)
    assert len({shown[number] for number in "abcd"}) == 1 and shown["a"] and shown["e"] == ""
    shown = casts._shown(portraits, pairs, are_named=True)
    assert len({shown[number] for number in "abcd"}) == 1 and shown["e"] == "e"


def test_a_listed_photograph_may_have_spaces_in_its_name(empty_home, monkeypatch):
    (empty_home / "data_manifest").mkdir()
    (empty_home / "data_manifest/mine.sha256").write_text(f"{'a' * 64}  Ada Lovelace.jpg\n")
    urls = []
    monkeypatch.setattr(photographs, "download", lambda url, *_: urls.append(url))
    assert photographs.hashes("mine.sha256") == {"Ada Lovelace.jpg": "a" * 64}
    (empty_home / "data_manifest/binary.sha256").write_text(f"{'a' * 64} *Ada Lovelace.jpg\n")
    assert photographs.hashes("binary.sha256") == photographs.hashes("mine.sha256")
    photographs.photograph_folder("mine.sha256")
    assert urls == [f"{photographs.URL}/Ada%20Lovelace.jpg"]


def test_photographs_identify_a_dataset_wherever_they_are(portraits, empty_home):
    def identity_of(folder):
        settings = preset("smoke-b", portraits=str(folder), frames=1, videos=1)
        return data_identity(embedded.build(f"of-{folder.name}", settings, 1))

    shutil.copytree(portraits, empty_home / "there" / "faces")
    first = identity_of(portraits)
    shutil.rmtree(dataset_folder("of-faces"))
    assert identity_of(empty_home / "there" / "faces") == first
    (portraits / "0.png").write_bytes((portraits / "1.png").read_bytes())
    with pytest.raises(DfnbError, match=r"made from other settings \(portraits\)"):
        identity_of(portraits)


def test_listed_photographs_are_fetched_once_and_checked(portraits, empty_home, monkeypatch):
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=str(portraits))
    )
    monkeypatch.setattr(photographs, "URL", f"http://127.0.0.1:{server.server_port}")
    manifests = empty_home / "data_manifest"
    shutil.copytree(find("data_manifest"), manifests)
    found = photographs.hashes(str(portraits))
    listed = {name: found[name] for name in (f"{number}.png" for number in range(24))}
    text = "".join(f"{value}  {name}\n" for name, value in listed.items())
    (manifests / "portraits.sha256").write_text(text)
    identity_before = identity("ff-like-world-01")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        record = embedded.build("ff-like-world-01", preset("ff-like-world-01"), 1)
        assert data_identity(record) == identity_before
        assert photographs.hashes(str(empty_home / "photographs")) == listed
        (empty_home / "photographs" / "3.png").unlink()
        (portraits / "3.png").write_bytes(b"another")
        with pytest.raises(DfnbError, match=r"3\.png .* does not match the known hash"):
            photographs.photograph_folder("portraits.sha256")
    finally:
        server.shutdown()
        server.server_close()
    # Without a network.
    with pytest.raises(DfnbError, match=r"3\.png could not be downloaded") as error:
        photographs.photograph_folder("portraits.sha256")
    assert "\n" not in str(error.value)


def test_a_portrait_in_motion_keeps_its_landmarks_on_the_face(empty_home):
    """A white dot at each landmark stays there."""
    landmarks = np.float32([[80, 90], [120, 90], [100, 115], [85, 140], [115, 140]])
    image = np.zeros((200, 200))
    for x, y in landmarks.astype(int):
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
    cv2.imwrite(str(empty_home / "dots.png"), image)
    poses = motion(rng(0), rng(1), 5)
    for shot in move(landmarks, pixels(empty_home / "dots.png"), poses, 128):
        for x, y in shot.landmarks.round().astype(int):
            assert shot.image[y, x].min() > 0.5
