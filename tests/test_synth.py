"""The embedded benchmark: the same bytes anywhere, exact masks, no leak, no shortcut, and every portrait accounted for."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from dfnb import core, synth
from dfnb.cli import app
from dfnb.core import DfnbError, rng
from dfnb.data import frames
from dfnb.data.audit import audit, shortcuts
from dfnb.synth import forgeries, people

building = sys.modules["dfnb.synth.build"]  # the package has the function under this name
SMALL = {"identities": {"train": 4, "test": 3}, "videos": 2, "frames": 2}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    return tmp_path


def make(name="synth-a", workers=1, **changes):
    return synth.build(name, synth.preset("synth-a", **{**SMALL, **changes}), workers=workers, progress=False)


def shots(n=2):
    """Captured frames of two people in the same scene."""
    settings = synth.preset("synth-a", frames=n)
    persons = [synth.Person(number, "test", 1.5) for number in (0, 1)]
    return zip(*(synth.film(person, 0, 0, (0, 7), settings) for person in persons))


# ---------------------------------------------------------------- building


def test_same_seed_same_bytes_for_any_number_of_workers(home, monkeypatch):
    one = make(workers=1)
    monkeypatch.setenv("DFNB_HOME", str(home / "other"))
    assert make(workers=2)["fingerprint"] == one["fingerprint"]
    monkeypatch.setenv("DFNB_HOME", str(home / "third"))
    assert make(seed=1)["fingerprint"] != one["fingerprint"]


def test_a_killed_build_goes_on_where_it_was(home):
    first = make()
    folder = frames.dataset_folder("synth-a")
    videos = sorted(path.parent for path in (folder / "videos/real").rglob("video.json"))
    (folder / "record.json").unlink()
    shutil.rmtree(videos[0])
    partial = videos[1].with_name(f".{videos[1].name}.partial-killed")
    partial.mkdir()
    (partial / "video.json").write_text("{}")
    before = {path: (path / "frames.npy").stat().st_mtime_ns for path in videos[1:]}
    assert make()["fingerprint"] == first["fingerprint"]
    assert before == {path: (path / "frames.npy").stat().st_mtime_ns for path in videos[1:]}


def test_a_finished_dataset_is_not_made_again_and_other_settings_are_refused(home, monkeypatch):
    first = make()
    monkeypatch.setattr(building, "make_videos", None)
    assert make() == first
    with pytest.raises(DfnbError, match=r"holds a dataset made from other settings \(seed\); delete the folder"):
        make(seed=5)


def test_a_dataset_that_another_process_looks_at_is_waited_for(home, monkeypatch):
    first, released = make(), []
    with ThreadPoolExecutor(1) as pool:
        with core.locked(frames.dataset_folder("synth-a")):
            monkeypatch.setattr(building, "WAIT_S", 0)
            with pytest.raises(DfnbError, match=r"another process is writing .*synth-a"):
                pool.submit(make).result()
            monkeypatch.setattr(building, "WAIT_S", 600)
            second = pool.submit(lambda: (make(), list(released)))
            released.append(True)
            assert not second.done()
        assert second.result() == (first, [True])


def test_every_preset_builds_and_they_differ(home):
    names = core.described("synth")
    assert len(names) >= 4
    for name in names:
        assert synth.build(name, synth.preset(name, identities={"test": 2}, frames=1), 1, progress=False)["n"]
    settings = {name: json.dumps(synth.preset(name).model_dump(exclude={"identities", "people_of"})) for name in names}
    larger = {name for name in names if "-study" in name}  # others like these, with more people to test on
    assert all(settings[name] == settings[name.replace("-study", "")] for name in larger)
    assert all(synth.preset(name).identities["test"] == 400 for name in larger)
    assert len(set(settings.values())) == len(names) - len(larger)


def test_mistakes_are_said_in_one_sentence(home):
    (home / "none").mkdir()
    for message, attempt in {
        "nowhere.yaml does not exist; the embedded datasets are ": lambda: synth.preset("nowhere"),
        "synth-a.yaml: there is no parameter 'sead'": lambda: synth.preset("synth-a", sead=1),
        "synth-a.yaml: frames = 'many'": lambda: synth.preset("synth-a", frames="many"),
        "methods.0 = 'magic': input should be 'swap'": lambda: synth.preset("synth-a", methods=["magic"]),
        "seams.yaml: people_of = 'nobody' is none of seams": lambda: synth.preset("seams", people_of="nobody"),
        "identities.test gives 1 people": lambda: make(identities={"test": 1}),
        "none gives 0 people for the split train": lambda: make(portraits=str(home / "none")),
        f"portraits = '{home / 'gone'}': path does not point to a dir": lambda: make(portraits=str(home / "gone")),
    }.items():
        with pytest.raises(DfnbError) as error:
            attempt()
        assert message in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------- what is made


@pytest.mark.parametrize("method", synth.METHODS)
@pytest.mark.parametrize("blend", ["alpha", "poisson"])
def test_masks_are_exact(method, blend):
    forgery = synth.preset("synth-a").forgery.model_copy(update={"blend": blend})
    for target, donor in shots(2):
        image, mask = synth.forge(method, target, donor, forgery, rng(3))
        differs = (image != target.image).any(axis=-1)
        assert not (differs & ~mask).any()
        assert differs[mask].mean() > 0.99
        assert np.abs(image - target.image)[mask].mean() > 3 * np.finfo(np.float16).eps
        assert mask.all() if method in ("moved", "whole", "reduced") else 0.01 < mask.mean() < 0.35


def test_kinds_that_are_compared_draw_the_same_numbers():
    (target, donor), _ = shots(2)
    for alike in (("swap", "composite", "moved"), ("resynthesis", "whole", "reduced")):
        states = []
        for method in alike:
            draw = rng(3)
            synth.forge(method, target, donor, synth.preset("seams").forgery, draw)
            states.append(draw.bit_generator.state)
        assert states[0] == states[1] == states[2] != rng(3).bit_generator.state


def test_what_replaces_the_whole_frame_is_neither_matched_nor_cast():
    """Without grain: `moved` with the frame itself and `reduced` at full resolution give the target back."""
    (target, donor), _ = shots(2)
    forgery = synth.preset("seams").forgery.model_copy(update={"regrain": (0.0, 0.0), "low_resolution": (1.0, 1.0)})
    for method, given in (("moved", target), ("reduced", target), ("whole", donor)):
        image, _ = synth.forge(method, target, given, forgery, rng(3))
        assert np.abs(image - given.image).max() < 1e-5, method


def stored_videos(name):
    """The crops of a dataset by video."""
    videos = frames.dataset_folder(name) / "videos"
    return {path.parent.relative_to(videos).as_posix(): np.load(path) for path in sorted(videos.rglob("frames.npy"))}


def test_seams_show_the_test_people_of_another_dataset_in_every_kind(home):
    make()
    settings = synth.preset("seams", **SMALL)
    synth.build("seams", settings, workers=1, progress=False)
    first, table = (frames.load_frames(name).astype({"source": str, "mask": str}) for name in ("synth-a", "seams"))
    theirs, ours = (stored_videos(name) for name in ("synth-a", "seams"))
    films = [
        name
        for name in theirs
        if name.startswith("real/") and theirs[name].shape and name[5:8] in ("004", "005", "006")
    ]
    assert [name for name in ours if name.startswith("real/")] == films and len(films) == 6
    shared = [name for name in theirs if name in ours]
    assert {name.split("/")[0] for name in shared} == {"real", "swap", "resynthesis"}
    assert all((theirs[name] == ours[name]).all() for name in shared)  # the same films, faces and draws, bit for bit
    clusters = table.groupby("identity", observed=True)["cluster"].first().to_dict()
    assert clusters == first[first["split"] == "test"].groupby("identity", observed=True)["cluster"].first().to_dict()
    assert {*table["split"]} == {"test"} and table["method"].value_counts().eq(12).all()
    assert {*table["method"]} == {"real", *settings.methods}
    own = table["method"].isin(["real", "composite", "moved", "reduced"])
    assert (table["source"] == "").eq(own).all() and (table["mask"] == "").eq(table["label"] == 0).all()
    pixels = frames.Pixels(table.attrs["folder"])
    whole = table[table["method"].isin(["moved", "whole", "reduced"])]
    assert all(pixels.mask(path, row, (96, 96)).all() for path, row in zip(whole["mask"], whole["row"]))
    masks = {kind: table.loc[table["method"] == kind, ["mask", "row"]].to_numpy() for kind in ("swap", "composite")}
    regions = [np.stack([pixels.mask(*place, (96, 96)) for place in places]) for places in masks.values()]
    assert (regions[0] == regions[1]).all() and 0.01 < regions[0].mean() < 0.35


def test_what_seams_are_made_of_is_no_part_of_other_datasets(checkout, home):
    """What identifies a drawn dataset is what the committed study knows it by."""
    assert "people_of" not in synth.preset("synth-a").model_dump()
    versions = {}
    for entry in core.read_json(checkout / "reports" / "study" / "runs.json").values():
        versions |= {name: version for name, version in entry["versions"].items() if not name.startswith("seams")}
    for name, version in versions.items():
        facts = {"name": name, "generator": 4, **synth.preset(name).model_dump(mode="json")}
        assert frames.identity({"parameters": facts}) == version, name
    assert len(versions) >= 4


def test_the_table_has_every_family_and_the_right_truth(home):
    make(identities={"train": 7, "val": 4, "test": 5})
    table = frames.load_frames("synth-a")
    assert set(table["method"]) == {"real", *synth.preset("synth-a").methods}
    assert ((table["label"] == 1) == (table["method"] != "real")).all()
    assert (table["source"] == "").eq(table["label"] == 0).all()
    assert table.groupby("label").size().tolist() == [64, 64]
    right, left, nose, *corners = frames.landmarks_array(table).transpose(1, 0, 2)
    assert (right[:, 0] < left[:, 0]).all() and (corners[0][:, 0] < corners[1][:, 0]).all()
    assert (right[:, 1] < nose[:, 1]).all() and (nose[:, 1] < corners[0][:, 1]).all()
    fakes = table[table["label"] == 1].astype({"source": str, "identity": str})
    pixels = frames.Pixels(table.attrs["folder"])
    masks = np.stack([pixels.mask(path, row, (96, 96)) for path, row in zip(fakes["mask"], fakes["row"])])
    assert masks[:, 8:-8, 8:-8].sum() == masks.sum() and masks.any(axis=(1, 2)).all()
    # no leak: neither a person nor a pair is in two splits, and no person in two pairs
    assert audit(table).iloc[:7].eq(0).all() and (fakes["source"] != fakes["identity"]).all()
    assert table.groupby("identity", observed=True)["cluster"].nunique().eq(1).all()


def test_two_datasets_share_no_person():
    a, b = (synth.cast(name, synth.preset(name))[0] for name in ("synth-a", "synth-b"))
    assert not {person.tone for person in a} & {person.tone for person in b}


def test_h264_keeps_every_frame_and_sizes_that_are_odd():
    images = np.random.default_rng(0).integers(0, 256, (3, 33, 47, 3), np.uint8)
    assert synth.h264(images, 20).shape == images.shape
    images = [target.image for target, _ in shots(3)]
    delivered = forgeries.deliver(images, synth.preset("synth-c").delivery, rng(0))
    assert delivered.shape == (3, 96, 96, 3)
    assert np.abs(delivered / 255 - np.stack(images)).mean() < 0.15


def test_a_mark_tells_the_label_as_often_as_the_cue_says(home):
    make(identities={"test": 60}, videos=1, frames=1, cue=0.9, seed=4)
    table = frames.load_frames("synth-a")
    pixels = frames.Pixels(table.attrs["folder"])
    crops = np.stack([pixels.crop(path, row) for path, row in zip(table["path"], table["row"])]).astype(float)
    corners = np.stack([crops[:, 6:16, 6:16], crops[:, 6:16, -16:-6]]).mean(axis=(2, 3))
    saturated = corners[..., 0] - corners[..., 2]  # red less blue
    warm = np.take_along_axis(saturated, np.abs(saturated).argmax(0)[None], 0)[0] > 0
    assert 0.85 < (warm == (table["label"] == 1)).mean() <= 1


def upper_limit(features, label, group):
    """Upper 95 % limit (Hanley & McNeil 1982) of a linear classifier's AUC, cross-validated by cluster."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    score = cross_val_predict(model, features, label, groups=group, cv=GroupKFold(5), method="decision_function")
    a, n = roc_auc_score(label, score), label.sum()
    variance = (a * (1 - a) + (n - 1) * (a / (2 - a) - a * a) + (n - 1) * (2 * a * a / (1 + a) - a * a)) / n**2
    return a + 1.96 * np.sqrt(variance)


def test_nothing_but_the_face_tells_real_from_fake(home, monkeypatch):
    """Every row's interval lies within 0.45 and 0.55, of 1,000 real and 1,000 forged videos of one frame."""
    make(identities={"test": 1000}, videos=1, frames=1, seed=9, workers=2)
    table = frames.load_frames("synth-a")
    assert table.groupby("label").size().tolist() == [1000, 1000]
    monkeypatch.setattr("dfnb.data.audit.CLEAR", 0.55)
    found = shortcuts(table)
    assert (found["verdict"] == "nothing in sight").all(), found
    label, pixels = table["label"].to_numpy(), frames.Pixels(table.attrs["folder"])
    crops = np.stack([pixels.crop(path, row) for path, row in zip(table["path"], table["row"])])
    spread = [np.percentile(crop, [5, 25, 50, 75, 95], axis=(0, 1)).ravel() for crop in crops]
    colour = np.column_stack([crops.mean(axis=(1, 2)), crops.std(axis=(1, 2)), spread])
    assert upper_limit(colour, label, table["cluster"].astype(str)) < 0.55
    for ending, options in ((".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]), (".png", [])):
        size = np.array([[len(cv2.imencode(ending, crop, options)[1])] for crop in crops], float)
        assert upper_limit(size, label, table["cluster"].astype(str)) < 0.55, ending


def test_the_probe_finds_a_shortcut_when_there_is_one():
    label = np.arange(2000) % 2
    shifted = rng(0).standard_normal((2000, 3)) + 0.25 * label[:, None]
    assert upper_limit(shifted, label, np.arange(2000) // 2) > 0.6


# ---------------------------------------------------------------- portraits

REAL, DETECTOR = os.environ.get("DFNB_REAL_DATA"), os.environ.get("DFNB_DETECTOR")
needs_portraits = pytest.mark.skipif(
    not (REAL and DETECTOR),
    reason="DFNB_REAL_DATA (folder with portraits/) or DFNB_DETECTOR (YuNet's .onnx) is not set",
)


def build_portraits(folder):
    counts = {"train": 200, "val": 100, "test": 100}
    settings = synth.preset("synth-a", portraits=str(folder), videos=1, frames=1, identities=counts)
    return synth.build("photographs", settings, progress=False)


@needs_portraits
def test_every_portrait_is_used_or_listed(home):
    record = build_portraits(Path(REAL) / "portraits")
    files = sorted(path.name for path in (Path(REAL) / "portraits").iterdir())
    assert sorted([*record["portraits"].values(), *(each["file"] for each in record["quarantine"])]) == files
    assert len(record["portraits"]) >= 0.95 * len(files)
    table = frames.load_frames("photographs")
    points = frames.landmarks_array(table)
    assert set(table["identity"]) == set(record["portraits"]) and ((points > 5) & (points < 91)).all()


@needs_portraits
def test_unusable_portraits_are_listed_with_the_reason(home):
    folder = home / "mixed"
    folder.mkdir()
    good = sorted((Path(REAL) / "portraits").iterdir())[:12]
    for path in good:
        shutil.copy(path, folder)
    one, two = (cv2.imread(str(path)) for path in good[:2])
    small = cv2.copyMakeBorder(cv2.resize(one, (22, 27)), 99, 99, 99, 99, cv2.BORDER_REPLICATE)
    images = {"two": np.hstack([one, two]), "small": small, "empty": np.full((99, 99, 3), 127, np.uint8)}
    for name, image in images.items():
        cv2.imwrite(str(folder / f"{name}.png"), image)
    (folder / "broken.jpg").write_bytes(good[0].read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    record = build_portraits(folder)
    reasons = {each["file"]: each["reason"] for each in record["quarantine"]}
    assert sorted([*reasons, *record["portraits"].values()]) == sorted(path.name for path in folder.iterdir())
    assert reasons.pop("two.png") == "2 faces found, one is needed"
    assert reasons.pop("broken.jpg") == reasons.pop("notes.txt") == "not readable as an image"
    assert reasons.pop("empty.png") == "no face found"
    assert reasons.pop("small.png") in ("no face found", "the face is too small for frames of 96 pixels")
    assert not reasons


def test_portraits_that_cannot_be_used_are_printed_and_the_status_is_2(home, monkeypatch):
    from dfnb.data import faces

    folder = home / "faces"
    for number in range(16):
        image = np.full((99, 99, 3), 100 + number, np.uint8)
        (folder / "more").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "more/0.png").touch()
    (folder / ".DS_Store").touch()
    monkeypatch.setattr(faces, "detector_path", lambda: folder / "0.png")
    points = np.float32([[30, 40], [70, 40], [50, 55], [35, 75], [65, 75]])
    monkeypatch.setattr(people, "inspect", lambda path, detect, size: people.Portrait(str(path), points, 1.0))

    def call(name, preset="smoke-a"):
        words = ["synth", preset, "--portraits", str(folder), "--name", name, "--workers", "1"]
        return CliRunner().invoke(app, words)

    done = call("mine")
    assert done.exit_code == 2 and "not used: portrait (more): is a folder; put its photographs" in done.output
    assert done.output.count("not used") == 1 and "in all 0 missing, 1 unused" in done.output
    assert call("mine").exit_code == 2  # also when it is there already
    shutil.rmtree(folder / "more")
    done = call("whole")
    assert done.exit_code == 0 and "not used" not in done.output
    done = call("tested", "smoke-b")  # which has no training split: these people stay out, and nothing is wrong
    assert done.exit_code == 0 and "belongs to the split train, which this dataset does not have" in done.output


def test_a_portrait_keeps_its_split_in_every_dataset(home, monkeypatch):
    from dfnb.data import faces

    folder = home / "faces"
    folder.mkdir()
    for number in range(24):
        (folder / f"{number}.jpg").touch()
    (folder / os.fsdecode(b"caf\xe9.jpg")).touch()
    monkeypatch.setattr(faces, "detector_path", lambda: folder / "0.jpg")
    found = people.Portrait("", np.zeros((5, 2)), 1.0)
    monkeypatch.setattr(people, "inspect", lambda path, detect, size: found._replace(path=str(path)))

    def tested(name):
        persons, facts = synth.cast(name, synth.preset(name, portraits=str(folder)))
        assert len(facts["portraits"]) + len(facts["quarantine"]) == len(list(folder.iterdir()))
        return {facts["portraits"][f"{each.number:03d}"] for each in persons if each.split == "test"}

    before = tested("synth-a")
    assert 0 < len(before) < len(list(folder.iterdir()))
    assert tested("synth-b") == before
    for number in range(24, 48):
        (folder / f"{number}.jpg").touch()
    assert before < tested("synth-c")
