"""What the folders and tables of users say, in all the forms in which they write it."""

from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import trees
from clips import SMALL, Blobs, draw, moving, write

from dfnb.checks import DfnbError
from dfnb.data import prepare, published
from dfnb.data.frames import load_frames, masked_positions, read_crop
from dfnb.data.videos import read_csv, summary, write_csv


@pytest.fixture
def root(empty_home):
    return empty_home / "in"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root):
    """The videos of a folder by its CSV."""
    file = root.parent / "datasets" / "set" / "videos.csv"
    write_csv(file, root, "dfnb")
    return file, read_csv(file, root)


def facts(videos):
    """What both readers of a folder say: name -> label, method, split, number of images."""
    return {
        video.name: (video.label, video.method, video.split, len(video.crops or video.frames) or 1)
        for video in videos
    }


# ---------------------------------------------------------------- what a video is


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (  # frames of clips, and no method
            ["real/001/0.png", "real/001/1.png", "fake/001_2/0.png", "fake/001_2/1.png"],
            {"real/001": (0, "real", "test", 2), "fake/001_2": (1, "fake", "test", 2)},
        ),
        (  # images of methods
            ["real/0.png", "real/1.jpg", "fake/DF/0.png", "fake/DF/1.png"],
            {
                "real/0": (0, "real", "test", 1),
                "real/1": (0, "real", "test", 1),
                "fake/DF/0": (1, "DF", "test", 1),
                "fake/DF/1": (1, "DF", "test", 1),
            },
        ),
        (  # clips of methods, beside a loose fake of one, in splits of several names
            ["Validation/REAL/a/0.png", "valid/Fake/DF/a/0.png", "TRAIN/fake/DF/0.png"],
            {
                "Validation/REAL/a": (0, "real", "val", 1),
                "valid/Fake/DF/a": (1, "DF", "val", 1),
                "TRAIN/fake/DF/0": (1, "DF", "train", 1),
            },
        ),
        (  # fakes of no method
            ["training/real/0.png", "testing/fake/0.jpg", "fake/1.jpg"],
            {
                "training/real/0": (0, "real", "train", 1),
                "testing/fake/0": (1, "fake", "test", 1),
                "fake/1": (1, "fake", "test", 1),
            },
        ),
    ],
)
def test_folders_mean_the_same_to_prepare_and_to_face_crops(root, files, expected):
    touch(root, *files)
    file, videos = listed(root)
    crops, _ = published.scan("face-crops", root)
    assert facts(videos) == facts(crops) == expected
    rows = pd.read_csv(file)
    assert rows["video"].nunique() == len(expected) and len(rows) == len(files)
    assert summary(crops) == f"{len(expected)} videos of {len(files)} frames"


def test_a_folder_of_frames_is_one_video_with_the_masks_that_there_are(root, monkeypatch):
    image = draw([(40, 60), (120, 60)])
    mask = np.zeros_like(image)
    mask[40:80, 20:60] = 255
    for name in ("real/1", "real/2", "fake/1_2"):
        for number in (2, 10, 11):
            trees.image(root / f"{name}/frame{number}.png", image)
    for number in (2, 10):
        trees.image(root / f"mask/1_2/frame{number}.png", mask)
    _, videos = listed(root)
    assert summary(videos) == "3 videos of 9 frames"
    prepare.prepare("set", videos, SMALL, Blobs(), workers=1)
    table = load_frames("set")
    assert table["video"].value_counts().to_dict() == {"real/1": 3, "real/2": 3, "fake/1_2": 3}
    fakes = table[table["label"] == 1].reset_index()
    assert fakes["frame"].tolist() == [2, 10, 11] and len(masked_positions(fakes)) == 2
    assert [box[0] < 60 for box in fakes["crop_box"]][:2] == [True, True]
    assert read_crop(fakes["mask"][0]).any() and table["cluster"].nunique() == 3


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\na.mp4,real,val\nb.mp4,fake,test\n",
        "\ufeffFilename;LABEL;Split\na.mp4;REAL;validation\nb.mp4;FAKE;Test\n",
        "label\tfile\tsplit\n0\ta.mp4\tvalid\n1\tb.mp4\t\n",
    ],
)
def test_a_table_says_the_same_in_many_forms(tmp_path, text):
    file = tmp_path / "mine.csv"
    file.write_text(text, encoding="utf-8")
    videos = read_csv(file, tmp_path)
    assert facts(videos) == {"a": (0, "real", "val", 1), "b": (1, "fake", "test", 1)}


def test_an_original_is_found_among_the_videos_however_its_path_is_written(tmp_path, monkeypatch):
    touch(tmp_path, "real/a.mp4", "fake/b.mp4")
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    file = Path("lists/mine.csv")
    rows = "../real/a.mp4,real,\n../fake/b.mp4,fake,../real/a.mp4\n"
    file.write_text(f"path,label,original\n{rows}", encoding="utf-8")
    real, fake = read_csv(file, tmp_path)
    assert fake.original == real.path


def test_the_column_video_joins_images_and_a_folder_is_a_clip(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.png", "a/3.png", "b/1.jpg", "b/2.jpg", "masks/1.png")
    file = tmp_path / "mine.csv"
    rows = "a/1.png,real,one,\na/2.png,real,one,\na/3.png,real,,\nb,fake,,masks\n"
    file.write_text(f"path,label,video,mask\n{rows}")
    one, alone, clip = read_csv(file, tmp_path)
    assert clip.mask == tmp_path / "masks"
    assert [path.name for path, _ in one.frames] == ["1.png", "2.png"] and one.name == "one"
    assert alone.name == "a/3" and not alone.frames
    assert clip.name == "b" and clip.mask == tmp_path / "masks"
    assert [mask and mask.name for _, mask in clip.frames] == ["1.png", None]
    for row, problem in {
        "a/3.png,fake,one,": "line 6: .*a/3.png is a frame of 'one' with another label than",
        "a/1.png,real,one,": "line 6: .*a/1.png is no other image of the video 'one'",
        "c.mp4,real,one,": "line 6: .*c.mp4 is no other image of the video 'one'",
        "a,real,one,masks": "line 6: .*a/1.png is no other image of the video 'one'",
        "a/1.png,fake,two,b/3": None,
        "b,fake,,nowhere": "nowhere is no folder of images",
    }.items():
        file.write_text(f"path,label,video,mask\n{rows}{row}\n")
        if problem:
            with pytest.raises(DfnbError, match=problem):
                read_csv(file, tmp_path)


# ---------------------------------------------------------------- the list that prepare writes


def test_a_corrected_list_is_never_overwritten_and_what_differs_is_said(root):
    touch(root, "real/a.mp4", "real/b.mp4", "fake/NA/c.mp4")
    file, _ = listed(root)
    touch(root, "real/d.mp4")
    listed(root)  # nobody has corrected it: the folder is listed again
    assert "d.mp4" in file.read_text()
    corrected = file.read_text().replace("real,real/a,,", "real,real/a,,train")
    corrected = "".join(line for line in corrected.splitlines(True) if "real/b" not in line)
    file.write_text(corrected)
    with pytest.raises(DfnbError) as error:
        listed(root)
    sentence = str(error.value)
    assert "was corrected, and is not overwritten" in sentence
    assert "other values: 1 (a.mp4 (split))" in sentence
    assert f"not in the CSV: 1 ({root}/real/b.mp4)" in sentence
    assert "prepare it by `dfnb`, or move it away" in sentence
    assert file.read_text() == corrected
    file.unlink()
    listed(root)
    assert "real/b.mp4" in file.read_text()


def test_a_list_of_an_earlier_version_is_no_correction(root):
    touch(root, "real/a.mp4")
    file, _ = listed(root)
    written = file.read_bytes()
    pd.read_csv(file).drop(columns="video").to_csv(file, index=False)
    file.with_name("videos.csv.sha256").unlink()
    listed(root)
    assert file.read_bytes() == written


# ---------------------------------------------------------------- what is counted


def test_a_faint_forgery_is_kept_where_one_face_is_found(root):
    original = moving(8)
    forged = [image.copy() for image in original]
    for number, image in enumerate(forged):
        left = 26 + number
        width = 28 if number < 4 else 5  # faint from here on
        image[52:72, left : left + width] = (150, 30, 30)
    write(root / "real/a.mp4", original)
    write(root / "fake/DF/a.mp4", forged)
    write(root / "original/DF/a.mp4", original)
    record = prepare.prepare("set", listed(root)[1], SMALL, Blobs(), workers=1)
    counts = record["faces"]["test/DF"]
    assert (counts["frames"], counts["without_face"]) == (8, 0)


@pytest.mark.parametrize("name", ["text.png", "folder", "empty.avi"])
def test_a_mask_of_the_wrong_kind_is_named_as_the_cause(root, name):
    trees.image(root / "a.png", draw([(40, 60)]))
    (root / "folder").mkdir()
    (root / "text.png").write_text("white")
    with av.open(str(root / "empty.avi"), "w") as container:  # a video without any frame
        stream = container.add_stream("mpeg4", 25)
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    (root / "mine.csv").write_text(f"path,label,mask,video\na.png,1,{name},\na.png,1,{name},clip\n")
    with pytest.raises(DfnbError, match=rf"2 \(a, clip\).*|its mask or original {name}: not a"):
        videos = read_csv(root / "mine.csv", root)
        prepare.prepare("set", videos, SMALL, Blobs(), workers=1, one_class=True)


def test_images_without_a_face_are_counted(root):
    for number in range(4):
        centres = [(40, 60)] * (number > 0)
        trees.image(root / f"real/{number}.png", draw(centres))
    record = prepare.prepare("set", listed(root)[1], SMALL, Blobs(), workers=1, one_class=True)
    assert prepare.dropouts(record)["share"].tolist() == [1 / 4]
    assert len(load_frames("set")) == 3
