"""Downloads: broken connections, wrong files, full disks, unsafe archives, terms."""

import errno
import hashlib
import io
import os
import re
import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from clips import write
from huggingface_hub import constants
from server import add_hub, serving
from trees import Centre, faces
from typer.testing import CliRunner

from dfnb import cli
from dfnb.checks import DfnbError
from dfnb.data import fetch
from dfnb.data.sources import published_names
from dfnb.files import read_json
from dfnb.preparing import prepare, published

CONTENT = bytes(range(256)) * 4000  # about a megabyte


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture(name="server")
def loopback():
    with serving() as server:
        server.files["/file.bin"] = CONTENT
        yield server


@pytest.fixture(autouse=True)
def huggingface_hub(monkeypatch):
    """It writes pieces of 100 bytes, and does not wait before new attempts."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr("time.sleep", lambda _: None)


def get(server, path, digest=None, **options):
    return fetch.download(f"{server.url}/file.bin", path, digest or sha256(CONTENT), **options)


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.name != ".lock")


# ---------------------------------------------------------------- one file


def test_a_file_is_downloaded_once(server, tmp_path):
    path = tmp_path / "new" / "file.bin"
    seen = []
    assert get(server, path, progress=seen.append) == path
    assert path.read_bytes() == CONTENT and sum(seen) == len(CONTENT)
    get(server, path)
    assert server.ranges == [None] and left(path.parent) == ["file.bin"]


def test_a_broken_connection_goes_on_where_it_broke(server, tmp_path):
    server.cuts = [100_000, 200_000, 100]
    assert get(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=300000-", "bytes=300100-"]


@pytest.mark.parametrize("resumes", [True, False])
def test_a_stopped_download_goes_on_or_begins_again(server, tmp_path, resumes):
    server.resumes = resumes

    def stop(_):
        raise KeyboardInterrupt

    path = tmp_path / "file.bin"
    with pytest.raises(KeyboardInterrupt):
        get(server, path, progress=stop)
    (part,) = left(tmp_path)
    assert part.startswith(".")
    assert get(server, path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100-"] and left(tmp_path) == ["file.bin"]


def test_a_part_that_is_complete_or_of_a_longer_file_does_no_harm(server, tmp_path):
    part = tmp_path / ".file.bin.part"
    part.write_bytes(CONTENT)
    get(server, tmp_path / "file.bin")
    assert server.ranges == []
    (tmp_path / "file.bin").unlink()
    part.write_bytes(CONTENT + b"more")
    with pytest.raises(DfnbError, match=r"416 .*start again"):
        get(server, tmp_path / "file.bin")
    assert get(server, tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({"digest": f"sha256:{'0' * 64}"}, "another file than expected .sha256 [0-9a-f]{64} ins"),
        ({"digest": f"md5:{'0' * 32}"}, "md5"),
        ({"size": 5}, "1,024,000 bytes instead of 5"),
    ],
)
def test_another_file_is_told_and_nothing_is_kept(server, tmp_path, expected, problem):
    path = tmp_path / "file.bin"
    with pytest.raises(DfnbError, match=problem):
        fetch.download(f"{server.url}/file.bin", path, **expected)
    assert left(tmp_path) == []
    path.write_bytes(b"mine")
    with pytest.raises(DfnbError, match="move it away"):
        fetch.download(f"{server.url}/file.bin", path, **expected)
    assert path.read_bytes() == b"mine"


def test_what_cannot_be_had_is_one_sentence_with_what_to_do_by_hand(server, tmp_path):
    path = tmp_path / "there" / "file.bin"
    for url, reason in (
        (f"{server.url}/gone.bin", "answers 404 Not Found"),
        ("http://127.0.0.1:9/file.bin", "refused"),  # the port of discard, where nothing listens
    ):
        with pytest.raises(DfnbError, match=reason) as error:
            fetch.download(url, path, sha256(CONTENT))
        assert url in str(error.value) and str(path) in str(error.value)
        assert "\n" not in str(error.value) and left(tmp_path) == ["there"]


def test_a_full_disk_is_one_sentence_and_nothing_is_kept(server, tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DfnbError, match=r"No space left on device.*make room"):
        get(server, tmp_path / "file.bin", progress=full)
    assert left(tmp_path) == []


# ---------------------------------------------------------------- archives


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def tarred(members, kind="gz"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{kind}") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            if text.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, text[3:]
            member.size = 0 if member.issym() else len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


@pytest.mark.parametrize("make", [zipped, tarred, lambda files: tarred(files, "bz2")])
def test_an_archive_gives_its_content_without_its_only_folder(tmp_path, make):
    for files in ({"a/b.txt": "b", "c.txt": "c"}, {"top/top/b.txt": "b", "top/c.txt": "c"}):
        archive = tmp_path / ("x.zip" if make is zipped else "x.tar")
        archive.write_bytes(make(files))
        fetch.unpack(archive, tmp_path / "out")
        expected = ["a", "b.txt", "c.txt"] if "a/b.txt" in files else ["b.txt", "c.txt", "top"]
        assert left(tmp_path / "out") == expected and not archive.exists()
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.zip", zipped({"good.txt": "g", "../evil.txt": "e"})),
        ("x.zip", zipped({"/evil.txt": "e"})),
        ("x.zip", zipped({"..\\evil.txt": "e"})),
        ("x.tar", tarred({"good.txt": "g", "../evil.txt": "e"})),
        ("x.tar", tarred({"link": "-> ../..", "link/evil.txt": "e"})),
        ("x.zip", b"PK no archive"),
        ("x.tar", tarred({"cut.txt": "c" * 9999}, "bz2")[:60]),
    ],
)
def test_an_unsafe_or_damaged_archive_is_refused_and_removed(tmp_path, name, content):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(DfnbError, match="cannot be unpacked") as error:
        fetch.unpack(tmp_path / "in" / name, tmp_path / "in" / "out")
    assert "\n" not in str(error.value)
    assert left(tmp_path) == ["in"]


def test_a_disk_that_is_full_while_unpacking_keeps_the_archive_alone(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "x.zip").write_bytes(zipped({"a.txt": "a"}))
    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(DfnbError, match="No space left"):
        fetch.unpack(tmp_path / "x.zip", tmp_path / "out")
    assert left(tmp_path) == ["x.zip"]


# ---------------------------------------------------------------- a dataset


def dfnb(*words, answer=""):
    done = CliRunner().invoke(cli.commands, [*words], input=answer)
    error = done.exception
    assert error is None or isinstance(error, SystemExit | DfnbError), error
    return done.output + str(error or "")


RULES = [
    {"files": "real/{clip}.mp4", "label": "real", "split": "train"},
    {"files": "fake/{clip}.mp4", "label": "fake", "method": "swap", "split": "train"},
]


def describe(home, **fetched):
    """Write the manifest of a dataset ``mine``."""
    (home / "data_manifest").mkdir(exist_ok=True)
    content = {
        "kind": "real",
        "access": "ask me",
        "space": "little",
        "terms": "CC BY 4.0; actors who agreed",
        "fetch": fetched,
        "rules": RULES,
    }
    (home / "data_manifest/mine.yaml").write_text(yaml.safe_dump(content))


def clip(folder, forged=False):
    path = folder / f"{forged}.mp4"
    write(path, faces(1, forged)[0])
    return path.read_bytes()


@pytest.fixture(name="mine")
def dataset(empty_home, server, tmp_path_factory):
    """A dataset of a zip and a single file."""
    videos = tmp_path_factory.mktemp("videos")
    server.files["/real.zip"] = zipped({"real/1.mp4": clip(videos), "real/2.mp4": clip(videos)})
    server.files["/1.mp4"] = clip(videos, forged=True)
    real, fake = server.files["/real.zip"], server.files["/1.mp4"]
    files = [
        {"url": f"{server.url}/real.zip", "to": "real", "unpack": "zip", "digest": sha256(real)},
        {"url": f"{server.url}/1.mp4", "to": "fake/1.mp4", "bytes": len(fake)},
    ]
    size = len(real) + len(fake)
    small = {"bytes": len(fake), "files": files[1:]}
    describe(empty_home, bytes=size, files=files, parts={"small": small})
    return empty_home / "downloads" / "mine"


def test_terms_are_asked_once_and_without_them_nothing_is_downloaded(mine, server):
    for answer in ("n\n", ""):
        printed = dfnb("fetch", "mine", answer=answer)
        assert "actors who agreed" in printed and "nothing was downloaded" in printed
    assert server.ranges == [] and not mine.exists()
    assert "is complete; next: dfnb prepare mine" in dfnb("fetch", "mine", answer="y\n")
    assert "is complete" in dfnb("fetch", "mine")
    assert left(mine) == [".accepted", "1.mp4", "1.mp4", "2.mp4", "fake", "real"]
    assert server.ranges == [None, None]
    changed = (mine.parent.parent / "data_manifest/mine.yaml").read_text()
    changed = changed.replace("who agreed", "who were paid")
    (mine.parent.parent / "data_manifest/mine.yaml").write_text(changed)
    assert "nothing was downloaded" in dfnb("fetch", "mine")


def test_a_fetched_dataset_is_prepared_without_a_root(mine, monkeypatch):
    monkeypatch.setattr(prepare, "YuNet", Centre)
    assert "mine needs `dfnb fetch mine` before" in dfnb("prepare", "mine")
    dfnb("fetch", "mine", "--yes")
    printed = dfnb("prepare", "mine", "--set", "size=64")
    record = read_json(mine.parent.parent / "datasets/mine/record.json")
    assert {kind: n["videos"] for kind, n in record["n"].items()} == {
        "train/real": 2,
        "train/swap": 1,
    }, printed


def test_a_download_that_is_not_complete_is_not_prepared_and_goes_on(mine, server):
    fake = server.files.pop("/1.mp4")
    assert "404" in dfnb("fetch", "mine", "--yes")
    (mine / ".real.dfnb-0a1b2c3d").mkdir()  # of a process that was killed while it unpacked
    assert "is not complete; `dfnb fetch mine` goes on" in dfnb("prepare", "mine")
    server.files["/1.mp4"] = fake
    assert "is complete" in dfnb("fetch", "mine")
    assert len(server.ranges) == 2  # the archive was not fetched again
    assert left(mine) == [".accepted", "1.mp4", "1.mp4", "2.mp4", "fake", "real"]


def test_a_part_and_a_wrong_one(mine, server):
    assert "mine has no part 'smal'; did you mean small?" in dfnb("fetch", "mine", "--part", "smal")
    dfnb("fetch", "mine", "--part", "small", "--yes")
    assert left(mine) == [".accepted", "1.mp4", "fake"]


def test_a_complete_part_does_not_make_the_whole_complete(mine, server):
    archive = server.files.pop("/real.zip")
    dfnb("fetch", "mine", "--yes")  # stops at the archive
    unfinished = "is not complete; `dfnb fetch mine` goes on"
    assert unfinished in dfnb("fetch", "mine", "--part", "small")
    assert (mine / "fake/1.mp4").exists()
    assert unfinished in dfnb("prepare", "mine")
    server.files["/real.zip"] = archive
    assert "is complete" in dfnb("fetch", "mine") and not (mine / fetch.UNFINISHED).exists()


def test_a_stopped_part_goes_on_as_the_part_and_is_complete_with_the_whole(mine, server):
    fake = server.files.pop("/1.mp4")
    dfnb("fetch", "mine", "--part", "small", "--yes")
    assert "`dfnb fetch mine --part small` goes on" in dfnb("prepare", "mine")
    server.files["/1.mp4"] = fake
    for words in (("--part", "small"), ()):
        assert "is complete" in dfnb("fetch", "mine", *words)
        fetch.refuse_unfinished("mine")
    server.files.pop("/1.mp4")
    (mine / "fake/1.mp4").unlink()
    dfnb("fetch", "mine", "--part", "small")  # stops again
    server.files["/1.mp4"] = fake
    assert "is complete" in dfnb("fetch", "mine")
    fetch.refuse_unfinished("mine")


def test_a_whole_that_has_no_room_leaves_the_part_to_be_fetched(mine, monkeypatch):
    little = shutil.disk_usage("/")._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: little)
        assert "has no room" in dfnb("fetch", "mine", "--yes")
    assert "is complete" in dfnb("fetch", "mine", "--part", "small")


def test_no_room_is_told_before_anything_is_downloaded(mine, server, monkeypatch):
    little = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: little)
    assert "has no room" in dfnb("fetch", "mine", "--yes") and server.ranges == []


def test_room_that_other_files_take_does_not_count_for_the_missing_ones(mine, server, monkeypatch):
    archive, fake = server.files["/real.zip"], server.files["/1.mp4"]
    need = len(archive) + len(fake)
    room = shutil.disk_usage("/")._replace(free=need - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    mine.mkdir(parents=True)
    (mine / "other.bin").write_bytes(bytes(need))
    assert "has no room" in dfnb("fetch", "mine", "--yes")
    (mine / ".real.zip.part").write_bytes(archive[:1])  # which need not be downloaded
    assert "is complete" in dfnb("fetch", "mine")


def test_a_list_with_digests_is_downloaded_and_an_unsafe_path_is_not(empty_home, server):
    describe(empty_home, bytes=9, list={"file": "mine.sha256", "base": f"{server.url}/at"})
    for path in ("real/a b.mp4", "../evil.mp4"):
        server.files[f"/at/{path.replace(' ', '%20')}"] = b"clip"
        line = f"{hashlib.sha256(b'clip').hexdigest()}  {path}\n"
        (empty_home / "data_manifest/mine.sha256").write_text(line)
        printed = dfnb("fetch", "mine", "--yes")
        assert ("leads out" if "evil" in path else "is complete") in printed
    assert (empty_home / "downloads/mine/real/a b.mp4").read_bytes() == b"clip"
    assert not list(empty_home.rglob("evil*"))


def test_a_list_with_a_word_that_is_no_sha256_is_refused(empty_home, server):
    describe(empty_home, bytes=9, list={"file": "mine.sha256", "base": server.url})
    (empty_home / "data_manifest/mine.sha256").write_text(f"{'a' * 63}  real/1.mp4\n")
    assert "mine.sha256 is not valid" in dfnb("fetch", "mine", "--yes") and server.ranges == []


def test_files_of_the_hub_are_those_of_the_pinned_commit(empty_home, server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    files = {"clips/a1.mp4": b"one", "clips/b1.mp4": b"two", "README.md": b"card", "empty": b""}
    add_hub(server, "we/clips", "abcdef1" + "0" * 33, files)
    hub = {"repo": "we/clips", "revision": "abcdef1", "files": ["clips/[a-z]*.mp4"]}
    small = {"bytes": 3, "hub": {**hub, "files": ["clips/a*"]}}
    describe(empty_home, bytes=6, hub=hub, parts={"small": small})
    folder = empty_home / "downloads/mine/clips"
    printed = dfnb("fetch", "mine", "--yes", "--part", "small")
    assert left(folder) == ["a1.mp4"], printed
    assert "is complete" in dfnb("fetch", "mine")
    assert (folder / "b1.mp4").read_bytes() == b"two" and left(folder) == ["a1.mp4", "b1.mp4"]
    (folder / "b1.mp4").unlink()
    server.files["/datasets/we/clips/resolve/abcdef1" + "0" * 33 + "/clips/b1.mp4"] = b"2.0"
    assert "another file than expected" in dfnb("fetch", "mine")
    describe(empty_home, bytes=6, hub={**hub, "files": ["empty"]})
    assert "is complete" in dfnb("fetch", "mine")
    assert (folder.parent / "empty").read_bytes() == b""
    describe(empty_home, bytes=6, hub={**hub, "files": ["clip/*"]})
    assert "has no file that matches clip/*" in dfnb("fetch", "mine")
    describe(empty_home, bytes=6, hub={**hub, "revision": "1234567"})
    assert "has no commit 1234567" in dfnb("fetch", "mine")
    server.files.clear()
    assert "could not be listed (the server answers 404 Not Found)" in dfnb("fetch", "mine")


def test_what_needs_a_form_is_not_fetched(empty_home):
    printed = dfnb("fetch", "celeb-df-v2", "--yes")
    assert "cannot be downloaded by a command; access: Fill in" in printed
    assert not (empty_home / "downloads").exists()


# ---------------------------------------------------------------- the published manifests


def test_what_dfnb_fetch_offers_is_pinned_and_has_terms():
    pinned = re.compile(r"/[0-9a-f]{40}/|//zenodo.org/api/records/[0-9]+/files/")
    for name in published_names():
        manifest = published.load(name)
        if manifest.fetch:
            assert "CC " in manifest.terms and "asked" in manifest.terms
            for source in (manifest.fetch, *manifest.fetch.parts.values()):
                addresses = [file.url for file in source.files]
                addresses += [f"{source.list.base}/"] if source.list else []
                assert all(map(pinned.search, addresses)) and (addresses or source.hub)


HIDF = Path(os.environ.get("DFNB_REAL_DATA", "none")) / "hidf"


@pytest.mark.skipif(not HIDF.is_dir(), reason="needs the sample of HiDF, see CONTRIBUTING.md")
def test_the_sample_of_hidf_is_the_listed_one(empty_home):
    """Where it is already, nothing is downloaded."""
    folder = empty_home / "downloads/hidf-sample"
    folder.mkdir(parents=True)
    for kind in ("Real", "Fake"):
        (folder / kind).symlink_to(HIDF / kind)
    assert "is complete" in dfnb("fetch", "hidf-sample", "--yes")
    videos, _ = published.scan("hidf-sample", folder)
    counts = Counter((video.split, video.label) for video in videos)
    assert [counts[split, 0] for split in ("train", "val", "test")] == [29, 10, 11]
    assert [counts[split, 1] for split in ("train", "val", "test")] == [29, 10, 11]


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (520, "520")])
def test_an_answer_of_any_status_is_named(status, words):
    """Such as 520, which proxies give and no standard has."""
    error = OSError("refused")
    error.response = SimpleNamespace(status_code=status)
    assert fetch._reason(error) == f"the server answers {words}"
