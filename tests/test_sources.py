"""Published datasets: what the manifest says of them, their layouts in miniature, and trees that are broken."""

import io
import os
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trees
from PIL import Image
from typer.testing import CliRunner

from dfnb import cli, core
from dfnb.core import DfnbError
from dfnb.data import frames, prepare, sources

SETTINGS = prepare.Settings(size=64, frames_per_video=2)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "given").mkdir()
    return tmp_path / "given"


@pytest.fixture(scope="session")
def detector():
    given = os.environ.get("DFNB_DETECTOR")
    return prepare.YuNet(given) if given else trees.Centre()


def prepared(tmp_path, detector, sources, said=(), settings=SETTINGS):
    folder = tmp_path / "datasets" / "set"
    record = prepare.prepare(folder, sources, settings, detector, workers=1, progress=False, missing=said)
    return record, frames.load_frames(folder)


def scan(name, *roots):
    return sources.scan(sources.load(name), roots)


# ---------------------------------------------------------------- what the manifest says


def test_every_manifest_keeps_the_schema_and_every_tree_has_one():
    assert sorted(core.described("real")) == sorted(trees.TREES)
    for name in core.described("real"):
        m = sources.load(name)
        prepare.Settings(**m.prepare)
        assert all(each in m.lists for rule in m.rules for each in rule.lists)
        text = " ".join([m.title, m.paper, m.licence, m.access, m.space, m.labels, m.splits, m.masks])
        assert "TODO" not in text and all([m.title, m.paper, m.licence, m.access, m.space, m.labels, m.splits, m.masks])
        assert not m.seen or set(m.seen).isdisjoint(m.unseen)


def test_every_published_figure_has_a_source_a_confidence_and_its_dataset(checkout):
    table = pd.read_csv(checkout / "data_manifest" / "published.csv", dtype=str)
    assert table[["source", "confidence", "value"]].notna().all(axis=None)
    named = {each for name in core.described("real") for each in sources.load(name).published}
    known = set(table["test_set"])
    assert named <= known, named - known
    elsewhere = {"MMTD-Set", "DFFD (FaceApp, FFHQ)", "Seq-DeepFake"}
    unknown = {
        each for each in known - named - elsewhere if not each.startswith(("average", "task ", "within", "cross"))
    }
    assert all(each.startswith("Celeb-DF (") for each in unknown), unknown  # the version is not stated


def test_the_shipped_splits_are_the_published_ones(tmp_path, monkeypatch):
    pairs = pd.read_csv(core.find("data_manifest") / "splits/faceforensics_pairs.csv", dtype=str)
    assert pairs["split"].value_counts().to_dict() == {"train": 360, "val": 70, "test": 70}
    assert len(sources.pairs()) == 2000 and set(sources.pairs()) >= {"071", "054", "071_054", "054_071"}
    for version, counts in ((1, {"0": 38, "1": 62}), (2, {"0": 178, "1": 340})):
        rows = sources._rows(sources.load(f"celeb-df-v{version}").lists["test"], {}, [])
        assert pd.Series([row["label"] for row in rows.values()]).value_counts().to_dict() == counts
        assert all((row["label"] == "1") == key.startswith("Celeb-synthesis") for key, row in rows.items())
    splits = tmp_path / "data_manifest" / "splits"
    splits.mkdir(parents=True)
    (splits / "faceforensics_pairs.csv").write_text("a,b,split\n000,003,train\n")
    text = (core.find("data_manifest") / "faceforensics-c23.yaml").read_text()
    (splits.parent / "faceforensics-c23.yaml").write_text(text)
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    with pytest.raises(DfnbError, match=r"faceforensics_pairs\.csv has sha256"):
        sources.pairs()


def test_a_mistake_in_a_manifest_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    text = (core.find("data_manifest") / "uadfv.yaml").read_text()
    (tmp_path / "data_manifest").mkdir()
    (tmp_path / "data_manifest" / "uadfv.yaml").write_text(text.replace("licence:", "license:"))
    with pytest.raises(DfnbError, match=r"uadfv\.yaml: licen.e: .*correct it"):
        sources.load("uadfv")
    with pytest.raises(DfnbError, match="known are uadfv"):
        sources.load("nothing")


# ---------------------------------------------------------------- the official layouts


@pytest.mark.parametrize("name", trees.TREES)
def test_each_layout_is_read_and_prepared(tmp_path, root, detector, name):
    expected = trees.TREES[name](root)
    sources, said = scan(name, root)
    found = {s.video: (s.label, s.method, s.split, s.cluster) for s in sources}
    assert found == expected
    complete = [sentence for sentence in said if "missing" not in sentence and " files are there" not in sentence]
    assert complete == []  # a miniature lacks files, and is told so; nothing else is wrong
    record, table = prepared(tmp_path, detector, sources, said)
    assert record["quarantine"] == [] and set(table["video"]) == set(expected)
    rows = table.drop_duplicates("video").set_index("video")
    assert {video: (*row[:2],) for video, row in expected.items()} == {
        video: (rows.loc[video, "label"], rows.loc[video, "method"]) for video in expected
    }
    pixels = frames.Pixels(table.attrs["folder"])
    masked = set(table["method"][table["mask"].astype(str) != ""])
    assert masked == {
        "faceforensics-c23": {"Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"},
        "faceforensics-raw": {"Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"},
        "faceforensics-c40": {"Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"},
        "lae-face": {"Face2Face", "FaceSwap"},
        "dfd": {"DeepFakeDetection"},
        "lae-inpainting": {"seen", "unseen"},
        "lae-attribute": {"seen", "unseen"},
        "celeb-df-v1": {"Celeb-synthesis"},
        "celeb-df-v2": {"Celeb-synthesis"},
        "deeperforensics": {"DF-VAE"},
        "uadfv": {"FakeApp"},
    }.get(name, set())
    for _, row in table[table["mask"].astype(str) != ""].iterrows():
        crop = pixels.crop(row["path"], row["row"])
        assert 0.02 < pixels.mask(row["mask"], row["row"], crop.shape[:2]).mean() < 0.9


def test_crops_that_lie_there_are_used_in_place_and_follow_a_move(tmp_path, root, detector):
    trees.wilddeepfake(root)
    sources, said = scan("wilddeepfake", root)
    record, table = prepared(tmp_path, detector, sources, said)
    folder = tmp_path / "datasets" / "set"
    assert not list(folder.rglob("*.npy")) and len(table) == 24
    assert table["frame"].tolist()[:3] == [9, 10, 11]  # not in the order of names: 10 before 9
    pixels = frames.Pixels(folder)
    row = table.iloc[4]
    assert row["video"] == "fake_test/0/104" and row["frame"] == 10
    assert (pixels.crop(row["path"], 0) == trees.faces(3)[0][1]).all()
    root.rename(tmp_path / "moved")
    sources, said = scan("wilddeepfake", tmp_path / "moved")
    again, _ = prepared(tmp_path, detector, sources, said)
    assert again["fingerprint"] == record["fingerprint"]
    pixels.crop(row["path"], 0)
    (tmp_path / "moved/fake_test/0/fake/103/10.png").write_bytes(b"")
    sources, said = scan("wilddeepfake", tmp_path / "moved")
    record, table = prepared(tmp_path, detector, sources, said)
    assert len(table) == 23 and record["faces"]["test/WildDeepfake"]["without_face"] == 1
    assert record["fingerprint"] != again["fingerprint"]


def test_several_roots_are_one_dataset(tmp_path, root):
    trees.deeperforensics(root)
    (tmp_path / "second").mkdir()
    (root / "original_sequences").rename(tmp_path / "second" / "original_sequences")
    alone, said = scan("deeperforensics", root)
    assert {s.label for s in alone} == {1} and all(s.original is None for s in alone)
    both, said = scan("deeperforensics", root, tmp_path / "second")
    assert len(both) == 6 and said == []
    assert {s.original.name for s in both if s.label} == {"000.mp4", "001.mp4", "002.mp4"}


# ---------------------------------------------------------------- trees that are broken


def test_what_is_missing_is_named_and_the_rest_is_done(tmp_path, root, detector):
    trees.faceforensics(root)
    fakes = root / "manipulated_sequences"
    (fakes / "FaceSwap/c23/videos/054_071.mp4").unlink()
    for path in (fakes / "NeuralTextures/c23/videos").iterdir():
        path.unlink()
    for path in (fakes / "Face2Face/masks/videos").iterdir():
        path.unlink()
    trees.real(root / "original_sequences/youtube/c23/videos/1234.mp4", 0)
    trees.real(fakes / "Deepfakes/c23/videos/my file.mp4", 0)
    sources, said = scan("faceforensics-c23", root)
    text = "\n".join(said)
    assert "FaceSwap/c23/videos/{identity}_{source}.mp4: 995 (" in text and "NeuralTextures" in text
    assert "mask files missing: 6 (manipulated_sequences/Face2Face/masks/videos/" in text
    assert (
        "1 (original_sequences/youtube/c23/videos/1234.mp4) are not in the list splits/faceforensics_pairs.csv" in text
    )
    assert "1 (my file.mp4) lie among the videos under names that the layout does not have; left out" in text
    assert len(sources) == 30 - 1 - 6
    record, _ = prepared(tmp_path, detector, sources, said)
    assert record["missing"] == said and record["quarantine"] == []
    assert record["masks"]["Face2Face: none"] == 6 and record["masks"]["Deepfakes: given"] == 6


def test_a_list_that_names_no_file_is_said_as_are_flipped_and_other_labels(root):
    trees.dfdc_p(root)
    about = core.read_json(root / "dataset.json")
    gone, flipped = "method_A/1/1_A/2_1_A_001.mp4", "method_B/1260311/1260311_C/1255229_1260311_C_001.mp4"
    core.write_json(root / "dataset.json", about | {gone: about[flipped]})
    sources, said = scan("dfdc-p", root)
    assert len(sources) == 4 and any(f"1 ({gone})" in sentence and "missing" in sentence for sentence in said)
    (root / "dataset.json").write_text("{")
    with pytest.raises(DfnbError, match=r"dataset\.json is not valid JSON"):
        scan("dfdc-p", root)
    (root / "dataset.json").unlink()
    sources, said = scan("dfdc-p", root)
    assert sources == [] and "the list dataset.json is missing" in said[0]


def test_a_fake_among_the_real_ones_is_left_out(root):
    expected = trees.celeb_df(root)
    (root / "Celeb-real/id0_0001.mp4").rename(root / "Celeb-real/id0_0009.mp4")
    own = root / "List_of_testing_videos.txt"
    own.write_text(own.read_text().replace("1 Celeb-real/id0_0001.mp4", "0 Celeb-real/id0_0001.mp4"))
    sources, said = scan("celeb-df-v2", root)
    assert len(sources) == len(expected)  # the published list counts, and nothing of it is contradicted
    assert any("List_of_testing_videos.txt differs from the published" in sentence for sentence in said)
    assert any("1 (Celeb-real/id0_0001.mp4)" in sentence for sentence in said)


def test_a_label_that_the_list_contradicts_is_left_out(tmp_path, root, monkeypatch):
    trees.dfdc(root)
    content = (core.find("data_manifest") / "dfdc.yaml").read_text().replace('label: "{label}"', 'label: "1"')
    (tmp_path / "data_manifest").mkdir()
    (tmp_path / "data_manifest" / "x.yaml").write_text(content)
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    sources, said = scan("x", root)
    assert [s.video for s in sources] == ["test/aayrffkzxn"]
    assert any("1 (test/aalscayrfi.mp4) lie where the list's label contradicts" in sentence for sentence in said)


def test_masks_of_another_length_and_truncated_videos_are_quarantined(tmp_path, root, detector):
    trees.faceforensics(root)
    below = root / "manipulated_sequences"
    trees.fake(tmp_path / "x.mp4", 71, mask=tmp_path / "mask.mp4")
    short = np.zeros((trees.FRAMES - 2, trees.SIZE, trees.SIZE, 3), np.uint8)
    trees.video(below / "Deepfakes/masks/videos/071_054.mp4", short)
    cut = below / "Face2Face/c23/videos/071_054.mp4"
    cut.write_bytes(cut.read_bytes()[:-2000])
    sources, said = scan("faceforensics-c23", root)
    record, table = prepared(tmp_path, detector, sources, said)
    reasons = {entry["video"]: entry["reason"] for entry in record["quarantine"]}
    assert reasons.keys() == {"Deepfakes/071_054", "Face2Face/071_054"}
    assert reasons["Deepfakes/071_054"] == "the mask has 4 frames, the video 6"
    assert len(set(table["video"])) == 28


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_that_lead_out_are_not_followed(tmp_path, root, what):
    trees.uadfv(root)
    outside = tmp_path / "outside"
    (root / "real").rename(outside)
    if what == "file":
        (root / "real").mkdir()
        (root / "real/0047.mp4").symlink_to(outside / "0047.mp4")
    else:
        (root / "real").symlink_to(outside, target_is_directory=True)
    sources, said = scan("uadfv", root)
    assert [s.label for s in sources] == [1] and sources[0].original is None
    assert any("is a link, which is not followed" in sentence for sentence in said)


def test_names_with_spaces_and_letters_and_a_read_only_tree(tmp_path, root, detector):
    inner = root / "Meine Übung 中"
    expected = trees.uadfv(inner)
    trees.real(inner / "real/ä b.mp4", 1)
    for path in [*inner.rglob("*"), inner]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    sources, said = scan("uadfv", inner)
    assert {s.video for s in sources} == {*expected, "real/ä b"}
    record, table = prepared(tmp_path, detector, sources, said)
    assert set(table["video"]) == {s.video for s in sources} and record["quarantine"] == []
    for path in [inner, *inner.rglob("*")]:
        path.chmod(0o755)


def test_a_full_disk_is_told_before_and_leaves_nothing_half_written(tmp_path, root, detector, monkeypatch):
    trees.uadfv(root)
    sources, said = scan("uadfv", root)
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DfnbError, match=r"needs about .* GB for 4 frames of 2 videos, and .* are free"):
        prepared(tmp_path, detector, sources, said)
    usage.free = 10**9

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frames.np, "save", full)
    monkeypatch.setattr(core.os, "fsync", full)
    with pytest.raises(DfnbError, match=r"cannot be written \(No space left on device\)"):
        prepared(tmp_path, detector, sources, said)
    monkeypatch.undo()
    folder = tmp_path / "datasets" / "set"
    assert not list(folder.rglob("*.npy")) and not (folder / "record.json").exists()
    assert len(prepared(tmp_path, detector, sources, said)[1]) == 4


# ---------------------------------------------------------------- masks by differencing


def test_the_difference_of_fake_and_original_is_the_mask(tmp_path, root, detector):
    trees.uadfv(root)
    longer = np.concatenate([trees.faces(5)[0]] * 2)
    trees.video(root / "real/0048.mp4", longer)
    trees.fake(root / "fake/0048_fake.mp4", 5)
    sources, said = scan("uadfv", root)
    settings = prepare.Settings(size=trees.SIZE, frames_per_video=2)
    record, table = prepared(tmp_path, trees.Centre(), sources, said, settings)
    assert record["masks"] == {"FakeApp: difference of fake and original": 1, "FakeApp: none": 1, "real: none": 2}
    assert (
        "difference of fake and original" in (tmp_path / "datasets/set/videos/FakeApp/0047_fake/video.json").read_text()
    )
    row = table[table["mask"].astype(str) != ""].iloc[0]
    box = [int(x) for x in row["crop_box"]]
    truth = prepare.crop(trees.faces(4, "swap")[1][row["frame"]].astype(np.uint8), box, trees.SIZE) > 0
    found = frames.Pixels(tmp_path / "datasets/set").mask(row["mask"], row["row"], truth.shape)
    assert (found & truth).sum() / found.sum() > 0.9  # what differs was forged; not all that was forged differs much
    assert (found & truth).sum() / truth.sum() > 0.2


# ---------------------------------------------------------------- the released geometry of Locate and Verify


def test_crops_as_released_by_locate_and_verify_follow_the_mask(tmp_path, root):
    trees.faceforensics(root)
    masks = np.zeros((trees.FRAMES, trees.SIZE, trees.SIZE, 3), np.uint8)
    masks[:, 40:120, 50:110] = 255  # 80 high, centred on (79.5, 79.5)
    masks[:, 5:25, 5:25] = 255  # a smaller one, of another person
    for path in root.glob("manipulated_sequences/*/masks/videos/*.mp4"):
        trees.video(path, masks[:4] if "Deepfakes" in str(path) and path.stem == "071_054" else masks, crf=1)
    (root / "manipulated_sequences/Deepfakes/masks/videos/953_974.mp4").unlink()
    settings = prepare.Settings(size=64, geometry="locate_and_verify_released")
    record, table = prepared(tmp_path, trees.Centre(), *scan("faceforensics-c23", root), settings)
    assert record["parameters"]["geometry"] == "locate_and_verify_released"
    assert {entry["video"]: entry["reason"].split(";")[0] for entry in record["quarantine"]} == {
        "Deepfakes/071_054": "the mask has 4 frames, the video 6",
        "Deepfakes/953_974": (why := record["quarantine"][1]["reason"].split(";")[0]),
        "real/953": why,
    }
    assert "by a mask video" in why and (table["video"] == "real/071").sum() == 4  # no mask beyond its fourth frame
    sides = {"Deepfakes": 2.46, "Face2Face": 1.6, "FaceSwap": 1.48, "NeuralTextures": 1.55, "real": 2.46}
    added = {
        "Deepfakes": (6, 0, 0, -10),
        "FaceSwap": (0, 5, 0, 10),
        "NeuralTextures": (5, -3, 0, 0),
        "real": (0, -5, 5, 0),
    }
    for method, rows in table.groupby("method", observed=True):
        half = 80 * sides[method] / 2
        box = np.array([79.5 - half, 79.5 - half, 79.5 + half, 79.5 + half]) + added.get(method, 0)
        assert np.abs(np.array(rows["crop_box"].tolist()) - box).max() <= 1.5, method
        assert (rows["mask"].astype(str) == "").all() == (method == "real")
        width, height = box[2:] - box[:2]
        nose = frames.landmarks_array(rows)[:, 2]  # of Centre: (0.5, 0.55) of the frame, here in crop pixels
        assert np.abs(nose - (np.array([80, 88]) - box[:2]) * 64 / [width, height]).max() < 1
    with pytest.raises(DfnbError, match="made with another geometry; give the new dataset another name"):
        prepared(tmp_path, trees.Centre(), *scan("faceforensics-c23", root), prepare.Settings(size=64))
    assert all(prepare.released_box(np.zeros((40, 40), np.uint8), method) is None for method in sides)


# ---------------------------------------------------------------- archives


def packed(path, write):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        write(archive)
    return path


def member(name, size=10, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info, io.BytesIO(b"x" * size)


def test_archives_are_told_and_unpacked_where_they_lie(root):
    trees.wilddeepfake(root)
    folder = root / "real_train" / "0"
    packed(root / "real_train/0.tar.gz", lambda archive: archive.add(folder, "."))
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    sources, said = scan("wilddeepfake", root)
    assert len(sources) == 6 and "not unpacked: 1 (0.tar.gz)" in said[-1]
    assert sources.unpack([root]) == [folder] and sources.unpack([root]) == []
    assert len(scan("wilddeepfake", root)[0]) == 8


@pytest.mark.parametrize(
    "bad",
    [
        member("../out.txt"),
        member("link", 0, tarfile.SYMTYPE, "../../x"),
        member("hard", 0, tarfile.LNKTYPE, "../../x"),
        member("device", 0, tarfile.CHRTYPE),
    ],
    ids=lambda entry: entry[0].name,
)
def test_a_tar_that_leads_out_is_refused_whole(tmp_path, root, bad):
    def write(archive):
        archive.addfile(*member("first.txt"))
        archive.addfile(bad[0], io.BytesIO(b"x" * bad[0].size))

    packed(root / "a.tar.gz", write)
    with pytest.raises(DfnbError, match=r"a\.tar\.gz cannot be unpacked safely"):
        sources.unpack([root])
    assert sorted(p.name for p in root.iterdir()) == ["a.tar.gz"] and not (tmp_path / "out.txt").exists()


def test_zips_neither_lead_out_nor_link_nor_explode(tmp_path, root, monkeypatch):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for name, entries in {"out": ["../out.txt", "/absolute.txt", link, "in/a.txt"], "bomb": ["zeros"]}.items():
        with zipfile.ZipFile(root / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for entry in entries:
                archive.writestr(entry, b"0" * 10**6 if name == "bomb" else b"../../x")
    usage = type("Usage", (), {"free": 10**5})
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DfnbError, match=r"bomb\.zip cannot be unpacked safely \(its 0.001 GB do not fit"):
        sources.unpack([root])
    assert sorted(p.name for p in root.iterdir()) == ["bomb.zip", "out.zip"]
    (root / "bomb.zip").unlink()
    sources.unpack([root])
    assert not (tmp_path / "out.txt").exists() and not (root / "out.txt").exists()
    assert sorted(p.name for p in (root / "out").rglob("*")) == ["a.txt", "in", "link"]
    assert not (root / "out" / "link").is_symlink()
    (root / "broken.zip").write_bytes(b"PK\x03\x04 and nothing")
    with pytest.raises(DfnbError, match=r"broken\.zip cannot be unpacked"):
        sources.unpack([root])


# ---------------------------------------------------------------- what others have prepared


def test_a_tree_of_deepfakebench_is_read_in_place(tmp_path, root, detector):
    file, rgb, expected = trees.deepfakebench(root)
    sources, said = prepare.deepfakebench_sources(file, rgb)
    assert {s.video: (bool(s.label), s.split, s.cluster) for s in sources} == expected and said == []
    _, table = prepared(tmp_path, detector, sources, said)
    assert table["frame"].tolist()[:3] == [0, 3, 10] and len(table) == 3 * len(expected)
    fakes = table[table["label"] == 1]
    assert (fakes["mask"].astype(str) != "").all() and (table["mask"].astype(str) == "")[table["label"] == 0].all()
    row, pixels = fakes[fakes["frame"] == 10].iloc[0], frames.Pixels(tmp_path / "datasets" / "set")
    images, masks = trees.faces(int(row["identity"]), "swap")
    assert (pixels.crop(row["path"], row["row"]) == images[10 % trees.FRAMES]).all()
    assert (pixels.mask(row["mask"], row["row"], masks.shape[1:]) == masks[10 % trees.FRAMES]).all()
    batch = frames.FrameDataset(table, 64, [0.5] * 3, [0.5] * 3)[(0, 0, 0)]
    assert batch["image"].shape == (3, 64, 64) and batch["landmarks"].isnan().all()


def test_a_video_that_deepfakebench_lists_twice_is_a_test_video_once(tmp_path, root):
    file, rgb, _ = trees.deepfakebench(root)
    content = core.read_json(file)
    node = content["FF-DF"]["FF-real"]
    node["train"]["c23"] |= node["test"]["c23"]
    node["val"] = node["test"]
    gone = node["test"]["c23"]["953"]["frames"]
    gone[:] = [*gone[:2], "../../outside.png"]
    (tmp_path / "outside.png").write_bytes((rgb / gone[0].replace("\\", "/")).read_bytes())
    core.write_json(file, content)
    sources, said = prepare.deepfakebench_sources(file, rgb)
    assert [s.split for s in sources if s.video == "FF-real/953"] == ["test"]
    assert said == ["FF-real/953: 1 of 3 frames are not below rgb"]
    with pytest.raises(DfnbError, match="name the folder that its paths begin in"):
        prepare.deepfakebench_sources(file, tmp_path)


def sorted_images(root):
    """real/, fake/<method>/ and mask/<method>/ of single images, as the LAE tasks need them."""
    for number, split in enumerate(("train", "test")):
        trees.image(root / split / "real/a.jpg", trees.faces(number)[0][0])
        for method in ("GL", "ContextAtten"):
            images, masks = trees.faces(number, "mouth")
            trees.image(root / split / "fake" / method / "a.png", images[0])
            trees.image(root / split / "mask" / method / "a.png", masks[0] * np.uint8(255))
    return images[0], masks[0]


def test_images_are_videos_of_one_frame(tmp_path, root, detector):
    _, masks = sorted_images(root)
    cut = trees.image(root / "test/fake/GL/cut.png", trees.faces(0)[0][0])
    cut.write_bytes(cut.read_bytes()[:900])
    (root / "test/real/b.jpg").write_text("no image")
    sources = prepare.folder_sources(root)
    settings = prepare.Settings(size=64)
    record, table = prepared(tmp_path, trees.Centre(), sources, (), settings)
    assert {e["video"]: e["reason"] for e in record["quarantine"]} == {
        "test/fake/GL/cut": "not an image, or truncated or damaged (OSError)",
        "test/real/b": "not an image, or truncated or damaged (UnidentifiedImageError)",
    }
    assert set(table["video"]) == {
        f"{s}/{k}/a" for s in ("train", "test") for k in ("real", "fake/GL", "fake/ContextAtten")
    }
    assert record["masks"] == {"ContextAtten: given": 2, "GL: given": 2, "real: none": 2}
    row = table[table["video"] == "test/fake/GL/a"].iloc[0]
    box = [int(x) for x in row["crop_box"]]
    expected = prepare.crop(masks.astype(np.uint8) * 255, box, 64) > 127
    assert (frames.Pixels(tmp_path / "datasets/set").mask(row["mask"], row["row"], (64, 64)) == expected).all()


def test_folders_of_crops_are_used_in_place(tmp_path, root, detector):
    pixels, masks = sorted_images(root)
    for n in (2, 10):
        trees.image(root / f"train/fake/GL/clip/{n}.png", trees.faces(0, "mouth")[0][1])
    sources = prepare.folder_sources(root, crops=True)
    assert {s.video: len(s.crops) for s in sources if s.method == "GL"} == {
        "train/fake/GL/a": 1,
        "train/fake/GL/clip": 2,
        "test/fake/GL/a": 1,
    }
    _, table = prepared(tmp_path, detector, sources)
    assert not list((tmp_path / "datasets").rglob("*.npy"))
    row, read = table[table["video"] == "test/fake/GL/a"].iloc[0], frames.Pixels(tmp_path / "datasets/set")
    assert (read.crop(row["path"], row["row"]) == pixels).all()
    assert (read.mask(row["mask"], row["row"], masks.shape) == masks).all()
    assert [s.video for s in prepare.folder_sources(root / "train/fake/GL", "fake", crops=True)] == ["a", "clip"]


# ---------------------------------------------------------------- the command line


@pytest.fixture
def call(tmp_path, monkeypatch):
    def run(*words):
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
        return result.exit_code, result.output

    monkeypatch.setenv("DFNB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepare, "YuNet", lambda path: trees.Centre())
    monkeypatch.setattr(prepare, "detector_path", lambda: None)
    return run


def test_the_table_of_datasets_and_one_line_to_prepare_one(root, call):
    def listed(*words):  # a further line of a dataset is indented
        return dict(text.split(None, 1) for text in re.split(r"\n(?=\S)", call(*words)[1].strip()))

    trees.uadfv(root / "UADFV")
    trees.dfdc(root / "DFDC")
    rows = listed("data")
    assert sorted(rows) == sorted(core.described("real")) and all(row.startswith("absent") for row in rows.values())
    assert "docs.google.com/forms" in rows["faceforensics-c23"]
    rows = listed("data", "--root", root)
    assert rows["uadfv"].startswith("partly") and "1 of 49 files are there" in rows["uadfv"]
    assert rows["dfdc"].startswith("present") and rows["dfd"].startswith("absent")
    code, said = call("prepare", "uadfv", "--root", root / "UADFV", "--size", 64, "--workers", 1)
    assert code == 2 and "missing: real/{name}.mp4: 1 of 49 files are there" in said, said
    assert "test/FakeApp: 6 frames of 1 videos" in said and "without_face" in said
    rows = listed("data")
    assert "prepared" in rows["uadfv"] and "12 frames of 2 videos (32 frames a video, 64 px" in rows["uadfv"]
    code, said = call("prepare", "uadfv", "--root", root / "UADFV", "--size", 96)
    assert code == 1 and "made with another size; give the new dataset another name" in said


def test_a_wrong_line_is_answered_with_the_right_one(root, call):
    assert "say where uadfv lies: dfnb prepare uadfv --root FOLDER" in call("prepare", "uadfv")[1]
    assert "holds nothing of uadfv" in call("prepare", "uadfv", "--root", root)[1]
    sorted_images(root)
    assert f"dfnb prepare {root} NAME" in call("prepare", root)[1]
    code, said = call("prepare", root, "mine", "--crops", "--workers", 1)
    assert code == 0 and "test/GL: 1 frames of 1 videos" in said


def test_real_clips_in_the_layout_of_faceforensics(tmp_path, root):
    real, weights = os.environ.get("DFNB_REAL_DATA"), os.environ.get("DFNB_DETECTOR")
    if not real or not weights:
        pytest.skip("needs DFNB_REAL_DATA (a folder with videos/) and DFNB_DETECTOR (YuNet's .onnx)")
    rgb, detector, heights = prepare.Converter("rgb24"), prepare.YuNet(weights), []
    for number, path in zip(("071", "054"), sorted((Path(real) / "videos").glob("*.mpg"))):
        images = [rgb(frame) for frame in list(prepare.decode(path))[:12]]
        x, y, width, height = (int(value) for value in detector(images[0][..., ::-1].copy())[0, :4])
        masks, heights = [np.zeros_like(image) for image in images], [*heights, height]
        for mask in masks:
            mask[y : y + height, x : x + width] = 255
        trees.video(root / f"original_sequences/youtube/c23/videos/{number}.mp4", images)
        fake = f"{number}_{'054' if number == '071' else '071'}.mp4"
        for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"):
            below = root / "manipulated_sequences" / method
            trees.video(below / "c23/videos" / fake, [np.where(m > 0, 255 - i, i) for i, m in zip(images, masks)])
            trees.video(below / "masks/videos" / fake, masks)
    sources, said = scan("faceforensics-c23", root)
    settings = prepare.Settings(size=128, frames_per_video=4)
    record, table = prepared(tmp_path, detector, [s for s in sources if not s.label], said, settings)
    assert record["quarantine"] == [] and set(table["cluster"]) == {"071_054"} and set(table["split"]) == {"train"}
    assert (np.abs(frames.landmarks_array(table)[:, 2] - 64) < 32).all()
    fakes = [s for s in sources if s.label]
    record = prepare.prepare(tmp_path / "datasets/fakes", fakes, settings, trees.Centre(), 1, False)
    table = frames.load_frames(tmp_path / "datasets/fakes")
    assert len(table) == 8 * 4 and record["masks"] == {f"{method}: given": 2 for method in set(table["method"])}
    released = settings.model_copy(update={"geometry": "locate_and_verify_released"})
    record = prepare.prepare(tmp_path / "datasets/released", sources, released, trees.Centre(), 1, False)
    table = frames.load_frames(tmp_path / "datasets/released")
    assert record["quarantine"] == [] and len(table) == 10 * 4
    for method, scale, offset in (("Face2Face", 1.6, 0), ("real", 2.46, 5)):  # each edge is rounded by itself
        sides = sorted(set(table.loc[table["method"] == method, "crop_box"].map(lambda box: box[2] - box[0])))
        assert np.abs(np.subtract(sides, sorted(scale * side + offset for side in heights))).max() <= 1


def test_crops_whose_names_number_nothing_are_numbered_by_their_order(tmp_path, call):
    for name in ("left", "right", "1_a_3", "2_a_3"):
        path = tmp_path / "in/real/v" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), len(name), np.uint8)).save(path)
    assert call("prepare", tmp_path / "in", "numbered", "--crops", "--workers", 1)[0] == 0
    table = frames.load_frames("numbered")
    assert table["frame"].tolist() == [0, 1, 2, 3] and not table.duplicated(["video", "track", "frame"]).any()
