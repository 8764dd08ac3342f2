"""Published datasets: their manifests, their layouts in miniature, and trees that are broken."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import folds
import numpy as np
import pandas as pd
import pytest
import trees
from clips import write
from deepfakebench import listed
from PIL import Image
from typer.testing import CliRunner

from dfnb import cli
from dfnb.results import claims
from dfnb.results.published import datasets_by_source
from dfnb.running import measuring, profiles
from facesets import codecs, prepare, published
from facesets.casts import cast
from facesets.checks import DfnbError
from facesets.decode import read_image
from facesets.files import find, read_json, write_json
from facesets.films import takes
from facesets.frames import landmarks_array, load_frames, read_crop, read_mask
from facesets.manifests import domain_of, published_names
from facesets.sources import preset
from facesets.videos import Video, read_folder

# The datasets that have masks of their fakes, of all methods. In DFD and in those of sorted images
# no fake names the video that it was made from; in the others every one does.
SORTED = {"lae-inpainting", "lae-attribute", "face-crops", "inp-x", "semi-truths-faces"}
LINKED = {"faceforensics-c23", "faceforensics-c40", "faceforensics-raw", "lae-face"}
LINKED |= {
    "celeb-df-v1",
    "celeb-df-v2",
    "deeperforensics",
    "uadfv",
    "hidf",
    "hidf-sample",
    *(f"hidf-sample-fold-{fold}" for fold in range(1, 6)),
    "rtfs-10k",
}
MASKED = {"dfd", *SORTED, *LINKED}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "downloaded").mkdir()
    return tmp_path / "downloaded"


@pytest.fixture(autouse=True, name="home")
def own_home(tmp_path, monkeypatch):
    """A home of its own, with the manifests of the checkout."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DFNB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def prepared(videos, size=64, one_class=False):
    settings = prepare.Settings(size=size, frames_per_video=2)
    record = prepare.prepare("set", videos, settings, trees.Centre(), 1, one_class)
    return record, load_frames("set")


def masked(table):
    return table[table["mask"] != ""]


# ---------------------------------------------------------------- what the manifests say


def test_every_manifest_says_what_a_user_must_know_and_has_a_tree():
    # A dataset that is encoded again has the tree of the one that is not.
    assert sorted(n for n in published_names() if "-23-" not in n) == sorted(trees.TREES)
    for name in published_names():
        manifest = published.load_manifest(name)
        prepare.Settings.check(manifest.prepare, name)
        for fact in ("Licence: ", "Labels: ", "Splits: ", "Masks: "):
            assert f"\n{fact}" in manifest.about
        assert manifest.access and manifest.space


def test_every_dataset_with_a_claim_or_a_published_figure_is_in_a_profile():
    names = {theirs: name for theirs, (name, method) in datasets_by_source().items()}
    planned = set()
    for path in (find("notebooks") / "profiles").glob("*.yaml"):
        profile = profiles.read(path.stem)
        planned.update((profile.train_set, test_set) for test_set in profile.test_sets)
    figures = pd.read_csv(find("data_manifest") / "published.csv").replace(names)
    figures = figures[figures[["train_set", "test_set"]].isin(names.values()).all(axis=1)]
    assert ("celeb-df-v2", "celeb-df-v2") in {*zip(figures["train_set"], figures["test_set"])}
    assert {*zip(figures["train_set"], figures["test_set"])} <= planned
    claimed = {
        name for claim in claims.read_claims("claims-published").claims for name in claim.sets
    }
    assert claimed & {*names.values()} <= {test_set for _, test_set in planned}


def test_every_published_figure_has_a_source_and_a_confidence():
    table = pd.read_csv(find("data_manifest") / "published.csv", dtype=str)
    assert table[["source", "confidence", "value"]].notna().all(axis=None)


def test_folds_of_hidf_share_nobody_and_are_those_that_the_seed_draws():
    table = pd.read_csv(folds.PATH)
    assert table["fold"].equals(folds.draw(table["cluster"]))
    assert table.groupby("fold")["clip"].count().between(9, 11).all()
    for column in ("cluster", "person", "donor"):
        assert table.groupby(column)["fold"].nunique().max() == 1
        assert table.groupby(column)["cluster"].nunique().max() == 1
    assert len(table) == 51 and table["cluster"].nunique() == 30


def test_the_shipped_splits_are_the_published_ones(home):
    pairs = published.load_manifest("faceforensics-c23").rules[0].list
    rows = published.read_listing(pairs, {})
    splits = pd.Series({name: row["split"] for name, row in rows.items()})
    for kind in (splits[splits.index.str.len() == 3], splits[splits.index.str.len() == 7]):
        assert kind.value_counts().to_dict() == {"train": 720, "val": 140, "test": 140}
    for version, counts in ((1, {"0": 38, "1": 62}), (2, {"0": 178, "1": 340})):
        rows = published.read_listing(
            published.load_manifest(f"celeb-df-v{version}").rules[0].list, {}
        )
        assert {row["split"] for row in rows.values()} == {"test"}
        labels = pd.Series({name: row["label"] for name, row in rows.items()})
        assert labels.value_counts().to_dict() == counts
        assert all((labels == "1") == labels.index.str.startswith("Celeb-synthesis"))
    (home / "data_manifest/splits").mkdir(parents=True)
    (home / "data_manifest/splits/faceforensics_pairs.csv").write_text("a,b,split\n0,3,train\n")
    with pytest.raises(DfnbError, match=r"faceforensics_pairs\.csv is missing or was changed"):
        published.read_listing(pairs, {})


def test_a_mistake_in_a_manifest_is_named(home):
    (home / "data_manifest").mkdir()
    (home / "data_manifest/own.yaml").write_text("kind: real\nrules: []\nlicense: free\n")
    with pytest.raises(DfnbError, match=r"own\.yaml: .*there is no parameter 'license'"):
        published.load_manifest("own")


def test_a_wrong_manifest_stops_what_needs_it_alone(home):
    shutil.copytree(find("data_manifest"), home / "data_manifest")
    (home / "data_manifest/own.yaml").write_text("kind: real\nspace: none\nrules: []\n")
    (home / "data_manifest/torn.yaml").write_text("kind: real\nrules: [\n")
    done = CliRunner().invoke(cli.commands, ["data"])
    assert done.exit_code == 0
    *_, wrong = done.output.split("its manifest is wrong\n")
    assert "own.yaml: access is missing" in wrong and "torn.yaml is not valid YAML" in wrong
    for name, sentence in (("own", "access is missing"), ("torn", "is not valid YAML")):
        done = CliRunner().invoke(cli.commands, ["prepare", name])
        assert isinstance(done.exception, DfnbError) and sentence in str(done.exception)
    done = CliRunner().invoke(cli.commands, ["prepare", "uadfv"])
    assert "uadfv needs --root" in str(done.exception)


def test_ways_to_the_files_are_told_apart():
    ways = published.overview()["how"]
    assert ways["hidf-sample"] == "one command: dfnb fetch NAME"
    assert ways["inp-x"] == "by hand, without a form"
    assert ways["celeb-df-v2"] == ways["wilddeepfake"]
    assert ways["celeb-df-v2"].startswith("by request")
    assert ways["lae-inpainting"] == ways["face-crops"] == "files of your own"
    assert domain_of("hidf-sample") == ("hidf", True)  # a column of its own: 11 test clips
    assert domain_of("hidf") == ("hidf", False)


# ---------------------------------------------------------------- the official layouts


@pytest.mark.parametrize("name", trees.TREES)
def test_each_layout_is_read_and_prepared(root, name):
    expected = trees.TREES[name](root)
    videos, problems = published.scan(name, root)
    rows = {video.name: (video.method, video.split, video.cluster) for video in videos}
    assert rows == expected
    assert all("missing" in problem or "published files" in problem for problem in problems)
    record, table = prepared(videos)
    assert record["quarantine"] == []
    assert {*table["video"]} == {*expected}
    assert (table["label"] == (table["method"] != "real")).all()
    fakes = table[table["label"] == 1].astype({"identity": str})
    assert ((table["mask"] != "") == (table["label"] == 1) & (name in MASKED)).all()
    for video in videos:  # NeuralTextures at any compression
        assert video.mask_threshold == (15 if video.method == "NeuralTextures" else 127)
    named = fakes[fakes["original"] != ""]
    assert len(named) == (len(fakes) if name in LINKED else 0)
    people = table[table["label"] == 0].drop_duplicates("video").set_index("video")["identity"]
    assert named["original"].astype(str).map(people).tolist() == named["identity"].tolist()
    for row in masked(table).itertuples():
        shape = read_crop(row.path).shape[:2]
        assert 0.02 < read_mask(row.mask, shape).mean() < 0.9


def test_crops_of_others_become_frames_as_they_are(tmp_path, root, home):
    trees.wilddeepfake(root)
    record, table = prepared(published.scan("wilddeepfake", root)[0])
    files = [path.read_bytes() for path in home.rglob("*.png")]
    assert sorted(files) == sorted(path.read_bytes() for path in root.rglob("*.png"))
    assert len(files) == len(table) == 12
    assert table["frame"].tolist()[:3] == [9, 10, 11]  # not in the order of names: 10 before 9
    assert np.isnan(landmarks_array(table)).all()
    assert measuring.describe("set").crop == "crops as delivered"
    moved = root.rename(tmp_path / "moved")
    again, _ = prepared(published.scan("wilddeepfake", moved)[0])
    assert again["fingerprint"] == record["fingerprint"]
    source = moved / "fake_test/0/fake/104/10.png"
    row = table[(table["method"] == "WildDeepfake") & (table["frame"] == 10)].iloc[0]
    # Without its last chunk Pillow reads it and training, which has OpenCV, does not.
    source.write_bytes(source.read_bytes().removesuffix(b"\0\0\0\0IEND\xaeB`\x82"))
    assert read_image(source).any() and read_crop(row["path"]).any()  # the frame is a copy
    trees.image(moved / "real_test/0/real/104/9.png", np.zeros((1, 200, 3), np.uint8))
    record, table = prepared(published.scan("wilddeepfake", moved)[0])
    assert len(table) == 10 and record["faces"]["test/WildDeepfake"]["without_face"] == 1
    assert record["fingerprint"] != again["fingerprint"]
    fake, real = (problem["reason"] for problem in record["quarantine"])
    assert "such as 10.png: training cannot read it" in fake
    assert "9.png: a crop has fewer than 32 x 32 pixels" in real
    shutil.rmtree(moved)  # the dataset needs it no more
    assert all(read_crop(path).any() for path in load_frames("set")["path"])


def test_crops_of_any_kind_are_seen_in_training_as_a_viewer_shows_them(root):
    image = Image.fromarray(trees.faces(0, forged=True)[0][1, :120])
    grey = image.convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6  # by a quarter
    kinds = {
        "rgb.png": image,
        "grey.png": grey,
        "palette.png": image.convert("P"),
        "bit.png": grey.convert("1"),
        "opaque.png": image.convert("RGBA"),
        "bitmap.bmp": image,
        "palette.bmp": image.convert("P"),
        "turned.png": image,
        "turned.jpg": image,
        "grey.jpg": grey,
        "turned.webp": image,
    }
    (root / "real").mkdir()
    for number, (name, picture) in enumerate(kinds.items()):
        more = {"exif": turned} if "turned" in name else {}
        picture.save(root / f"real/{number}{name}", **more)
    record, table = prepared(published.scan("face-crops", root)[0], one_class=True)
    assert record["quarantine"] == [] and len(table) == len(kinds)
    for path, video in zip(table["path"], table["video"]):
        (source,) = root.glob(f"{video}.*")
        shown = read_image(source)
        assert ("turned" in video) == (shown.shape[:2] != image.size[::-1])
        # Decoders of JPEG differ by a level or two.
        np.testing.assert_allclose(read_crop(path), shown, atol=2 * (source.suffix == ".jpg"))


def test_crops_of_ones_own_may_be_folders_of_frames(root):
    image = trees.faces(0, forged=True)[0][1]
    for name in (2, 10):
        trees.image(root / f"test/fake/GL/clip/{name}.png", image)
    for name in ("left", "right", "1_a_3", "2_a_3"):  # names that number nothing
        trees.image(root / f"test/real/clip/{name}.jpg", image)
    trees.image(root / "test/real/phone/IMG_20230401123456.jpg", image)  # nor does a date
    videos, problems = published.scan("face-crops", root)
    assert problems == []  # also without a mask
    _, table = prepared(videos)
    assert table[table["video"] == "test/fake/GL/clip"]["frame"].tolist() == [2, 10]
    clip = table[table["video"] == "test/real/clip"]
    assert clip["frame"].tolist() == [0, 1, 2, 3] and len(table) == 2 + 4 + 1
    assert table[table["video"] == "test/real/phone"]["frame"].tolist() == [0]
    (root / "test/mask/GL/clip").mkdir(parents=True)
    (root / "test/mask/GL/clip/2.png").write_bytes(b"no mask")
    record, table = prepared(published.scan("face-crops", root)[0])
    (problem,) = record["quarantine"]
    assert "such as 2.png: its mask: missing, truncated" in problem["reason"]
    assert table[table["video"] == "test/fake/GL/clip"]["frame"].tolist() == [10]


# ---------------------------------------------------------------- trees that are broken


def test_what_is_missing_is_named_and_the_rest_is_done(root):
    trees.faceforensics(root)
    fakes = root / "manipulated_sequences"
    (fakes / "FaceSwap/c23/videos/054_071.mp4").unlink()
    for folder in ("NeuralTextures/c23/videos", "Face2Face/masks/videos"):
        for path in (fakes / folder).iterdir():
            path.unlink()
    trees.clip(root / "original_sequences/youtube/c23/videos/1234.mp4", 0)
    videos, problems = published.scan("faceforensics-c23", root)
    text = "\n".join(problems)
    listed = "splits/faceforensics_pairs.csv"
    assert "NeuralTextures>/c23/videos/*_*.mp4: 17 of the 4000 published files" in text
    assert "no file of the method NeuralTextures" in text
    assert "Face2Face: no masks, because files are missing: 6 (" in text
    assert f"not in the list {listed}; left out: 1 (original_sequences/youtube/c23/videos/1" in text
    assert len(videos) == 30 - 1 - 6
    record, table = prepared(videos)
    assert record["quarantine"] == []
    assert {*masked(table)["method"]} == {"Deepfakes", "FaceSwap"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"method_B/1260311/1260311_C/1255229_1260311_C_001.mp4": {"label": "forged"}}', "forged"),
        ("{", r"dataset\.json is not valid JSON"),
        ("{}", r"not in the list dataset.json; left out.*; access: "),
    ],
)
def test_a_list_that_is_wrong_or_damaged_or_names_no_file_is_told(root, content, problem):
    trees.dfdc_p(root)
    (root / "dataset.json").write_text(content)
    with pytest.raises(DfnbError, match=problem):
        published.scan("dfdc-p", root)


def test_splits_of_other_names_are_refused_or_mapped(root, home):
    (home / "data_manifest").mkdir()
    path = home / "data_manifest/own.yaml"
    path.write_text("""
kind: real
access: ask
space: none
rules:
- {files: "{split}/real/{stem}.mp4", label: real}
- {files: "{split}/fake/{stem}.mp4", label: fake, method: swap}
""")
    for split in ("learn", "exam"):
        trees.clip(root / split / "real/a.mp4", 0)
        trees.clip(root / split / "fake/a.mp4", 0, forged=True)
    with pytest.raises(DfnbError, match=r"the split 'exam'.*as in splits: \{exam: train\}"):
        published.scan("own", root)
    path.write_text(path.read_text() + "splits: {learn: train, exam: test}\n")
    splits = [video.split for video in published.scan("own", root)[0]]
    assert sorted(splits) == ["test", "test", "train", "train"]


def test_a_wrong_folder_is_told_what_was_looked_for(root):
    trees.dfd(root)
    with pytest.raises(DfnbError, match=r"and nothing of dfd; looked for [^{}]*/.*; access: "):
        published.scan("dfd", root.parent)


def test_folders_that_no_rule_reads_are_named(root):
    """A method a folder, beside real/; and a mask without its fake."""
    trees.lae_images(root)
    image = trees.faces(0)[0][0]
    for name in ("AB/0.png", "AB/1.png", "CD/0.png", "test/mask/seen/other.png"):
        trees.image(root / name, image)
    sentence = "contains 4 videos or images that are not read, such as AB/0.png;"
    for name in ("face-crops", "lae-inpainting"):
        with pytest.raises(DfnbError, match=sentence):
            published.scan(name, root)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(root, home, monkeypatch):
    trees.uadfv(root)
    videos, _ = published.scan("uadfv", root)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DfnbError, match="No space left on device"):
            prepared(videos)
    assert not list(home.rglob("*.png")) and not list(home.rglob("record.json"))
    assert len(prepared(videos)[1]) == 4


def test_a_fake_is_never_called_real(root):
    trees.image(root / "fake/real/a.png", trees.faces(0)[0][0])
    sentence = r"fake/real/a is a fake of the method 'real'; give .* another name"
    for videos in (published.scan("face-crops", root)[0], read_folder(root)):
        with pytest.raises(DfnbError, match=sentence):
            prepared(videos)


# ---------------------------------------------------------------- masks


def agreement(row, masks):
    """Intersection over union of a row's stored mask and the true one of its video (n, H, W)."""
    truth = np.uint8(masks[row.frame]) * 255
    truth = prepare.crop(truth, [int(x) for x in row.crop_box], trees.SIZE) > 127
    region = read_mask(row.mask, truth.shape)
    return (region & truth).sum() / (region | truth).sum()


def test_the_difference_of_a_fake_and_its_original_is_the_mask(root):
    trees.uadfv(root)
    images, _ = trees.faces(5)
    write(root / "real/0048.mp4", np.concatenate([images, images]))  # longer than its fake
    write(root / "real/0049.mp4", images[:2])  # shorter
    write(root / "real/0050.mp4", images[:, :64])  # of another size
    for number in (48, 49, 50):
        trees.clip(root / f"fake/00{number}_fake.mp4", 5, forged=True)
    record, table = prepared(published.scan("uadfv", root)[0], size=trees.SIZE)
    counts = masked(table)["video"].value_counts()
    fakes = [counts.get(f"FakeApp/00{number}_fake", 0) for number in (47, 48, 49, 50)]
    assert fakes == [2, 2, 2, 0]
    (entry,) = record["quarantine"]  # it is used, but not compared
    assert (entry["video"], entry["crops"]) == ("FakeApp/0050_fake", 2)
    assert entry["reason"].startswith("without a mask: ")
    for row, number in zip(masked(table).itertuples(), (4, 4, 5, 5, 5, 5)):
        assert agreement(row, trees.faces(number, forged=True)[1]) > 0.8


CORNERS = [(62, 58), (98, 58), (80, 112)]  # x and y of spots in the face of trees.Centre


def scraps(images):
    """Frames whose face differs in three small spots alone, as in a swap that was fitted well."""
    forged = images.copy()
    for image in forged:
        for corner in CORNERS:
            cv2.circle(image, corner, 5, (120, 40, 60), -1)
    return forged


def test_the_mask_of_a_swap_that_differs_in_scraps_is_their_hull(root):
    images, _ = trees.faces(5)
    write(root / "real/0001.mp4", images)
    write(root / "fake/0001_fake.mp4", scraps(images))
    videos, _ = published.scan("uadfv", root)
    truth = np.zeros((trees.SIZE, trees.SIZE), np.uint8)
    cv2.fillConvexPoly(truth, np.array(CORNERS), 255)
    cv2.polylines(truth, [np.array(CORNERS)], True, 255, 11)  # the spots have a radius of 5
    overlap = {}
    for way in ("pixels", "hull"):
        given = [replace(video, difference=way) for video in videos]
        settings = prepare.Settings(size=trees.SIZE, frames_per_video=1)
        prepare.prepare(way, given, settings, trees.Centre(), 1)
        row = next(masked(load_frames(way)).itertuples())
        region = read_mask(row.mask, truth.shape)
        expected = prepare.crop(truth, [int(x) for x in row.crop_box], trees.SIZE) > 127
        overlap[way] = (region & expected).sum() / (region | expected).sum()
    assert overlap["pixels"] < 0.4 and overlap["hull"] > 0.9
    assert {video.difference for video in videos} == {"hull"}  # in the manifest


UNCHANGED = {"white_balance": 0, "contrast": 0, "noise": [0, 0], "jpeg": [100, 100]}


def test_the_hull_finds_a_faint_swap_that_the_pixels_miss(root):
    """Swaps of portraits, whose masks are known, and their originals, each compressed alone."""
    sizes = {"identities": {"test": 6}, "videos": 1, "frames": 2, "size": trees.SIZE}
    settings = preset("smoke-b", **sizes, parts=0, methods=["FaceSwap-like"], delivery=UNCHANGED)
    people, _ = cast("hull", settings)
    swaps = []
    truth = {}
    for video in (video for take in takes("hull", people, settings) for video in take.videos()):
        if video.masks is None:  # a real one, and the next is its fake
            clean = video.frames.astype(float)
            original = write(root / f"{video.name}.mp4", codecs.h264(video.frames, 23))
            swaps.append(Video(video.name, original, 0, "real"))
            continue
        for opacity in (1, 0.3):
            name = f"{video.name}-{opacity}"
            faded = np.uint8((clean + opacity * (video.frames - clean)).round())
            file = write(root / f"{name}.mp4", codecs.h264(faded, 28))
            swaps.append(Video(name, file, 1, f"opacity {opacity}", original=original))
            truth[name] = video.masks
    overlap = {}
    for way in ("pixels", "hull"):
        given = [replace(video, difference=way) for video in swaps]
        settings = prepare.Settings(size=trees.SIZE)
        prepare.prepare(way, given, settings, trees.Centre(), 1)
        table = masked(load_frames(way))
        assert len(table) == 24
        shares = [agreement(row, truth[row.video]) for row in table.itertuples()]
        methods = table["method"].astype(str).to_numpy()
        overlap[way] = pd.Series(shares).groupby(methods).median()
    assert overlap["hull"].min() > 0.6  # .69 of the faint and .79 of the full ones
    assert overlap["pixels"]["opacity 1"] > 0.6 and overlap["pixels"]["opacity 0.3"] < 0.1


def test_a_pair_that_does_not_agree_frame_by_frame_has_no_mask_and_is_told(root, monkeypatch):
    monkeypatch.setattr(prepare, "YuNet", trees.Centre)
    images, _ = trees.faces(5)
    moving = np.stack([np.roll(image, 12 * i, axis=1) for i, image in enumerate(images)])
    write(root / "real/0001.mp4", moving)
    write(root / "fake/0001_fake.mp4", scraps(moving[::2]))  # at half the rate
    write(root / "real/0002.mp4", moving)
    write(root / "fake/0002_fake.mp4", scraps(moving))
    done = CliRunner().invoke(cli.commands, ["prepare", "uadfv", "--root", str(root)])
    told = "without a mask: it does not agree with its original frame by frame: 1 (FakeApp/0001_fa"
    assert told in done.output
    assert {*masked(load_frames("uadfv"))["video"]} == {"FakeApp/0002_fake"}
    again = CliRunner().invoke(cli.commands, ["prepare", "uadfv", "--root", str(root)])
    assert told in again.output


def test_more_files_than_were_published_are_refused(root):
    for number in range(50):
        file = root / f"real/{number:04}.mp4"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    sentence = r"real/\*.mp4: 50 files, where 49 were published; move away those that are not"
    with pytest.raises(DfnbError, match=sentence):
        published.scan("uadfv", root)
    file.unlink()
    assert len(published.scan("uadfv", root)[0]) == 49


# ---------------------------------------------------------------- DeepfakeBench


def test_a_tree_of_deepfakebench_is_read(root):
    file, rgb, expected = trees.deepfakebench(root)
    videos, problems = listed(file, rgb)
    assert {video.name: (video.label, video.split) for video in videos} == expected
    assert problems == [] and {video.cluster for video in videos} == {"071_054", "953_974"}
    _, table = prepared(videos)
    assert table["frame"].tolist()[:3] == [0, 3, 10] and len(table) == 12
    assert {*masked(table)["label"]} == {1} and len(masked(table)) == 6
    row = table[(table["video"] == "FF-DF/953_974") & (table["frame"] == 10)].iloc[0]
    images, masks = trees.faces(953, forged=True)
    np.testing.assert_array_equal(read_crop(row["path"]), images[10 % trees.FRAMES])
    mask = read_mask(row["mask"], masks.shape[1:])
    np.testing.assert_array_equal(mask, masks[10 % trees.FRAMES])


def test_a_video_that_deepfakebench_lists_twice_is_a_test_video_once(tmp_path, root):
    file, rgb, _ = trees.deepfakebench(root)
    content = read_json(file)
    splits = content["FF-DF"]["FF-real"]
    splits["train"]["c23"].update(splits["test"]["c23"])
    images = splits["test"]["c23"]["953"]["frames"]
    images[2] = "../../outside.png"
    trees.image(tmp_path / "outside.png", trees.faces(0)[0][0])
    write_json(file, content)
    videos, problems = listed(file, rgb)
    assert [video.split for video in videos if video.name == "FF-real/953"] == ["test"]
    assert problems == ["FF-real/953: 2 of 3 frames are below rgb, and not ../../outside.png"]


def test_a_compression_of_deepfakebench_is_chosen(root):
    file, rgb, expected = trees.deepfakebench(root)
    file.write_text(file.read_text().replace('"c23": {', '"c40": {'))
    with pytest.raises(DfnbError, match="lists no video, or none in c23"):
        listed(file, rgb)
    videos, _ = listed(file, rgb, "c40")
    assert {video.name for video in videos} == {*expected}


@pytest.mark.parametrize("above", ["D:\\\\rgb\\\\", "../rgb/"])
def test_paths_of_deepfakebench_may_be_those_of_another_machine(tmp_path, root, above):
    file, rgb, expected = trees.deepfakebench(root)
    (rgb / "FaceForensics++").rename(tmp_path / "disk")
    (rgb / "FaceForensics++").symlink_to(tmp_path / "disk", target_is_directory=True)
    content = file.read_text().replace('"FaceForensics', f'"{above}FaceForensics')
    file.write_text(content)
    videos, problems = listed(file, rgb)
    assert {video.name for video in videos} == {*expected} and problems == []
    assert {len(video.frames) for video in videos} == {3} and videos[-1].frames[0][1]
    sentence = r"lists no frame below .*; name the folder .*3 frames are below real, and not .*Face"
    with pytest.raises(DfnbError, match=sentence):
        listed(file, root / "real")
