"""Downloads: wrong files, no network, unsafe names, stopped ones, terms."""

import hashlib
import io
import os
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import yaml
from clips import write
from huggingface_hub import constants
from server import add_hub, serving
from trees import Centre, faces
from typer.testing import CliRunner

from dfnb import cli
from facesets import prepare, published
from facesets.checks import DfnbError
from facesets.files import download, read_json
from facesets.manifests import published_names


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture(name="server")
def loopback():
    with serving() as server:
        yield server


def left(folder):
    """What is in a folder, but for the lock and the records of huggingface_hub."""
    paths = [path for path in folder.rglob("*") if ".cache" not in path.parts]
    return sorted(path.name for path in paths if path.name != ".lock")


# ---------------------------------------------------------------- one file

CONTENT = bytes(range(256)) * 4000  # about a megabyte


def test_a_file_is_downloaded_once(server, tmp_path, capfd):
    server.files["/file.bin"] = CONTENT
    path = tmp_path / "new" / "file.bin"
    for digest in (sha256(CONTENT), f"md5:{hashlib.md5(CONTENT).hexdigest()}"):
        assert download(f"{server.url}/file.bin", path, digest) == path
        assert path.read_bytes() == CONTENT
    assert server.asked == ["/file.bin"] and left(path.parent) == ["file.bin"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("cut", [None, 100_000])
def test_another_file_or_half_of_one_is_not_kept(server, tmp_path, cut):
    server.files["/file.bin"] = CONTENT
    server.cuts = [cut]
    with pytest.raises(DfnbError, match="could not be downloaded") as error:
        download(f"{server.url}/file.bin", tmp_path / "file.bin", f"sha256:{'0' * 64}")
    assert ("does not match the known hash" in str(error.value)) == (cut is None)
    assert left(tmp_path) == []


def test_another_file_that_is_there_is_told_and_stays(server, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"mine")
    with pytest.raises(DfnbError, match=r"another file than expected .* move it away"):
        download(f"{server.url}/file.bin", path, sha256(CONTENT))
    assert path.read_bytes() == b"mine" and server.asked == []


def test_what_cannot_be_had_is_one_sentence_with_what_to_do_by_hand(server, tmp_path):
    path = tmp_path / "there" / "file.bin"
    for url, reason in (
        (f"{server.url}/gone.bin", "404 Client Error: Not Found"),
        ("http://127.0.0.1:9/file.bin", "refused"),  # the port of discard, where nothing listens
    ):
        with pytest.raises(DfnbError, match=reason) as error:
            download(url, path, sha256(CONTENT))
        assert url in str(error.value) and f"put it at {path}" in str(error.value)
        assert "\n" not in str(error.value) and left(tmp_path) == ["there"]


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


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def clip(folder, forged=False):
    path = folder / f"{forged}.mp4"
    write(path, faces(1, forged)[0])
    return path.read_bytes()


COMPLETE = [".accepted", "1.mp4", "1.mp4", "2.mp4", "fake", "real"]


@pytest.fixture(name="mine")
def dataset(empty_home, server, tmp_path_factory):
    """A dataset of a zip and a single file."""
    videos = tmp_path_factory.mktemp("videos")
    server.files["/real.zip"] = zipped({"real/1.mp4": clip(videos), "real/2.mp4": clip(videos)})
    server.files["/1.mp4"] = clip(videos, forged=True)
    real, fake = server.files["/real.zip"], server.files["/1.mp4"]
    files = [
        {"url": f"{server.url}/real.zip", "to": "real", "unpack": "zip", "digest": sha256(real)},
        {"url": f"{server.url}/1.mp4", "to": "fake/1.mp4", "digest": sha256(fake)},
    ]
    size = len(real) + len(fake)
    describe(empty_home, bytes=size, files=files)
    return empty_home / "downloads" / "mine"


def test_terms_are_asked_once_and_without_them_nothing_is_downloaded(mine, server):
    for answer in ("n\n", ""):
        printed = dfnb("fetch", "mine", answer=answer)
        assert "actors who agreed" in printed and "nothing was downloaded" in printed
    assert server.asked == [] and not mine.exists()
    assert "is complete; next: dfnb prepare mine" in dfnb("fetch", "mine", answer="y\n")
    assert "is complete" in dfnb("fetch", "mine")
    assert left(mine) == COMPLETE
    assert server.asked == ["/real.zip", "/1.mp4"]
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


def test_a_download_that_is_not_complete_is_not_prepared_and_goes_on(mine, server, monkeypatch):
    fake = server.files.pop("/1.mp4")
    assert "404" in dfnb("fetch", "mine", "--yes")
    assert "is not complete; `dfnb fetch mine` goes on" in dfnb("prepare", "mine")
    server.files["/1.mp4"] = fake
    assert "is complete" in dfnb("fetch", "mine")
    assert server.asked == ["/real.zip", "/1.mp4"]
    assert left(mine) == COMPLETE


def test_an_archive_is_unpacked_whole_or_not_at_all(mine, server, monkeypatch):
    def stopped(archive, folder):
        unpack(archive, folder)
        raise KeyboardInterrupt

    unpack = zipfile.ZipFile.extractall
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", stopped)
        dfnb("fetch", "mine", "--yes")
    assert not (mine / "real").exists()
    assert "is complete" in dfnb("fetch", "mine")
    assert server.asked == ["/real.zip", "/1.mp4"]
    assert left(mine) == COMPLETE


@pytest.mark.parametrize(
    ("names", "unpacked"),
    [
        (["a/b.mp4", "c.mp4"], ["a/b.mp4", "c.mp4"]),
        (["c.mp4"], ["c.mp4"]),
        (["top/top/b.mp4", "top/c.mp4"], ["c.mp4", "top/b.mp4"]),  # without its only folder
        (["a.mp4", "../../../e.mp4", "/f.mp4"], ["a.mp4", "e.mp4", "f.mp4"]),
    ],
)
def test_what_is_in_an_archive_comes_into_its_folder(empty_home, server, names, unpacked):
    content = zipped(dict.fromkeys(names, "clip"))
    server.files["/x.zip"] = content
    url = f"{server.url}/x.zip"
    file = {"url": url, "to": "sub/out", "unpack": "zip", "digest": sha256(content)}
    describe(empty_home, bytes=9, files=[file])
    assert "is complete" in dfnb("fetch", "mine", "--yes")
    out = empty_home / "downloads/mine/sub/out"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.mp4")) == unpacked
    assert len(list(empty_home.rglob("*.mp4"))) == len(unpacked)


def test_room_is_needed_for_what_is_missing(mine, server, monkeypatch):
    room = shutil.disk_usage("/")._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: room)
        assert "has no room" in dfnb("fetch", "mine", "--yes") and server.asked == []
    dfnb("fetch", "mine")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    assert "is complete" in dfnb("fetch", "mine")


def test_a_file_of_mine_is_not_replaced(mine):
    (mine / "fake").mkdir(parents=True)
    (mine / "fake/1.mp4").write_bytes(b"mine")
    assert "another file than expected" in dfnb("fetch", "mine", "--yes")
    assert (mine / "fake/1.mp4").read_bytes() == b"mine"
    assert "is not complete" in dfnb("prepare", "mine")


def test_a_list_with_digests_is_downloaded(empty_home, server):
    describe(empty_home, bytes=9, list={"file": "mine.sha256", "base": f"{server.url}/at"})
    server.files["/at/real/a%20b.mp4"] = b"clip"
    line = f"{hashlib.sha256(b'clip').hexdigest()}  real/a b.mp4\n"
    (empty_home / "data_manifest/mine.sha256").write_text(line)
    assert "is complete" in dfnb("fetch", "mine", "--yes")
    assert (empty_home / "downloads/mine/real/a b.mp4").read_bytes() == b"clip"


OUTSIDE = ["../1.mp4", "real/../../1.mp4", "/real/1.mp4", "..\\1.mp4", "C:1.mp4"]


@pytest.mark.parametrize("line", [f"{'a' * 63}  1.mp4", *(f"{'a' * 64}  {to}" for to in OUTSIDE)])
def test_a_list_with_a_word_that_is_no_sha256_or_a_path_that_leads_out_is_refused(
    empty_home, server, line
):
    describe(empty_home, bytes=9, list={"file": "mine.sha256", "base": server.url})
    (empty_home / "data_manifest/mine.sha256").write_text(f"{line}\n")
    assert "mine.sha256 is not valid" in dfnb("fetch", "mine", "--yes") and server.asked == []


@pytest.mark.parametrize("to", OUTSIDE)
def test_a_manifest_with_a_path_that_leads_out_is_refused(empty_home, to):
    describe(empty_home, bytes=9, files=[{"url": "", "to": to, "digest": f"md5:{'a' * 32}"}])
    assert "fetch.files.0.to" in dfnb("fetch", "mine", "--yes")


# ---------------------------------------------------------------- the hub

COMMIT = "abcdef1" + "0" * 33
HUB = {"repo": "we/clips", "revision": "abcdef1", "files": ["clips/[a-z]*.mp4"]}


@pytest.fixture(name="clips")
def dataset_of_the_hub(empty_home, server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    address = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr("time.sleep", lambda _: None)  # of huggingface_hub, before new attempts
    files = {"clips/a1.mp4": b"one", "clips/b1.mp4": b"two", "README.md": b"card"}
    add_hub(server, "we/clips", COMMIT, files)
    describe(empty_home, bytes=6, hub=HUB)
    return empty_home / "downloads/mine/clips"


def test_files_of_the_hub_are_those_of_the_pinned_commit(clips, server):
    clips.mkdir(parents=True)
    (clips / "a1.mp4").write_bytes(b"one")  # of a call that was stopped
    assert "is complete" in dfnb("fetch", "mine", "--yes")
    assert left(clips) == ["a1.mp4", "b1.mp4"] and (clips / "b1.mp4").read_bytes() == b"two"
    assert sum("/resolve/" in path for path in server.asked) == 1  # what is there is not asked for
    assert not (clips.parent / "README.md").exists()


def test_another_file_than_that_of_the_hub_is_told_and_stays(clips, server):
    clips.mkdir(parents=True)
    (clips / "b1.mp4").write_bytes(b"me!")
    assert "b1.mp4 is another file than expected" in dfnb("fetch", "mine", "--yes")
    assert (clips / "b1.mp4").read_bytes() == b"me!"
    (clips / "b1.mp4").unlink()
    server.files[f"/datasets/we/clips/resolve/{COMMIT}/clips/b1.mp4"] = b"2.0"
    assert "b1.mp4 is another file than expected" in dfnb("fetch", "mine")
    assert "is not complete" in dfnb("prepare", "mine")


def test_a_hub_without_a_file_an_answer_or_the_commit_is_told(clips, server):
    server.files.pop(f"/datasets/we/clips/resolve/{COMMIT}/clips/b1.mp4")
    printed = dfnb("fetch", "mine", "--yes")
    assert "could not be downloaded at commit abcdef1" in printed
    assert "is not complete" in dfnb("prepare", "mine")
    server.files.clear()
    assert "could not be downloaded at commit abcdef1" in dfnb("fetch", "mine")
    add_hub(server, "we/clips", "1" * 40, {})
    assert "could not be downloaded at commit abcdef1 (KeyError" in dfnb("fetch", "mine")


def test_what_needs_a_form_is_not_fetched(empty_home):
    printed = dfnb("fetch", "celeb-df-v2", "--yes")
    assert "cannot be downloaded by a command; access: Fill in" in printed
    assert not (empty_home / "downloads").exists()


# ---------------------------------------------------------------- the published manifests


def test_what_dfnb_fetch_offers_is_pinned_and_has_terms():
    pinned = re.compile(r"/[0-9a-f]{40}/|//zenodo.org/api/records/[0-9]+/files/")
    for name in published_names():
        manifest = published.load_manifest(name)
        if manifest.fetch:
            assert "CC " in manifest.terms and "asked" in manifest.terms
            source = manifest.fetch
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
