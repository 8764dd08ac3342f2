"""What the folders and CSVs of users say: one form of each, and a sentence for anything else."""

import os
import re
from pathlib import Path

import av
import numpy as np
import pytest
import trees
from clips import SMALL, Blobs, draw, moving, write

from facesets import prepare, published
from facesets.checks import DfnbError
from facesets.frames import load_frames, masked_positions, read_crop
from facesets.pictures import Unusable
from facesets.videos import Video, frame_numbers, read_csv, read_folder, summary


@pytest.fixture
def root(empty_home):
    return empty_home / "in"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def facts(videos):
    """What is said of a folder: name -> label, method, split, number of images."""
    return {
        video.name: (video.label, video.method, video.split, len(video.frames) or 1)
        for video in videos
    }


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (  # clips as folders of frames
            ["real/001/0.png", "real/001/1.png", "fake/DF/x/001/0.png"],
            {"real/001": (0, "real", "test", 2), "fake/DF/x/001": (1, "DF", "test", 1)},
        ),
        (  # a fake without a method
            ["real/0.png", "fake/1.png"],
            {"real/0": (0, "real", "test", 1), "fake/1": (1, "fake", "test", 1)},
        ),
        (  # images
            ["train/real/0.png", "val/real/1.jpg", "test/fake/DF/0.png"],
            {
                "train/real/0": (0, "real", "train", 1),
                "val/real/1": (0, "real", "val", 1),
                "test/fake/DF/0": (1, "DF", "test", 1),
            },
        ),
    ],
)
def test_folders_mean_the_same_to_prepare_and_to_face_crops(root, files, expected):
    touch(root, *files)
    crops, _ = published.scan("face-crops", root)
    assert facts(read_folder(root)) == facts(crops) == expected
    assert summary(crops).startswith(f"{len(expected)} videos of {len(files)} frames; ")


@pytest.mark.parametrize("split", ["", "test/"])
@pytest.mark.parametrize("end", [".mp4", "/0.png"])
def test_a_clip_and_its_own_fake_are_one_cluster_where_nobody_is_known(root, split, end):
    """By the same name below real/, or by the original that a list names."""
    names = ["real/e\u0301", "fake/DF/\u00e9", "fake/DF/other", "real/b"]
    touch(root, *(f"{split}{name}{end}" for name in names))
    clusters = {video.name: video.cluster for video in read_folder(root)}
    own = {name: name for name in (f"{split}{name}" for name in names)}
    assert clusters == {**own, f"{split}{names[1]}": f"{split}{names[0]}"}
    paths = [f"{split}{name}{end if end == '.mp4' else ''}" for name in names]
    rows = f"{paths[0]},real,,\n{paths[1]},fake,{paths[0]},\n{paths[2]},fake,{paths[0]},ann\n"
    listed = root / "list.csv"
    listed.write_text(f"path,label,original,identity\n{rows}", encoding="utf-8")
    real, fake, of_ann = read_csv(listed, root)
    assert fake.cluster == real.cluster == real.name and of_ann.cluster == "ann"
    assert "; nobody knows who is in 2 of them: " in summary([real, fake, of_ann])


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            ["real/a.mp4", "Fake/DF/b.mp4"],
            "1 videos or images that are not read, such as Fake/DF/b.mp4;",
        ),
        (
            ["real/a.mp4", "mask/DF/b.png"],
            "1 videos or images that are not read, such as mask/DF/b.png;",
        ),
        (["Train/real/a.mp4"], "not read, such as Train/real/a.mp4;"),
        (["README"], "contains no video or image that is sorted so"),
        (
            ["train/real/a.mp4", "fake/DF/b.mp4"],
            "train/real/a.mp4 lies in the folder of a split, and fake/DF/b.mp4 does not",
        ),
        # Without methods, the folder of a clip would count as a method, and its frames as videos.
        (
            ["real/001/0.png", "fake/001_2/0.png"],
            "real/001/0.png lies in the folder of a clip, and fake/001_2/0.png does not",
        ),
    ],
)
def test_a_folder_that_is_sorted_otherwise_is_refused(root, files, sentence):
    touch(root, *files)
    with pytest.raises(DfnbError, match=sentence):
        read_folder(root)


def test_accents_of_another_form_of_unicode_are_the_same_letters(root):
    """A Mac writes é as e and an accent."""
    touch(root, "fake/DF/vid\u00e9.jpg", "mask/DF/vide\u0301.png")
    (fake,) = read_folder(root)
    assert fake.mask == root / "mask/DF/vide\u0301.png"
    (root / "list.csv").write_text("path,label\nfake/DF/vide\u0301.jpg,fake\n", encoding="utf-8")
    with pytest.raises(DfnbError, match="an accent is one letter or two, by its form of Unicode"):
        read_csv(root / "list.csv", root)


def test_a_method_is_one_in_any_form_of_unicode(root):
    touch(root, "real/a.jpg", "fake/e\u0301change/b.jpg", "fake/\u00e9change/c.jpg")
    assert {video.method for video in read_folder(root)} == {"real", "\u00e9change"}


@pytest.mark.parametrize(
    "name", ["real/a.JPE", "real/a.jfif", "real/a.JP2", "real/a.bmp", "real/a.M4V", "real/a.WebM"]
)
def test_rarer_suffixes_are_read(root, name):
    touch(root, name)
    assert facts(read_folder(root)) == {"real/a": (0, "real", "test", 1)}


def test_what_is_not_read_is_named(root, capsys):
    touch(root, "real/a.jpg", "real/b.npy", "mask/c.npy", "README", ".hidden", "real/new\nline.jpg")
    (root / "real/clip").symlink_to(root / "not mounted")
    (root / "fake").mkdir()
    (root / "fake/gone.mp4").symlink_to(root / "not mounted.mp4")
    touch(root, os.fsdecode(b"real/Jos\xe9.txt"))
    assert {*facts(read_folder(root))} == {"real/a", "fake/gone", "real/new\nline"}
    sentence = "not read: 5 files that are no videos or images, such as README, mask/c.npy, real/"
    assert capsys.readouterr().out == rf"{sentence}Jos\xe9.txt" + "\n"


def test_a_folder_of_frames_is_one_video_with_the_masks_that_there_are(root):
    image = draw([(40, 60), (120, 60)])
    mask = np.zeros_like(image)
    mask[40:80, 20:60] = 255
    for name in ("real/1", "real/2", "fake/DF/1_2"):
        for number in (2, 10, 11):
            trees.image(root / f"{name}/frame{number}.png", image)
    for number in (2, 10):
        trees.image(root / f"mask/DF/1_2/frame{number}.png", mask)
    videos = read_folder(root)
    unknown = "; nobody knows who is in 3 of them: each counts as a person of its own"
    assert summary(videos) == f"3 videos of 9 frames{unknown}"
    prepare.prepare("set", videos, SMALL, Blobs(), workers=1)
    table = load_frames("set")
    assert table["video"].value_counts().to_dict() == {"real/1": 3, "real/2": 3, "fake/DF/1_2": 3}
    fakes = table[table["label"] == 1].reset_index()
    assert fakes["frame"].tolist() == [2, 10, 11] and len(masked_positions(fakes)) == 2
    assert [box[0] < 60 for box in fakes["crop_box"]][:2] == [True, True]
    assert read_crop(fakes["mask"][0]).any() and table["cluster"].nunique() == 3


# ---------------------------------------------------------------- a CSV


def test_a_csv_has_one_form(tmp_path):
    """In UTF-8, as spreadsheets write it, too: with a mark at its beginning."""
    touch(tmp_path, "in/a, 1.mp4", "b.avi")
    file = tmp_path / "mine.csv"
    text = 'label,path,split,identity,original\nreal,"in/a, 1.mp4",,,\n\nfake,b.avi,val,anna,'
    file.write_text(f'\ufeff{text}"in/a, 1.mp4"\r\n', encoding="utf-8")
    a, b = read_csv(file, tmp_path)
    path = tmp_path / "in/a, 1.mp4"
    assert a == Video("in/a, 1", path, 0, "real", cluster="in/a, 1")
    expected = {"split": "val", "identity": "anna", "cluster": "anna", "original": path}
    assert b == Video("b", tmp_path / "b.avi", 1, "fake", **expected)
    assert read_csv(file, tmp_path / "in" / "..") == [a, b]  # as a shell's user names a folder


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no columns to parse"),
        ("path,label\n", "lists nothing"),
        ("path,label\n,\n", "lists nothing"),
        ("sep=;\npath;label\na.mp4;real\n", "line 2: .*there is no parameter 'sep=;'"),
        ("path;label\na.mp4;real\n", "line 2: .*there is no parameter 'path;label'"),
        ("path,split\na.mp4,val\n", "line 2: label is missing"),
        ("path,label,label\na.mp4,real,real\n", "line 2: there is no parameter 'label.1'"),
        ("path,label,methd\na.mp4,fake,x\n", "line 2: .*did you mean method"),
        ("path,label\na.mp4,real\n\nb.mp4,1\n", "line 4: label = '1': .*'real' or 'fake'"),
        ("path,label\na.mp4,\n", "line 2: label is missing"),
        ("path,label\na.mp4,real,x\n", "a line has more cells than there are columns"),
        ("path,label\na.mp4,real\nb.mp4,real,x\n", "2 fields in line 3, saw 3"),
        ('path,label\n"a.mp4,real\n', "EOF inside string"),
        ("path,label,split\na.mp4,real,dev\n", "line 2: split = .dev."),
        ("path,label\nc.mp4,real\n", "line 2: there is no .*c.mp4"),
        ("path,label,mask\na.mp4,fake,c.mp4\n", "line 2: there is no .*c.mp4"),
        ("path,label\na.mp4,real\n./a.mp4,real\n", "a.mp4 is listed twice"),
        ("path,label\na.mp4,real\n./a.mp4,fake\n", "the lines of the video 'a' differ in more"),
        ("path,label,video\na.mp4,real,x\na.mp4,real,y\n", "a.mp4 is listed twice"),
        ("path,label\n/elsewhere/a.mp4,fake\n", "line 2: there is no /elsewhere/a.mp4"),
        ("path,label\n../b.mp4,fake\n", "b.mp4' is not in the subpath of .*correct it or --root"),
        ("path,label\na\u00e9.mp4,real\n", "'utf-8' codec can't decode"),
    ],
)
def test_a_csv_of_another_form_is_refused(tmp_path, text, sentence):
    touch(tmp_path, "in/a.mp4", "in/b.mp4", "b.mp4")
    file = tmp_path / "in/mine.csv"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(DfnbError, match=rf"(?i)in/.*{sentence}"):
        read_csv(file, file.parent)


@pytest.mark.parametrize("name", ["bob ", " bob", "bob\u00a0", "bob\n"])
def test_blanks_make_no_two_people(tmp_path, name):
    touch(tmp_path, "a.mp4", "b.mp4")
    file = tmp_path / "mine.csv"
    file.write_text(f'path,label,identity\na.mp4,real,"{name}"\nb.mp4 ,real,bob\n', "utf-8")
    assert [video.identity for video in read_csv(file, tmp_path)] == ["bob", "bob"]


def test_people_and_masks_are_the_same_in_any_form_of_unicode(tmp_path):
    trees.image(tmp_path / "clip/e\u0301.png", draw([(40, 60)]))
    trees.image(tmp_path / "masks/\u00e9.png", draw([]))
    touch(tmp_path, "a.mp4")
    file = tmp_path / "mine.csv"
    rows = "a.mp4,real,Jos\u00e9,\nclip,fake,Jose\u0301,masks\n"
    file.write_text(f"path,label,identity,mask\n{rows}", encoding="utf-8")
    one, other = read_csv(file, tmp_path)
    assert one.identity == other.identity == one.cluster
    ((_, mask),) = other.frames
    assert mask == tmp_path / "masks/\u00e9.png"
    (tmp_path / "masks/\u00e9.png").rename(tmp_path / "masks/other.png")
    with pytest.raises(DfnbError, match=r"no image in .*masks has the name of a frame"):
        read_csv(file, tmp_path)
    (tmp_path / "clip/e\u0301.png").unlink()
    with pytest.raises(DfnbError, match=r"no image in .*"):
        read_csv(file, tmp_path)


def test_the_recipes_of_the_documents_write_a_csv(checkout, tmp_path, monkeypatch):
    """Of files in any folders, and of another list, whose fields and labels differ."""
    text = (checkout / "docs/your-data.md").read_text(encoding="utf-8")
    _, _, section = text.partition("\n## A list from anything else\n")
    recipes = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    touch(tmp_path, "clips/originals/a.mp4", "clips/swap/test/b.mp4", "a.mp4", "b é.mp4")
    (tmp_path / "theirs.csv").write_bytes("file;is_fake\na.mp4 ;0\nb é.mp4;1\n".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    listed = []
    for recipe in recipes:
        exec(recipe, {})
        listed.append(facts(read_csv(Path("my-videos.csv"), tmp_path)))
    assert listed == [
        {
            "clips/originals/a": (0, "real", "test", 1),
            "clips/swap/test/b": (1, "swap", "test", 1),
        },
        {"a": (0, "real", "test", 1), "b é": (1, "fake", "test", 1)},
    ]


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
    touch(
        tmp_path,
        "a/1.png",
        "a/2.png",
        "a/3.png",
        "b/1.jpg",
        "b/2.jpg",
        "masks/1.png",
        "c.mp4",
        "c/1.png",
    )
    touch(tmp_path, "a/4.png")
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
        "a/4.png,fake,one,": "the lines of the video 'one' differ in",
        "a,real,two,": "a/1.png is listed twice",
        "a,real,one,masks": "a/1.png is listed twice",
        "c,fake,,masks/1.png": "Not a directory: '.*masks/1.png'",
        "masks,fake,,c": None,
        "empty,real,,": "no image in .*empty has the name of a frame in .*empty",
    }.items():
        (tmp_path / "empty").mkdir(exist_ok=True)
        file.write_text(f"path,label,video,mask\n{rows}{row}\n")
        if problem:
            with pytest.raises(DfnbError, match=problem):
                read_csv(file, tmp_path)
        else:
            assert len(read_csv(file, tmp_path)) == 4


def test_a_video_among_the_frames_of_another_is_named(root):
    trees.image(root / "real/1/0.png", draw([(40, 60)]))
    write(root / "clip.mp4", moving(3))
    (root / "mine.csv").write_text(
        "path,label,video\nreal/1/0.png,real,one\nclip.mp4,real,one\nreal/1,fake,other\n"
    )
    with pytest.raises(DfnbError, match=r"real/1/0\.png is listed twice"):
        read_csv(root / "mine.csv", root)
    (root / "mine.csv").write_text("path,label,video\nreal/1/0.png,real,one\nclip.mp4,real,one\n")
    with pytest.raises(
        DfnbError, match=r"not used: its frame clip\.mp4: missing, truncated.*: 1 \(one\)"
    ):
        videos = read_csv(root / "mine.csv", root)
        prepare.prepare("set", videos, SMALL, Blobs(), workers=1, one_class=True)


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
    record = prepare.prepare("set", read_folder(root), SMALL, Blobs(), workers=1)
    counts = record["faces"]["test/DF"]
    assert (counts["frames"], counts["without_face"]) == (8, 0)


@pytest.mark.parametrize("name", ["text.png", "folder", "empty.avi"])
def test_a_mask_of_the_wrong_kind_is_named_as_the_cause(root, name):
    for image in ("a.png", "b.png"):
        trees.image(root / image, draw([(40, 60)]))
    (root / "folder").mkdir()
    (root / "text.png").write_text("white")
    with av.open(str(root / "empty.avi"), "w") as container:  # a video without any frame
        stream = container.add_stream("mpeg4", 25)
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    (root / "mine.csv").write_text(
        f"path,label,mask,video\na.png,fake,{name},\nb.png,fake,{name},clip\n"
    )
    with pytest.raises(DfnbError, match=rf"2 \(a, clip\).*|its mask or original {name}: not a"):
        videos = read_csv(root / "mine.csv", root)
        prepare.prepare("set", videos, SMALL, Blobs(), workers=1, one_class=True)


def test_images_without_a_face_are_counted(root):
    for number in range(4):
        centres = [(40, 60)] * (number > 0)
        trees.image(root / f"real/{number}.png", draw(centres))
    record = prepare.prepare("set", read_folder(root), SMALL, Blobs(), workers=1, one_class=True)
    assert prepare.dropouts(record)["share"].tolist() == [1 / 4]
    assert len(load_frames("set")) == 3


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["a2", "a10"], [2, 10]),
        (["10_0", "100_0", "20_0"], [10, 100, 20]),  # all of one face
        (["1", "01"], [0, 1]),  # the same number twice: in their order
        (["x", "y"], [0, 1]),
    ],
)
def test_frames_are_numbered_by_their_names(names, numbers):
    assert frame_numbers([f"{name}.png" for name in names]) == numbers


def test_crops_of_two_faces_are_not_one_clip():
    with pytest.raises(Unusable, match=r"frame and face, such as 10_0.png and 20_1.png: give each"):
        frame_numbers(["10_0.png", "10_1.png", "20_0.png", "20_1.png"])
