"""Commands that write datasets change and remove nothing that dfnb did not make.

tests/test_all_notebooks.py asks the same of ``dfnb run``.
"""

import re
import shutil

import clips
import foreign
import pytest
import trees
from typer.testing import CliRunner

from dfnb import cli
from facesets import embedded, photographs, prepare, published, sources
from facesets.checks import DfnbError
from facesets.frames import OWN_FILES, OWN_MARK, load_frames
from facesets.videos import Video, read_csv


def make_folder(home):
    """Prepare a folder of clips by its command's parts; another call finds other clips."""
    source = home / "source"
    for name in ("real/a", "fake/swap/b"):
        start = 40 + len(list(home.rglob("frames.parquet")))  # so that a second call redoes all
        clips.write(source / f"{name}.mp4", clips.moving(3, start))
    videos = [
        Video("real/a", source / "real/a.mp4", 0, "real"),
        Video("fake/swap/b", source / "fake/swap/b.mp4", 1, "swap"),
    ]
    return prepare.prepare("set", videos, clips.SMALL, clips.Blobs(), 1, source=source)


def make_crops(home):
    """Prepare crops that others have cut; a second call finds another one."""
    source = home / "source"
    if source.exists():
        changed = source / "fake_test/0/fake/104/10.png"
        changed.unlink()  # its other name is in the dataset
        trees.image(changed, trees.faces(1)[0][0])
    else:
        source.mkdir()
        trees.wilddeepfake(source)
    videos, _ = published.scan("wilddeepfake", source)
    return prepare.prepare("set", videos, clips.SMALL, trees.Centre(), 1, source=source)


def make_embedded(home):
    """Build an embedded dataset; a second call finds its table damaged and a video gone."""
    data = home / "datasets" / "set"
    if (data / OWN_MARK).exists():
        (data / "frames.parquet").write_bytes(b"damaged")
        shutil.rmtree(next(data.rglob("video.json")).parent)
    settings = sources.preset("smoke-a", identities={"train": 2}, frames=2)
    return embedded.build("set", settings, workers=1)


@pytest.fixture(params=[make_folder, make_crops, make_embedded])
def make(request, empty_home):
    return lambda: request.param(empty_home)


@pytest.fixture
def data(empty_home):
    """The folder of the dataset "set"."""
    return empty_home / "datasets" / "set"


def test_files_in_and_around_a_dataset_stay(make, data, empty_home):
    videos = data / "videos"
    around = foreign.scatter(empty_home, data.parent, data, data / "mine")
    record = make()
    around |= foreign.scatter(videos, videos / "real")
    again = make()
    assert record["n"] == again["n"] and len(load_frames("set"))
    foreign.check_untouched(around)


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_file_in_the_place_of_one_of_ours_is_never_overwritten(make, data, name):
    data.mkdir(parents=True)
    (data / name).write_bytes(b'{"mine": true}')
    with pytest.raises(DfnbError, match=re.escape(str(data))):
        make()
    assert (data / name).read_bytes() == b'{"mine": true}'
    assert not (data / "videos").exists()


@pytest.mark.parametrize("make", [make_folder, make_crops])
def test_a_file_in_the_folder_of_a_video_stops_what_would_remove_it(make, data, empty_home):
    make(empty_home)
    for folder in [path.parent for path in data.rglob("video.json")]:
        foreign.scatter(folder)
    before = foreign.contents_of(data)
    with pytest.raises(DfnbError, match=r"/\.folder was not made by dfnb"):
        make(empty_home)
    foreign.check_untouched(before)


def test_frames_of_others_in_the_place_of_a_video_are_not_removed(data):
    """They are called as ours, but no record names them."""
    folder = data / "videos" / "real" / "a"
    folder.mkdir(parents=True)
    (folder / "000.png").write_bytes(b"mine")
    with pytest.raises(DfnbError, match=r"000\.png was not made by dfnb"):
        make_folder(data.parents[1])
    assert foreign.contents_of(data / "videos") == {folder / "000.png": b"mine"}


# ---------------------------------------------------------------- sources in the way


def write_frames(folder):
    """Write two clips, as folders of frames, into a folder."""
    for name in ("real/001", "fake/swap/002"):
        for number in range(2):
            trees.image(folder / name / f"{number}.png", clips.draw([(40 + number, 60)]))
    return folder


def invoke(*words):
    """Run a command of dfnb; raises what it raises."""
    return CliRunner().invoke(cli.commands, [*map(str, words)], catch_exceptions=False)


@pytest.mark.parametrize("published_as", [(), ("face-crops", "--root")])
@pytest.mark.parametrize("source", ["datasets/set/videos", "datasets/set", "datasets", "."])
def test_a_folder_and_its_dataset_must_not_contain_one_another(
    empty_home, monkeypatch, source, published_as
):
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    write_frames(empty_home / source)
    before = foreign.contents_of(empty_home)
    words = (published_as[0], "set", published_as[1]) if published_as else ()
    words = (*words, empty_home / source) if words else (empty_home / source, "set")
    with pytest.raises(DfnbError, match="contain one another"):
        invoke("prepare", *words)
    assert foreign.contents_of(empty_home) == before


def test_a_link_hides_no_source(empty_home, data, monkeypatch):
    """The folder of the videos, or that of one video, is a link to the source."""
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    share = write_frames(empty_home / "share")
    before = foreign.contents_of(share)
    data.mkdir(parents=True)
    (data / "videos").symlink_to(share)
    with pytest.raises(DfnbError, match="contain one another"):
        invoke("prepare", share, "set")
    (data / "videos").unlink()
    (data / "videos/real").mkdir(parents=True)
    (data / "videos/real/001").symlink_to(share / "real/001")
    with pytest.raises(DfnbError, match="contain one another"):
        invoke("prepare", share, "set")
    assert foreign.contents_of(share) == before


def test_files_of_a_csv_must_not_lie_in_the_dataset(empty_home, data, monkeypatch):
    """But the CSV may, and its root may contain the dataset."""
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    inside = write_frames(data)
    csv = empty_home / "set.csv"
    csv.write_text("path,label\ndatasets/set/real/001,real\ndatasets/set/fake/swap/002,fake\n")
    before = foreign.contents_of(data)
    with pytest.raises(DfnbError, match="contain one another"):
        invoke("prepare", csv)
    assert foreign.contents_of(data) == before
    inside.rename(empty_home / "elsewhere")
    data.mkdir()
    (data / "list.csv").write_text("path,label\n../../elsewhere/real/001,real\n")
    before = foreign.contents_of(data)
    videos = read_csv(data / "list.csv", empty_home)
    prepare.prepare("set", videos, clips.SMALL, clips.Blobs(), 1, one_class=True)
    foreign.check_untouched(before)


def test_photographs_must_not_lie_in_the_dataset(empty_home, data):
    trees.image(data / "photographs/ada.jpg", trees.faces(0)[0][0])
    before = foreign.contents_of(data)
    words = ("synth", "smoke-a", "--name", "set", "--portraits")
    for folder in (data / "photographs", data, data.parent):
        with pytest.raises(DfnbError, match="contain one another"):
            invoke(*words, folder)
    assert foreign.contents_of(data) == before


def test_a_photograph_of_the_name_of_a_listed_one_is_not_overwritten(empty_home):
    path = empty_home / "photographs" / next(iter(photographs.hashes("portraits.sha256")))
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DfnbError, match=r"another file than expected .* move it away"):
        photographs.photograph_folder("portraits.sha256")
    assert path.read_bytes() == b"mine"
