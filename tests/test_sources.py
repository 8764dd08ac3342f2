"""Published datasets: what their manifests say, their layouts in miniature, and trees that are broken."""

import re

import deepfakebench
import numpy as np
import pandas as pd
import pytest
import trees
from typer.testing import CliRunner

from dfnb import core
from dfnb.cli import app
from dfnb.core import DfnbError
from dfnb.data import frames, prepare, sources

SETTINGS = prepare.Settings(size=64, frames_per_video=2)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "downloaded").mkdir()
    return tmp_path / "downloaded"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, checkout):
    """A home of its own, with the manifests of the checkout."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DFNB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def prepared(found, missing=(), settings=SETTINGS):
    record = prepare.prepare(
        "set", found, settings, trees.Centre(), workers=1, progress=False, missing=missing
    )
    return record, frames.load_frames("set")


def scan(name, *roots):
    return sources.scan(sources.load(name), roots)


def masked(table):
    return table[table["mask"].astype(str) != ""]


# ---------------------------------------------------------------- what the manifests say


def test_every_manifest_keeps_the_schema_and_every_tree_has_one():
    assert sorted(core.described("real")) == sorted(trees.TREES)
    for name in core.described("real"):
        m = sources.load(name)
        prepare.Settings.check(m.prepare, name)
        assert all(rule.list in m.lists for rule in m.rules if rule.list)
        told = [m.about[key] for key in ("title", "paper", "licence", "labels", "splits", "masks")]
        texts = [*told, m.access, m.space]
        assert all(texts) and "TODO" not in " ".join(texts)


def test_every_published_figure_has_a_source_a_confidence_and_its_dataset(checkout):
    table = pd.read_csv(checkout / "data_manifest" / "published.csv", dtype=str)
    assert table[["source", "confidence", "value"]].notna().all(axis=None)
    described = {
        test_set
        for name in core.described("real")
        for test_set in sources.load(name).about["published"]
    }
    known = set(table["test_set"])
    assert described <= known, described - known
    elsewhere = {"MMTD-Set", "DFFD (FaceApp, FFHQ)", "Seq-DeepFake"}
    summaries = ("average", "task ", "within", "cross")
    unknown = {name for name in known - described - elsewhere if not name.startswith(summaries)}
    assert all(name.startswith("Celeb-DF (") for name in unknown), (
        unknown
    )  # the version is not stated


def test_the_shipped_splits_are_the_published_ones(home):
    pairs = pd.read_csv(core.find("data_manifest") / "splits/faceforensics_pairs.csv", dtype=str)
    assert pairs["split"].value_counts().to_dict() == {"train": 360, "val": 70, "test": 70}
    lists = sources.load("faceforensics-c23").lists
    named = {name for each in ("originals", "fakes") for name in sources.read_list(lists[each], {})}
    assert len(named) == 2000 and named >= {"071", "054", "071_054", "054_071"}
    for version, counts in ((1, {"0": 38, "1": 62}), (2, {"0": 178, "1": 340})):
        rows = sources.read_list(sources.load(f"celeb-df-v{version}").lists["test"], {})
        assert pd.Series([row["label"] for row in rows.values()]).value_counts().to_dict() == counts
        assert all(
            (row["label"] == "1") == key.startswith("Celeb-synthesis") for key, row in rows.items()
        )
    text = (core.find("data_manifest") / "faceforensics-c23.yaml").read_text()
    (home / "data_manifest/splits").mkdir(parents=True)
    (home / "data_manifest/faceforensics-c23.yaml").write_text(text)
    (home / "data_manifest/splits/faceforensics_pairs.csv").write_text("a,b,split\n000,003,train\n")
    with pytest.raises(
        DfnbError, match=r"faceforensics_pairs\.csv is missing or has another sha256"
    ):
        sources.read_list(sources.load("faceforensics-c23").lists["fakes"], {})


def test_a_mistake_in_a_manifest_is_named(home):
    text = (core.find("data_manifest") / "uadfv.yaml").read_text()
    (home / "data_manifest").mkdir()
    (home / "data_manifest" / "uadfv.yaml").write_text(text.replace("licence:", "license:"))
    with pytest.raises(DfnbError, match=r"uadfv\.yaml: .*there is no parameter 'license'"):
        sources.load("uadfv")


# ---------------------------------------------------------------- the official layouts

FF_METHODS = {"Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"}
MASKED = {
    "faceforensics-c23": FF_METHODS, "faceforensics-raw": FF_METHODS, "faceforensics-c40": FF_METHODS,
    "lae-face": {"Face2Face", "FaceSwap"}, "dfd": {"DeepFakeDetection"}, "lae-inpainting": {"seen", "unseen"},
    "lae-attribute": {"seen", "unseen"}, "celeb-df-v1": {"Celeb-synthesis"}, "celeb-df-v2": {"Celeb-synthesis"},
    "deeperforensics": {"DF-VAE"}, "uadfv": {"FakeApp"},
}  # fmt: skip


@pytest.mark.parametrize("name", trees.TREES)
def test_each_layout_is_read_and_prepared(root, name):
    expected = trees.TREES[name](root)
    found, problems = scan(name, root)
    assert {s.video: (s.label, s.method, s.split, s.cluster) for s in found} == expected
    assert all(
        "missing" in sentence or "fewer than" in sentence for sentence in problems
    )  # it is a miniature
    if name in ("faceforensics-raw", "faceforensics-c40", "faceshifter", "celeb-df-v1"):
        return  # prepared as the others of their family
    record, table = prepared(found, problems)
    assert record["quarantine"] == [] and record["missing"] == problems
    rows = table.drop_duplicates("video").set_index("video")
    assert {video: (row.label, row.method) for video, row in rows.iterrows()} == {
        v: e[:2] for v, e in expected.items()
    }
    pixels = frames.Pixels(table.attrs["folder"])
    assert set(masked(table)["method"]) == MASKED.get(name, set())
    for row in masked(table).itertuples():
        crop = pixels.crop(row.path, row.row)
        assert 0.02 < pixels.mask(row.mask, row.row, crop.shape[:2]).mean() < 0.9


def test_crops_that_lie_there_are_used_in_place_and_follow_a_move(tmp_path, root):
    trees.wilddeepfake(root)
    record, table = prepared(*scan("wilddeepfake", root))
    folder = core.home() / "datasets" / "set"
    assert not list(folder.rglob("*.npy")) and len(table) == 24
    assert table["frame"].tolist()[:3] == [9, 10, 11]  # not in the order of names: 10 before 9
    pixels, row = frames.Pixels(folder), table.iloc[4]
    assert row["video"] == "fake_test/0/104" and row["frame"] == 10
    assert (pixels.crop(row["path"], 0) == trees.faces(3)[0][1]).all()
    root.rename(tmp_path / "moved")
    again, _ = prepared(*scan("wilddeepfake", tmp_path / "moved"))
    assert again["fingerprint"] == record["fingerprint"]
    pixels.crop(row["path"], 0)
    (tmp_path / "moved/fake_test/0/fake/103/10.png").write_bytes(b"")
    record, table = prepared(*scan("wilddeepfake", tmp_path / "moved"))
    assert len(table) == 23 and record["faces"]["test/WildDeepfake"]["without_face"] == 1
    assert record["fingerprint"] != again["fingerprint"]


def test_several_roots_are_one_dataset(tmp_path, root):
    trees.deeperforensics(root)
    (tmp_path / "second").mkdir()
    (root / "original_sequences").rename(tmp_path / "second" / "original_sequences")
    alone, _ = scan("deeperforensics", root)
    assert {s.label for s in alone} == {1} and all(s.mask is None for s in alone)
    both, problems = scan("deeperforensics", root, tmp_path / "second")
    assert len(both) == 6 and problems == []
    assert {s.mask.name for s in both if s.label} == {"000.mp4", "001.mp4", "002.mp4"}


# ---------------------------------------------------------------- trees that are broken


def test_what_is_missing_is_named_and_the_rest_is_done(root):
    trees.faceforensics(root)
    fakes = root / "manipulated_sequences"
    (fakes / "FaceSwap/c23/videos/054_071.mp4").unlink()
    for path in [
        *(fakes / "NeuralTextures/c23/videos").iterdir(),
        *(fakes / "Face2Face/masks/videos").iterdir(),
    ]:
        path.unlink()
    trees.real(root / "original_sequences/youtube/c23/videos/1234.mp4", 0)
    found, problems = scan("faceforensics-c23", root)
    text = "\n".join(problems)
    listed = "splits/faceforensics_pairs.csv"
    where = "manipulated_sequences/FaceSwap/c23/videos/{identity:[0-9]+}_{source:[0-9]+}.mp4"
    assert (
        f"{where}: named in {listed}, but missing: 995 (000_003" in text
        and "NeuralTextures" in text
    )
    assert (
        "Face2Face: files of masks or originals missing, prepared without masks: 6 (manipulated_sequences/Face2Face/masks/videos/"
        in text
    )
    assert (
        f"not in the list {listed}; left out: 1 (original_sequences/youtube/c23/videos/1234.mp4)"
        in text
    )
    assert len(found) == 30 - 1 - 6
    record, table = prepared(found, problems)
    assert record["missing"] == problems and record["quarantine"] == []
    assert set(masked(table)["method"]) == {"Deepfakes", "FaceSwap"}


def test_a_list_that_names_no_file_or_is_damaged_or_missing_is_told(root):
    trees.dfdc_p(root)
    about = core.read_json(root / "dataset.json")
    gone, kept = (
        "method_A/1/1_A/2_1_A_001.mp4",
        "method_B/1260311/1260311_C/1255229_1260311_C_001.mp4",
    )
    core.write_json(root / "dataset.json", about | {gone: about[kept]})
    found, problems = scan("dfdc-p", root)
    assert len(found) == 4 and any(f"missing: 1 ({gone})" in sentence for sentence in problems)
    core.write_json(root / "dataset.json", about | {kept: {"label": "forged"}})
    with pytest.raises(DfnbError, match="neither real nor fake"):
        scan("dfdc-p", root)
    (root / "dataset.json").write_text("{")
    with pytest.raises(DfnbError, match=r"dataset\.json is not valid JSON"):
        scan("dfdc-p", root)
    (root / "dataset.json").unlink()
    found, problems = scan("dfdc-p", root)
    assert found == [] and "not in the list dataset.json; left out" in problems[0]


def test_masks_of_another_length_or_size_and_truncated_videos_are_quarantined(root):
    trees.uadfv(root)
    for name in ("short", "small"):
        trees.fake(root / f"fake/{name}.mp4", 71)
    cut = trees.real(root / "real/cut.mp4", 1)
    cut.write_bytes(cut.read_bytes()[:-2000])
    trees.video(
        root / "mask/short.mp4", np.zeros((trees.FRAMES - 2, trees.SIZE, trees.SIZE, 3), np.uint8)
    )
    trees.video(root / "mask/small.mp4", np.zeros((trees.FRAMES, 64, 64, 3), np.uint8))
    record, _ = prepared(*prepare.folder_sources(root))
    reasons = {entry["video"]: entry["reason"] for entry in record["quarantine"]}
    assert reasons.keys() == {"fake/short", "fake/small", "real/cut"}
    assert reasons["fake/short"] == "the mask and the video have different numbers of frames"
    assert reasons["fake/small"] == "the mask has the shape (64, 64), the video (160, 160)"
    assert "truncated or damaged" in reasons["real/cut"]


def test_folders_behind_links_are_left_out_and_names_may_have_spaces_and_letters(tmp_path, root):
    inner = root / "Meine Übung 中"
    expected = trees.uadfv(inner)
    trees.real(inner / "real/ä b.mp4", 1)
    for path in [*inner.rglob("*"), inner]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    found, problems = scan("uadfv", inner)
    assert {s.video for s in found} == {*expected, "real/ä b"}
    record, table = prepared(found, problems)
    assert set(table["video"]) == {s.video for s in found} and record["quarantine"] == []
    for path in [inner, *inner.rglob("*")]:
        path.chmod(0o755)
    (inner / "real").rename(tmp_path / "outside")
    (inner / "real").symlink_to(tmp_path / "outside", target_is_directory=True)
    found, problems = scan("uadfv", inner)
    assert (
        [s.label for s in found] == [1]
        and found[0].mask is None
        and "originals missing" in problems[1]
    )


def test_a_full_disk_is_told_and_leaves_nothing_half_written(root, home, monkeypatch):
    trees.uadfv(root)
    found, problems = scan("uadfv", root)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frames, "write_video", full)
    with pytest.raises(OSError, match="No space left on device"):
        prepared(found, problems)
    monkeypatch.undo()
    monkeypatch.setenv("DFNB_HOME", str(home))
    folder = home / "datasets" / "set"
    assert not list(folder.rglob("*.npy")) and not (folder / "record.json").exists()
    assert len(prepared(found, problems)[1]) == 4


# ---------------------------------------------------------------- masks by differencing


def test_the_difference_of_fake_and_original_is_the_mask(root):
    trees.uadfv(root)
    trees.video(
        root / "real/0048.mp4", np.concatenate([trees.faces(5)[0]] * 2)
    )  # twice as long as its fake
    trees.fake(root / "fake/0048_fake.mp4", 5)
    _, table = prepared(*scan("uadfv", root), prepare.Settings(size=trees.SIZE, frames_per_video=2))
    assert set(table["video"]) == {
        "real/0047",
        "real/0048",
        "FakeApp/0047_fake",
        "FakeApp/0048_fake",
    }
    assert set(masked(table)["video"]) == {"FakeApp/0047_fake"}
    folder = core.home() / "datasets/set"
    row = masked(table).iloc[0]
    box = [int(x) for x in row["crop_box"]]
    truth = (
        prepare.crop(trees.faces(4, forged=True)[1][row["frame"]].astype(np.uint8), box, trees.SIZE)
        > 0
    )
    region = frames.Pixels(folder).mask(row["mask"], row["row"], truth.shape)
    assert (region & truth).sum() / (region | truth).sum() > 0.8


def test_originals_beside_a_plain_folder_give_its_masks(root):
    for number, name in enumerate(("a", "b")):
        trees.fake(root / f"fake/swap/{name}.mp4", number)
    trees.real(root / "original/swap/a.mp4", 0)
    trees.video(
        root / "original/swap/b.mp4", trees.faces(1)[0][:-1]
    )  # of another length: it cannot be compared
    record, table = prepared(
        *prepare.folder_sources(root), prepare.Settings(size=trees.SIZE, frames_per_video=2)
    )
    assert record["missing"] == record["quarantine"] == [] and set(masked(table)["video"]) == {
        "fake/swap/a"
    }
    row, pixels = masked(table).iloc[0], frames.Pixels(table.attrs["folder"])
    box = [int(x) for x in row["crop_box"]]
    truth = (
        prepare.crop(trees.faces(0, forged=True)[1][row["frame"]].astype(np.uint8), box, trees.SIZE)
        > 0
    )
    region = pixels.mask(row["mask"], row["row"], truth.shape)
    assert (region & truth).sum() / (region | truth).sum() > 0.8


# ---------------------------------------------------------------- what others have prepared


def test_a_tree_of_deepfakebench_is_read_in_place(root):
    file, rgb, expected = trees.deepfakebench(root)
    found, problems = deepfakebench.listed(file, rgb)
    assert {
        s.video: (bool(s.label), s.split, s.cluster) for s in found
    } == expected and problems == []
    _, table = prepared(found)
    assert table["frame"].tolist()[:3] == [0, 3, 10] and len(table) == 3 * len(expected)
    fakes = table[table["label"] == 1]
    assert len(masked(fakes)) == len(masked(table)) == len(fakes)
    assert (
        frames.landmarks_array(table).shape == (len(table), 5, 2)
        and np.isnan(frames.landmarks_array(table)).all()
    )
    row, pixels = (
        fakes[fakes["frame"] == 10].iloc[0],
        frames.Pixels(core.home() / "datasets" / "set"),
    )
    images, masks = trees.faces(int(row["identity"]), forged=True)
    assert (pixels.crop(row["path"], row["row"]) == images[10 % trees.FRAMES]).all()
    assert (pixels.mask(row["mask"], row["row"], masks.shape[1:]) == masks[10 % trees.FRAMES]).all()


def test_a_video_that_deepfakebench_lists_twice_is_a_test_video_once(tmp_path, root):
    file, rgb, _ = trees.deepfakebench(root)
    content = core.read_json(file)
    node = content["FF-DF"]["FF-real"]
    node["train"]["c23"] |= node["test"]["c23"]
    node["val"] = node["test"]
    images = node["test"]["c23"]["953"]["frames"]
    images[:] = [*images[:2], "../../outside.png"]
    (tmp_path / "outside.png").write_bytes((rgb / images[0].replace("\\", "/")).read_bytes())
    core.write_json(file, content)
    found, problems = deepfakebench.listed(file, rgb)
    assert [s.split for s in found if s.video == "FF-real/953"] == ["test"]
    assert problems == ["FF-real/953: 2 of 3 frames are below rgb"]
    with pytest.raises(DfnbError, match="name the folder that its paths begin in"):
        deepfakebench.listed(file, tmp_path)


def sorted_images(root):
    """real/, fake/<method>/ and mask/<method>/ of single images, as the LAE tasks need them."""
    for number, split in enumerate(("train", "test")):
        trees.image(root / split / "real/a.jpg", trees.faces(number)[0][0])
        for method in ("GL", "ContextAtten"):
            images, masks = trees.faces(number, forged=True)
            trees.image(root / split / "fake" / method / "a.png", images[0])
            trees.image(root / split / "mask" / method / "a.png", masks[0] * np.uint8(255))
    return images[0], masks[0]


def test_images_are_videos_of_one_frame(root):
    _, mask = sorted_images(root)
    cut = trees.image(root / "test/fake/GL/cut.png", trees.faces(0)[0][0])
    cut.write_bytes(cut.read_bytes()[:900])
    (root / "test/real/b.jpg").write_text("no image")
    record, table = prepared(*prepare.folder_sources(root))
    assert {e["video"]: e["reason"] for e in record["quarantine"]} == {
        "test/fake/GL/cut": "not an image, or truncated or damaged (OSError)",
        "test/real/b": "not an image, or truncated or damaged (UnidentifiedImageError)",
    }
    kinds = ("real", "fake/GL", "fake/ContextAtten")
    assert set(table["video"]) == {
        f"{split}/{kind}/a" for split in ("train", "test") for kind in kinds
    }
    assert (
        set(masked(table)["method"])
        == {"GL", "ContextAtten"}
        == set(table[table["label"] == 1]["method"])
    )
    row = table[table["video"] == "test/fake/GL/a"].iloc[0]
    expected = (
        prepare.crop(mask.astype(np.uint8) * 255, [int(x) for x in row["crop_box"]], 64) > 127
    )
    assert (
        frames.Pixels(table.attrs["folder"]).mask(row["mask"], row["row"], (64, 64)) == expected
    ).all()


def test_folders_of_crops_are_used_in_place(root):
    pixels, mask = sorted_images(root)
    for n in (2, 10):
        trees.image(root / f"train/fake/GL/clip/{n}.png", trees.faces(0, forged=True)[0][1])
    for name in ("left", "right", "1_a_3", "2_a_3"):  # names that number nothing
        trees.image(root / f"test/real/clip/{name}.png", trees.faces(0)[0][1])
    found, _ = prepare.folder_sources(root, crops=True)
    gl = {"train/fake/GL/a": 1, "train/fake/GL/clip": 2, "test/fake/GL/a": 1}
    assert {s.video: len(s.crops) for s in found if s.method == "GL"} == gl
    _, table = prepared(found)
    assert not list((core.home() / "datasets").rglob("*.npy"))
    row, read = (
        table[table["video"] == "test/fake/GL/a"].iloc[0],
        frames.Pixels(table.attrs["folder"]),
    )
    assert (read.crop(row["path"], row["row"]) == pixels).all()
    assert (read.mask(row["mask"], row["row"], mask.shape) == mask).all()
    assert table[table["video"] == "test/real/clip"]["frame"].tolist() == [0, 1, 2, 3]
    assert [
        s.video for s in prepare.folder_sources(root / "train/fake/GL", "fake", crops=True)[0]
    ] == ["a", "clip"]


def test_the_overview_of_datasets_says_what_is_there(root):
    trees.uadfv(root / "UADFV")
    trees.dfdc(root / "DFDC")
    table = sources.overview()
    assert sorted(table.index) == sorted(core.described("real")) and set(table["state"]) == {
        "absent"
    }
    assert "docs.google.com/forms" in table.loc["faceforensics-c23", "what"]
    table = sources.overview([root])
    assert table.loc["uadfv", "state"] == "partly"
    assert "fewer than the 49 published files: 1" in table.loc["uadfv", "what"]
    assert table.loc["dfdc", "state"] == "present" and table.loc["dfd", "state"] == "absent"
    found, problems = scan("uadfv", root / "UADFV")
    prepare.prepare(
        "uadfv", found, SETTINGS, trees.Centre(), workers=1, progress=False, missing=problems
    )
    state, what = sources.overview().loc["uadfv"]
    assert state == "prepared" and what.startswith("2 videos\nreal/{name:[^/_]+}.mp4: fewer")


# ---------------------------------------------------------------- the command


@pytest.fixture
def dfnb(monkeypatch):
    """Calls the command with a detector that needs no file; what it printed, also as errors, is ``output``."""
    monkeypatch.setattr(prepare, "detector_path", lambda: None)
    monkeypatch.setattr(prepare, "YuNet", lambda path: trees.Centre())
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_prepare_takes_the_root_that_data_took_and_says_where_it_found_it(root, dfnb):
    trees.celeb_df(root / "Celeb-DF", 1)
    trees.celeb_df(root / "Celeb-DF-v2")
    for number in range(3000):  # more than v1 has: its rules fit them, but they are not v1
        (root / f"Celeb-DF-v2/Celeb-synthesis/id7_id8_{number:04d}.mp4").touch()
    trees.dfdc(root / "elsewhere")
    shown = dfnb("data", "--root", root).output
    assert f"in {root / 'elsewhere'}" in shown and shown.count(f"in {root / 'Celeb-DF'}\n") == 1
    done = dfnb(
        "prepare",
        "dfdc",
        "--root",
        root,
        "--workers",
        1,
        "--set",
        "size=64",
        "--set",
        "frames_per_video=1",
    )
    assert f"dfdc is read from {root / 'elsewhere'}\n" in done.output and done.exit_code == 0
    for version in (1, 2):
        places, found, _ = sources.located(sources.load(f"celeb-df-v{version}"), [root])
        assert places == [root / ("Celeb-DF" if version == 1 else "Celeb-DF-v2")] and len(
            found
        ) in (5, 3005)
    empty = dfnb("prepare", "dfd", "--root", root)
    assert empty.exit_code == 1 and "nothing of dfd is there" in empty.output


def test_a_second_root_is_found_below_its_folder_too(tmp_path, root, dfnb):
    trees.deeperforensics(root / "DeeperForensics")
    (tmp_path / "second/FaceForensics").mkdir(parents=True)
    (root / "DeeperForensics/original_sequences").rename(
        tmp_path / "second/FaceForensics/original_sequences"
    )
    places, found, problems = sources.located(
        sources.load("deeperforensics"), [root, tmp_path / "second"]
    )
    assert places == [root / "DeeperForensics", tmp_path / "second/FaceForensics"]
    assert len(found) == 6 and problems == []


def test_links_are_followed_by_data_and_prepare_where_asked(tmp_path, root, dfnb):
    trees.dfdc(tmp_path / "disk")
    for name in ("test", "dfdc_train_part_0"):
        (root / name).symlink_to(tmp_path / "disk" / name, target_is_directory=True)
    (tmp_path / "disk/test/loop").symlink_to(root, target_is_directory=True)
    assert sources.overview([root]).loc["dfdc", "state"] == "absent"
    assert (
        sources.overview([root], links=True).loc["dfdc", "what"].startswith(f"3 videos\nin {root}")
    )
    words = (
        "prepare",
        "dfdc",
        "--root",
        root,
        "--workers",
        1,
        "--set",
        "size=64",
        "--set",
        "frames_per_video=1",
    )
    assert dfnb(*words).exit_code == 1
    done = dfnb(*words, "--links")
    assert done.exit_code == 0 and "train/real: 1 frames of 1 videos" in done.output


def test_a_linked_tree_of_deepfakebench_is_read_with_links_only(tmp_path, root):
    file, rgb, expected = trees.deepfakebench(root)
    (rgb / "FaceForensics++").rename(tmp_path / "disk")
    (rgb / "FaceForensics++").symlink_to(tmp_path / "disk", target_is_directory=True)
    with pytest.raises(DfnbError, match="lists no frame below"):
        deepfakebench.listed(file, rgb)
    found, problems = deepfakebench.listed(file, rgb, links=True)
    assert {s.video for s in found} == {*expected} and problems == []
    content = core.read_json(file)
    content["FF-DF"]["FF-real"]["test"]["c23"]["953"]["frames"][0] = "../outside.png"
    core.write_json(file, content)
    trees.image(root / "outside.png", trees.faces(0)[0][0])
    _, problems = deepfakebench.listed(file, rgb, links=True)
    assert problems == ["FF-real/953: 2 of 3 frames are below rgb"]


def test_folders_that_are_left_out_are_printed_and_the_status_is_2(root, dfnb):
    sorted_images(root)
    words = ("prepare", root, "mine", "--workers", 1, "--set", "size=64")
    assert dfnb(*words).exit_code == 0
    trees.image(root / "test/Real/b.png", trees.faces(3)[0][0])
    done = dfnb(*words)
    assert (
        done.exit_code == 2
        and "missing: test/Real/: no video or image of real/ or fake/" in done.output
    )
    assert (
        "test/real: 1 frames of 1 videos" in done.output
        and "in all 1 missing, 0 unused" in done.output
    )
    record = core.read_record(core.home() / "datasets/mine")
    assert len(record["missing"]) == 1 and str(root) not in record["missing"][0]


def test_the_dataset_that_contributing_describes_is_prepared(checkout, home, root, dfnb):
    text = (checkout / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```yaml\n# data_manifest/my-set.yaml\n(.*?)```", text, re.DOTALL)
    (home / "data_manifest").mkdir()
    (home / "data_manifest/my-set.yaml").write_text(example)
    for number, clip in enumerate(("anna_1", "anna_2", "bo_1")):
        trees.real(root / f"videos/camera/{clip}.mp4", number)
        trees.fake(root / f"videos/generated/swap/{clip}.mp4", number)
    rows = ["clip,person,split", "anna_1,anna,train", "anna_2,anna,train", "bo_1,bo,test"]
    (root / "videos/people.csv").write_text("\n".join(rows) + "\n")
    done = dfnb("prepare", "my-set", "--root", root, "--workers", 1)
    assert done.exit_code == 0, done.output
    table = frames.load_frames("my-set").astype({"split": str, "identity": str, "cluster": str})
    videos = table.drop_duplicates("video").set_index("video")
    assert len(videos) == 6 and videos.loc[
        "swap/bo_1", ["split", "identity", "cluster"]
    ].tolist() == [
        "test",
        "bo",
        "bo",
    ]
    assert set(masked(table)["video"]) == {f"swap/{clip}" for clip in ("anna_1", "anna_2", "bo_1")}
    assert "my-set" in dfnb("data").output
