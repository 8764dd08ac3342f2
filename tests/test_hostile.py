"""Malformed profiles, manifests, records, tables and names: one sentence each, no traceback, nothing half written."""

import contextlib
import copy
import dataclasses
import datetime
import itertools
import json
import math
import os
import shutil
import sys
from functools import partial
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import run as workflow
import trees
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import SAID
from typer.testing import CliRunner

from dfnb import cli, compare, core, figures, jobs, papers, scores, synth, tables
from dfnb.attribution import maps
from dfnb.core import DfnbError
from dfnb.data import frames, prepare, sources
from dfnb.scores import Report
from dfnb.synth import forgeries

fuzz = partial(settings, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
WRONG = [None, True, -1, 0, 10**30, math.inf, math.nan, "", "x", "../x", "a\nb", "$(x)", [], [None], ["a", "a"], [[[]]]]
WRONG += [{}, {"x": 1}, {"": {}}, datetime.date(2020, 1, 1), "é" * 300, 1e9, [0, 0], "{0}", "{x", "[", b"\xff"]


def files(folder):
    """The files in a folder; but for the note of which crops were checked, which is made again where it does not fit."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != "checked.parquet"]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def attempt(function, folder):
    """Call a function that may only succeed or fail with one sentence, and must leave the folder as it is."""
    before = files(folder)
    try:
        result = function()
    except DfnbError as error:
        assert "\n" not in str(error)
        result = None
    assert files(folder) == before
    return result


def places(content):
    """All pairs of a mapping or list and a key of it, at any depth."""
    keys = content if isinstance(content, dict) else range(len(content))
    inner = [places(content[key]) for key in keys if isinstance(content[key], dict | list)]
    return list(itertools.chain([(content, key) for key in keys], *inner))


def changed(content, draw):
    """The content with one value, at any depth, replaced, removed or added."""
    content = copy.deepcopy(content)
    place, key = draw(st.sampled_from(places(content)))
    action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
    if action == "remove":
        del place[key]
    elif action == "add" and isinstance(place, dict):
        place[draw(st.sampled_from(["sedes", "../x", "", "é"]))] = draw(st.sampled_from(WRONG))
    else:
        place[key] = draw(st.sampled_from(WRONG))
    return content


def damaged(content, draw):
    """The bytes cut off, or with one of them flipped."""
    place = draw(st.integers(0, len(content) - 1))
    if draw(st.booleans()):
        return content[:place]
    return content[:place] + bytes([content[place] ^ 1 << draw(st.integers(0, 7))]) + content[place + 1 :]


# ---------------------------------------------------------------- YAML and JSON

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)
MALFORMED = {
    "aliases have no end": [BOMB, BOMB.replace("[", "{<<: [").replace("]", "]}").replace("x", "{y: 1}"), "a: &a [*a]"],
    "stands twice": ["a: 1\nb: 2\n'a': 3", "a: {b: 1, b: 1}", "a: &x {b: 1}\nc: {<<: *x, <<: *x}"],
    "instead of names": ["", "# nothing", "a", "[1, 2]", "5"],
    "recursion depth": ["[" * 100_000, "- " * 100_000 + "a", "{a: " * 100_000, "a: " + "[" * 5000 + "]" * 5000],
    "is not valid YAML": [
        "a:\n\t- x", "a: *b", "? [a]\n: b", "a: 2020-13-45", "a: !!timestamp x", "a: !!int x", "a: !!bool x", "a: 1\0",
        "a: !!python/object/apply:os.system [x]", "--- a\n--- b", "a: [", "%YAML 9\n---\na: 1", f"a: {'9' * 5000}", "<<: 1",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "text"), [(sentence, text) for sentence in MALFORMED for text in MALFORMED[sentence]]
)
def test_malformed_yaml_is_refused_at_once(tmp_path, sentence, text):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DfnbError, match=f"x.yaml is not valid YAML .*{sentence}|{sentence}") as error:
        core.read_yaml(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_yaml_is_read_as_before_but_keys_are_text(tmp_path, checkout):
    for path in [*checkout.glob("data_manifest/*.yaml"), *checkout.glob("notebooks/profiles/[ps]*.yaml")]:
        assert core.read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8")), path
    path = tmp_path / "x.yaml"
    path.write_text("no: 1\n2020-01-01: 2\n0.010: 3\nbase: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n")
    assert core.read_yaml(path) == {
        "no": 1,
        "2020-01-01": 2,
        "0.010": 3,
        "base": {"a": 1, "b": 2},
        "more": {"a": 1, "b": 3},
    }
    path.write_bytes("a: é".encode("latin-1"))
    for read in (core.read_yaml, core.read_json):
        with pytest.raises(DfnbError, match="codec can't decode"):
            read(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "5", "{", '{"a": ' * 100_000, "[" * 100_000, f'{{"a": {"9" * 5000}}}']
)
def test_malformed_json_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(DfnbError, match=r"record\.json is not valid JSON") as error:
        core.read_record(tmp_path)
    assert len(str(error.value)) < 500


# ---------------------------------------------------------------- profiles


@pytest.fixture
def own_home(tmp_path, monkeypatch, checkout):
    """An empty home with a profile ``mine`` and manifests of its own."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    shutil.copyfile(checkout / "notebooks/profiles/smoke.yaml", tmp_path / "notebooks/profiles/mine.yaml")
    shutil.copytree(checkout / "data_manifest", tmp_path / "data_manifest")
    return tmp_path


def mine(home, **changes):
    path = home / "notebooks" / "profiles" / "mine.yaml"
    path.write_text(yaml.safe_dump(core.read_yaml(path) | changes), encoding="utf-8")


GRID = {"train_sets": ["smoke-a"], "test_sets": ["smoke-a"], "seeds": [0]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"grid": None}, "grid = None"),
        ({"grid": GRID | {"seeds": 0}}, "grid.seeds = 0"),
        ({"grid": GRID | {"seeds": [-1]}}, r"grid.seeds.0 = -1"),
        ({"grid": GRID | {"seeds": [1, 1]}}, r"\[1, 1\] names something twice"),
        ({"grid": GRID | {"test_sets": ["smoke-a", "smoke-a"]}}, "names something twice"),
        ({"grid": GRID | {"train_sets": [datetime.date(2020, 1, 1), 5]}}, "grid.train_sets.1 = 5"),
        ({"arms": []}, r"arms = \[\]"),
        ({"arms": {"03_lae": {"g": {"a": {"seeds": 0}}}}}, "arms.03_lae.g.a.seeds = 0"),
        ({"arms": {"03_lae": {"g": {"a": {"train_set": ["x"]}}}}}, "arms.03_lae.g.a.train_set"),
        ({"arms": {"03_lae": {"<img src=x>": {"a": {}}}}}, "pattern"),
        ({"arms": {"03_lae": {"g": {"=cmd|x": {}}}}}, "pattern"),
        ({"notebooks": {"02_xception_baseline": {"profile": "study"}}}, "sets profile or seed"),
        ({"notebooks": {"02_xception_baseline": {"lr": math.inf}}}, "lr = inf"),
        ({"notebooks": {"02_xception_baseline": {"weight_decay": math.nan}}}, "weight_decay = nan"),
        ({"notebooks": {"02_xception_baseline": {"image_size": 1e9}}}, "image_size = 1000000000"),
    ],
)
def test_an_impossible_profile_is_refused(own_home, changes, sentence):
    mine(own_home, **changes)
    with pytest.raises(DfnbError, match=sentence) as error:
        jobs.jobs("mine")
    assert "\n" not in str(error.value)


def test_any_change_of_a_profile_is_valid_or_refused(own_home):
    path = own_home / "notebooks" / "profiles" / "mine.yaml"
    small = {"image_size": 64, "lr": 0.1}
    arms = {"02_xception_baseline": {"g": {"a": {"seeds": [1, 2], "train_set": "smoke-a", "epochs": 2}}}}
    content = {
        "description": "",
        "grid": GRID,
        "notebooks": {"02_xception_baseline": small, "01_data": {}},
        "arms": arms,
    }

    @fuzz(max_examples=60)
    @given(st.data())
    def trial(data):
        path.write_text(yaml.safe_dump(changed(content, data.draw)), encoding="utf-8")
        attempt(lambda: jobs.jobs("mine"), own_home / "notebooks")

    trial()


# ---------------------------------------------------------------- manifests


def test_any_change_of_a_manifest_is_valid_or_refused(own_home):
    path, tree = own_home / "data_manifest" / "uadfv.yaml", own_home / "tree"
    fake = {"files": "fake/{name:.+}.mp4", "list": "all", "key": "{name}", "label": "{label}", "method": "swap"}
    fake |= {"identity": "{name}", "mask": "mask/{name}.mp4", "expected": 1}
    rows = {"file": "list.csv", "keys": ["{name}"], "fields": {"split": "test"}}
    content = {"kind": "real", "like": "dfd", "lists": {"all": rows}, "rules": [fake]}
    (tree / "fake").mkdir(parents=True)
    (tree / "fake/0047.mp4").touch()
    (tree / "list.csv").write_text("name,label\n0047,fake\n")

    @fuzz(max_examples=60)
    @given(st.data())
    def trial(data):
        path.write_text(yaml.safe_dump(changed(content, data.draw)), encoding="utf-8")
        attempt(lambda: sources.scan(sources.load("uadfv"), [tree]), tree)

    trial()


def test_a_bad_manifest_concerns_its_dataset_alone(own_home):
    folder = own_home / "data_manifest"
    for name, text in {"torn": "kind: [", "odd": "kind: reel", "cycle": "kind: synth\nlike: cycle"}.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "away.yaml").write_text("kind: synth\nlike: ../notebooks/profiles/mine")
    (folder / "wrong.yaml").write_text("kind: synth\nlike: smoke-a\nparameters: [1]")
    (folder / "uadfv.yaml").write_bytes("kind: real\ntitle: é".encode("latin-1"))
    assert jobs.jobs("mine") and "smoke-a" in core.described("synth") and "claims" not in core.described("real")
    table = sources.overview()
    assert {"torn", "odd", "uadfv"} == set(table.index[table["state"] == "wrong"])
    assert "uadfv.yaml is not valid YAML" in table.loc["uadfv", "what"]
    assert table.loc["dfd", "state"] == "absent"
    for name in ("torn", "cycle", "away", "wrong"):
        with pytest.raises(DfnbError):
            jobs.datasets(name)
    assert not (own_home / "datasets").exists()


def test_a_root_that_is_no_folder_is_refused(own_home):
    with pytest.raises(DfnbError, match="/nonexistent is no folder"):
        sources.overview([own_home / "nonexistent"])


# ---------------------------------------------------------------- records and frames


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A dataset ``toy`` of two videos of four frames."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    folder, draw = tmp_path / "datasets" / "toy", np.random.default_rng(0)
    for label, method in enumerate(("real", "swap")):
        known = {
            "dataset": "toy",
            "split": "test",
            "track": 0,
            "cluster": "c",
            "identity": "",
            "source": "",
            "scale": 1.0,
        }
        known |= {"method": method, "label": label, "landmarks": None, "crop_box": None}
        crops = draw.integers(0, 256, (4, 32, 32, 3), np.uint8)
        masks = draw.random((4, 32, 32)) > 0.5 if label else None
        frames.write_video(folder / "videos" / method, [known | {"frame": i} for i in range(4)], crops, masks)
    frames.write_dataset(folder, {"made": "by a test"})
    frames.load_frames(folder)  # which notes that the crops are those that were written
    return folder


def read_all(folder):
    table = frames.load_frames(folder)
    pixels = frames.Pixels(folder)
    for row in table.itertuples():
        pixels.mask(row.mask, row.row, pixels.crop(row.path, row.row).shape[:2])
    return table


def test_any_change_of_a_record_is_valid_or_refused(toy):
    path = toy / "record.json"
    text = path.read_bytes()

    @fuzz(max_examples=40)
    @given(st.data())
    def trial(data):
        other = json.dumps(changed(json.loads(text), data.draw), default=str).encode()
        path.write_bytes(damaged(text, data.draw) if data.draw(st.booleans()) else other)
        attempt(lambda: frames.load_frames(toy), toy)

    trial()


COLUMN = {
    "nulls": lambda values: values.where(np.arange(8) != 3, None),
    "texts": lambda values: values.astype(str) + "x",
    "numbers": lambda values: np.arange(8) + 0.5,
    "lists": lambda values: [[1, 2]] * 8,
    "huge": lambda values: [2**40] * 8,
    "negative": lambda values: [-1] * 8,
    "bytes": lambda values: [b"\xff\xfe"] * 8,
    "outside": lambda values: ["../../x.png"] * 8,
    "markup": lambda values: ["<b>"] * 8,
    "elsewhere": lambda values: ["videos/gone.npy"] * 8,
}


def test_any_change_of_a_column_is_valid_or_refused(toy):
    path, refused = toy / "frames.parquet", 0
    sound = pq.read_table(path).to_pandas()
    for column, change in itertools.product(frames.COLUMNS, COLUMN):
        table = sound.copy()
        table[column] = COLUMN[change](table[column].astype(object))
        with contextlib.suppress(pa.ArrowException):  # pandas cannot write it
            table.to_parquet(path)
        trees.recorded(toy)
        read = attempt(lambda: read_all(toy), toy)
        refused += read is None
        if read is not None:  # what passes has kept its meaning
            fake = read["method"] != "real"
            assert (read["label"] == fake).all() and not read[["video", "path", "row"]].isna().any(axis=None)
    assert refused > 80


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("label", 1, "'method': 'real', 'label': 1"),
        ("label", None, "Casting field 'label' with null values"),
        ("split", "tset", "'split': 'tset'"),
        ("row", -1, "'row': -1"),
        ("method", "=1+cmd|x", "title = '=1"),
        ("path", "/etc/passwd", "lies outside"),
    ],
)
def test_an_impossible_frame_is_named(toy, column, value, sentence):
    table = pq.read_table(toy / "frames.parquet").to_pandas().astype({column: object})
    table.loc[1, column] = value
    table.to_parquet(toy / "frames.parquet")
    with pytest.raises(DfnbError, match=r"is not the file that its record describes; delete frames\.parquet"):
        frames.load_frames(toy)
    trees.recorded(toy)
    with pytest.raises(DfnbError, match=sentence):
        frames.load_frames(toy)


def test_a_damaged_table_of_frames_is_found(toy):
    path = toy / "frames.parquet"
    content, sound = path.read_bytes(), frames.load_frames(toy)

    @fuzz(max_examples=30)
    @given(st.data())
    def trial(data):
        path.write_bytes(damaged(content, data.draw))
        read = attempt(lambda: frames.load_frames(toy), toy)
        assert read is None or read.astype(str).equals(sound.astype(str))

    trial()


@pytest.mark.parametrize("shape", [(4, 64, 8), (4, 32, 8), (4, 32, 2), (4, 16, 4), (4, 32), (4,)])
def test_a_mask_of_another_size_is_refused(toy, shape):
    np.save(toy / "videos/swap/masks.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DfnbError, match=r"a crop or mask of .*videos/swap is not the one that was prepared"):
        read_all(toy)


@pytest.mark.parametrize(
    "crops", [np.zeros((4, 32, 32, 3)), np.array([{}] * 4), np.zeros((4, 32), np.uint8), np.zeros(0)]
)
def test_crops_that_are_no_images_are_refused(toy, crops):
    np.save(toy / "videos/swap/frames.npy", crops)
    with pytest.raises(DfnbError, match=r"a crop or mask of .*videos/swap is not the one that was prepared"):
        read_all(toy)


# ---------------------------------------------------------------- scores


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A report of one line with one table, and its folder."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    folder = scores.report_folder("demo")
    table = pd.DataFrame(
        {"video": list("abcd"), "track": 0, "frame": 0, "cluster": list("abcd"), "label": [0, 1, 0, 1]}
    )
    table = table.assign(method=["real", "swap"] * 2, score=[0.1, 0.9, 0.4, 0.6])
    facts = {"line": "line", "seed": 0, "condition": "", "arm": "", "run": "xception-x-s0", "test_set": "x"}
    facts |= {"fingerprint": "f", "weights": None}
    path = folder / "scores" / "line@x.parquet"
    core.write_table(tmp_path / "x.parquet", table, facts)
    scores._packed(path, [(tmp_path / "x.parquet", facts)], None)
    parameters = {"paper": "xception", "train_set": "x", "seed": 0, "seen_methods": None, "settings": {}}
    run = SAID | {"parameters": parameters, "weights_sha256": "w", "outputs": {}, "log": SAID["log"] * 2}
    entry = {"name": "line", "paper": "xception", "group": "", "arm": "", "runs": {"xception-x-s0": run}, "jobs": {}}
    entry |= {"files": {"scores/line@x.parquet": core.sha256(path)}, "versions": {"x": "f"}}
    core.write_json(folder / "runs.json", {"line": entry})
    return folder


def read_report():
    """All that reads runs.json: of every line its scores, and what tables say of its runs."""
    found = Report("demo")
    lines = found.lines()
    if runs := [run for line in lines for run in line.runs]:  # without one there are no results, and so no table
        tables._overview(SimpleNamespace(report=found))
        figures.training_curves(runs)
        plt.close("all")
    assert len([*compare._training(lines)]) <= len(runs) and all(map(compare._facts, lines))
    return [found.read(line, test_set) for line in lines for test_set in found.test_sets(line)]


def test_any_change_of_a_report_is_valid_or_refused(report):
    content = core.read_json(report / "runs.json")
    assert len(read_report()) == 1

    @fuzz(max_examples=200)
    @given(st.data())
    def trial(data):
        core.write_json(report / "runs.json", changed(content, data.draw))
        attempt(read_report, report)

    trial()


def test_any_change_of_the_record_of_a_run_is_valid_or_refused(own_home):
    folder = own_home / "runs" / "own"
    parameters = {"paper": "xception", "train_set": "x", "seed": 0, "seen_methods": None, "settings": {}}
    content = SAID | {"parameters": parameters, "weights_sha256": "w", "outputs": {}}

    def opened():
        run = papers.Run.open("own")
        return run.id, run.settings, run.log.mean(), run.mean_mask(), *map(run.record["chosen"].get, ("epoch", "auc"))

    core.write_json(folder / "record.json", content)
    assert opened()[-1] == 0.8

    @fuzz(max_examples=200)
    @given(st.data())
    def trial(data):
        core.write_json(folder / "record.json", changed(content, data.draw))
        attempt(opened, folder)

    trial()


@pytest.mark.parametrize("name", ["../../../x", "/x", "..", ".x", "a/b", ""])
@pytest.mark.parametrize("place", ["runs", "jobs", "versions", "files"])
def test_a_foreign_report_writes_nothing_outside(report, name, place):
    content = core.read_json(report / "runs.json")
    record = {"parameters": {}, "outputs": {}, "run": "xception-x-s0"}
    content["line"][place] = {name: "f" if place in ("versions", "files") else record}
    if (place, name) != ("files", "a/b"):
        core.write_json(report / "runs.json", content)
        with pytest.raises(DfnbError, match="pattern"):
            scores.unpack("demo")
    with pytest.raises(DfnbError, match="pattern"):
        scores.report_folder("../x")


def test_a_damaged_table_of_scores_is_found(report):
    path, single = report / "scores" / "line@x.parquet", report.parent / "x.parquet"
    core.write_table(single, pd.read_parquet(path), {})
    content, of_single, sound = path.read_bytes(), single.read_bytes(), core.read_table(single)

    @fuzz(max_examples=50)
    @given(st.data())
    def trial(data):
        path.write_bytes(damaged(content, data.draw))
        attempt(read_report, report)
        single.write_bytes(damaged(of_single, data.draw))
        read = attempt(lambda: core.read_table(single), report)
        if read is not None:
            pd.testing.assert_frame_equal(read, sound)

    trial()


@pytest.mark.parametrize(
    "content", [b"", b"video,label\na,1", b"video,label,score\na,x,y", b"\xff\xfe\0", b"a\n" * 9, b'"' * 99]
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_scores_of_another_tool_are_valid_or_refused(report, content, suffix):
    path = report / "other" / "tool" / f"x.{suffix}"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DfnbError, match=rf"x\.{suffix} (.*needs columns|has 4 rows)") as error:
        read_report()
    assert "\n" not in str(error.value)


def test_a_damaged_mean_mask_is_found(tmp_path):
    run = papers.Run(tmp_path, {"parameters": {"train_set": "x"}})
    path = tmp_path / "mean_mask.parquet"
    core.write_table(path, pd.DataFrame(np.full((8, 8), 0.5)).rename(columns=str), {})
    content = path.read_bytes()
    assert (run.mean_mask() == np.full((8, 8), 0.5)).all()

    @fuzz(max_examples=30)
    @given(st.data())
    def trial(data):
        path.write_bytes(damaged(content, data.draw))
        found = attempt(run.mean_mask, tmp_path)
        assert found is None or (found == 0.5).all()

    trial()
    path.write_bytes(content[:-9])
    with pytest.raises(DfnbError, match=r"mean_mask\.parquet is not valid .*; delete it and make it again"):
        run.mean_mask()


@pytest.mark.parametrize("content", [None, b"", b"x" * 99, b"\x93NUMPY\x01\0v\0{'descr': '<f2'"])
def test_damaged_maps_are_found(tmp_path, monkeypatch, content):
    monkeypatch.setattr(maps, "describe", lambda *given: {})
    run, path = papers.Run(tmp_path, {}), tmp_path / "attribution" / f"edges-{core.digest({'map': 'edges'})}.npz"
    path.parent.mkdir()
    np.savez(path, np.ones((1, 4, 4), np.float16))
    assert (maps.of(run, pd.DataFrame(), "edges") == 1).all()
    flipped = path.read_bytes().replace(b"\0<", b"\0=", 1)
    path.write_bytes(flipped if content is None else content)
    with pytest.raises(DfnbError, match=r"edges-\w+\.npz is not valid as maps .*; delete it") as error:
        maps.of(run, pd.DataFrame(), "edges")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"a,b\n1,2\n", b"paper,method,value\nLAE,x,much\n", b"a\nb,c\n", b'"' * 99]
)
def test_malformed_published_figures_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    core.write_bytes(tmp_path / "data_manifest" / "published.csv", content)
    with pytest.raises(DfnbError, match=r"published\.csv is not valid as a table of figures .*; correct it") as error:
        compare.published()
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- names and texts


def test_no_cell_is_a_formula_and_numbers_stay_numbers():
    cells = ["=1+1", "@x", "+cmd|x", "-x", "\tx", "+.012 [-.1, +.2]", "-3", "−.1", "a=b"]
    expected = ["'=1+1", "'@x", "'+cmd|x", "'-x", "'\tx", "+.012 [-.1, +.2]", "-3", "−.1", "a=b"]
    assert core.csv(pd.DataFrame({"x": cells})).splitlines() == ["x", *(f'"{x}"' if "," in x else x for x in expected)]


def test_names_that_cannot_be_stored_are_quarantined_and_the_rest_is_prepared(own_home):
    tree = own_home / "tree"
    good = trees.real(tree / "real/good é.mp4", 1)
    trees.fake(tree / "fake/swap/good é.mp4", 1)
    odd = [
        b"caf\xe9.mp4",
        b"a\\b.mp4",
        b"a\nb.mp4",
        b"x" * 245 + b".mp4",
        ("é" * 120).encode() + b".mp4",
        b"=1+1\t.mp4",
    ]
    for name in odd:
        shutil.copyfile(good, tree / "real" / os.fsdecode(name))
    found, missing = prepare.folder_sources(tree)
    for _ in range(2):  # made, then found to be done
        record = prepare.prepare("mine", found, detector=trees.Centre(), workers=1, progress=False, missing=missing)
    assert {name: part["videos"] for name, part in record["n"].items()} == {"test/real": 1, "test/swap": 1}
    assert len(record["quarantine"]) == len(odd) and all("rename it" in row["reason"] for row in record["quarantine"])
    assert set(frames.load_frames("mine")["video"]) == {"real/good é", "fake/swap/good é"}
    text = (own_home / "datasets/mine/quarantine.csv").read_text(encoding="utf-8")
    assert r"caf\udce9.mp4" in text and "'=1+1" in text
    with pytest.raises(DfnbError, match=r"its method: title = '=cmd'"):
        prepare.prepare("other", [dataclasses.replace(found[0], method="=cmd")], detector=trees.Centre())


def test_images_used_in_place_may_have_odd_names(own_home):
    for name in (b"real/1.png", b"real/caf\xe9.png", b"fake/swap/2.png"):
        trees.image(own_home / "tree" / os.fsdecode(name), np.zeros((32, 32, 3), np.uint8))
    found, missing = prepare.folder_sources(own_home / "tree", crops=True)
    record = prepare.prepare("mine", found, detector=trees.Centre(), workers=1, progress=False, missing=missing)
    assert record["n"]["test/real"]["videos"] == 1 and len(record["quarantine"]) == 1


@pytest.mark.parametrize("name", ["../x", "..", "a b", "/x"])
def test_a_dataset_of_the_benchmark_has_a_plain_name(own_home, name):
    with pytest.raises(DfnbError, match=r"name = .*pattern"):
        synth.build(name, synth.preset("smoke-a"))
    assert not (own_home / "datasets").exists()


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "=cmd", "`x`", "$x$", "a|b"])
def test_a_tool_whose_name_is_markup_is_refused(report, name):
    (report / "other" / name).mkdir(parents=True)
    with pytest.raises(DfnbError, match="another tool: title = "):
        Report("demo").lines()


# ---------------------------------------------------------------- the command line


def refused(*words):
    """What the command says of words that it must refuse: in a sentence, or as wrong usage."""
    done = CliRunner().invoke(cli.app, [*words])
    assert isinstance(done.exception, SystemExit) and done.exit_code in (1, 2), done.exception
    assert done.exit_code == 2 or done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("name", ["x" * 300, "../x", "", "a\nb"])
def test_a_profile_that_no_file_can_have_the_name_of_is_refused(own_home, name):
    assert refused("run", name).startswith("dfnb: dfnb run: name = ")
    assert not (own_home / "runs").exists()


def test_a_pipe_among_the_profiles_is_not_read(own_home):
    """It would be read for ever."""
    os.mkfifo(own_home / "notebooks" / "profiles" / "pipe.yaml")
    os.mkfifo(own_home / "data_manifest" / "pipe.yaml")
    assert "there is no profile 'pipe'" in refused("run", "pipe")
    assert "pipe" not in core.described("synth") and core.code.__wrapped__()


@pytest.mark.parametrize("paper", papers.names())
def test_training_without_end_is_refused(paper):
    with pytest.raises(DfnbError, match="epochs = 1000"):
        papers.module(paper).Settings.check({"epochs": 10**30}, "a profile")


@pytest.mark.parametrize("number", ["0", "-1", "100000000000000000000"])
def test_an_impossible_number_of_processes_is_refused(own_home, number):
    assert "--workers" in refused("synth", "smoke-b", "--workers", number)
    assert "--cores" in refused("run", "mine", "--cores", "-1")
    assert not (own_home / "datasets").exists()


@pytest.mark.parametrize(
    "value", ["[", "&a [*a]", "!!python/name:os.system x", "\x07", "[" * 9999, "9" * 9999, "2020-13-40"]
)
def test_a_setting_that_is_no_yaml_is_refused(own_home, value):
    (own_home / "tree").mkdir()
    trees.image(own_home / "tree" / "real" / "1.png", np.zeros((32, 32, 3), np.uint8))
    said = refused("prepare", str(own_home / "tree"), "--set", f"size={value}")
    assert said.startswith("dfnb: --set size=") and said.endswith("; write KEY=VALUE, as in --set size=256\n")
    assert "write KEY=VALUE" in refused("prepare", str(own_home / "tree"), "--set", "size")
    assert "stride" in refused("prepare", str(own_home / "tree"), "--set", "stride=99999999999999999999999")


@pytest.mark.parametrize("kind", ["pipe", "loop", "dangling", "device", "denied"])
def test_what_is_no_file_is_left_out_and_said(own_home, kind):
    """A pipe or a device would be read for ever."""
    path = own_home / "tree" / "real" / "odd.mp4"
    trees.image(path.with_name("good.png"), np.zeros((32, 32, 3), np.uint8))
    if kind == "pipe":
        os.mkfifo(path)
    else:
        odd = {"loop": path, "dangling": "nowhere", "device": "/dev/zero", "denied": "/proc/1/cwd/x"}
        path.symlink_to(odd[kind])
    for crops in (False, True):
        found, missing = prepare.folder_sources(own_home / "tree", crops=crops)
        assert [source.video for source in found] == ["real/good"]
        assert missing == ["links to folders without --links, or no files; left out: 1 (real/odd.mp4)"]


# ---------------------------------------------------------------- papers of a home, runs and reports

PAPER = 'from dfnb import papers\nPAPER = papers.Paper("Own", "12_own", "Own", "#000000", "o")\n'
ALL = "VERSION = 1\nclass Settings(papers.Settings): pass\nclass Network(papers.Network): pass\n"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def (", "SyntaxError"),
        ("x = 1\0", "null bytes"),
        ("1 / 0", "ZeroDivisionError"),
        ("import no_such_module", "No module named"),
        ("PAPER = None\n", "TypeError"),
        ("PAPER = ('a', 'b')\n", "missing 3 required"),
        (PAPER, "no attribute 'VERSION'"),
        (PAPER + ALL.replace("class Settings", "class Other"), "no attribute 'Settings'"),
        (PAPER + ALL.replace("class Network", "class Other"), "no attribute 'Network'"),
    ],
)
def test_a_paper_that_lacks_what_it_must_declare_is_named(tmp_path, monkeypatch, source, problem):
    (tmp_path / "own_paper.py").write_text(source)
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(tmp_path)])
    try:
        with pytest.raises(
            DfnbError, match=rf"own_paper\.py is not valid as a paper \(.*{problem}.*; correct it"
        ) as error:
            papers.module("xception")
        assert "\n" not in str(error.value)
    finally:
        sys.modules.pop("dfnb.papers.own_paper", None)


def test_what_is_no_run_is_not_taken_for_one(toy, tmp_path):
    """A dataset or a job has a record too; a pipe would be read for ever."""
    core.write_record(tmp_path / "runs" / "notebooks", {}, [])
    os.mkfifo(tmp_path / "record.json")
    for folder in (toy, "notebooks", tmp_path):
        with pytest.raises(DfnbError, match="holds no finished run"):
            papers.Run.open(folder)


def test_weights_that_are_a_folder_are_refused(tmp_path):
    (tmp_path / "best.safetensors").mkdir()
    with pytest.raises(DfnbError, match=r"best\.safetensors is not what the record describes"):
        papers.Run(tmp_path, {"weights_sha256": "0"}).network()


def test_a_report_of_a_paper_that_is_not_here_says_so(report):
    content = core.read_json(report / "runs.json")
    content["line"]["paper"] = "gone"
    core.write_json(report / "runs.json", content)
    with pytest.raises(DfnbError, match="there is no paper 'gone'; known are xception"):
        read_report()


@pytest.mark.parametrize("facts", ["x", "", "{", "5"])
def test_a_packed_table_with_facts_that_are_none_is_refused(report, facts):
    path = report / "scores" / "line@x.parquet"
    pd.read_parquet(path).assign(facts=facts).to_parquet(path)
    content = core.read_json(report / "runs.json")
    content["line"]["files"] = {"scores/line@x.parquet": core.sha256(path)}
    core.write_json(report / "runs.json", content)
    with pytest.raises(
        DfnbError, match=r"line@x\.parquet is not valid as a table of a report .*; pack the report again"
    ):
        read_report()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_packed_table_that_is_no_file_is_refused(report, kind):
    path = report / "scores" / "line@x.parquet"
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(DfnbError, match="is missing or is not the file"):
        read_report()


@pytest.mark.parametrize(
    "note", ["", "[]", "{}", '{"files": 5}', '{"files": {"/etc/passwd": 1}}', '{"files": {"a\\u0000": 1}}']
)
def test_a_damaged_note_of_what_is_done_says_nothing(own_home, note):
    path = core.write_bytes(own_home / "runs" / "notebooks" / "mine.json", note.encode())
    assert not workflow.unchanged(path)
    core.write_json(path, workflow.as_seen([]))
    assert workflow.unchanged(path)


def test_a_span_of_qualities_may_be_turned():
    """As every other span of the benchmark's settings."""
    images, draw = [np.full((8, 8, 3), 0.5, np.float32)] * 2, partial(core.rng, "test")
    deliver = [forgeries.deliver(images, forgeries.Delivery(jpeg=span), draw()) for span in ((30, 50), (50, 30))]
    assert (deliver[0] == deliver[1]).all()


@pytest.mark.parametrize(
    ("schema", "name"), [(synth.Settings, "frames"), (synth.Settings, "size"), (prepare.Settings, "stride")]
)
def test_a_number_that_no_memory_holds_is_refused(schema, name):
    with pytest.raises(DfnbError, match=f"x.yaml: {name} = 1000000000: input should be less than"):
        schema.check({name: 10**9}, "x.yaml")


@pytest.mark.parametrize("kind", ["loop", "long", "file"])
def test_a_root_that_is_no_folder_is_wrong_usage(own_home, kind):
    path = own_home / ("x" * 300 if kind == "long" else "x")
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "file":
        path.touch()
    for words in (["data"], ["prepare", "uadfv"]):
        assert "--root" in refused(*words, "--root", str(path))
