"""Files and folders are replaced whole, or not at all."""

import itertools
import multiprocessing

import numpy as np
import pandas as pd
import pytest

from facesets.checks import DfnbError
from facesets.files import atomic, home, read_table, write_table


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("before", "after"):
        with atomic(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "folder",
        "folder/after",
    ]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "kept").write_text("kept")
    replace = type(path).replace

    def failing(self, target):
        if target == path and self.suffix != ".old":
            raise PermissionError("no")
        return replace(self, target)

    monkeypatch.setattr(type(path), "replace", failing)
    said = pytest.raises(DfnbError, match="what was there before is unchanged")
    with said, atomic(path) as temporary:
        temporary.mkdir()
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]
    assert (path / "kept").read_text() == "kept"


def test_a_home_that_nobody_named_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DFNB_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert home() == home() == tmp_path
    assert capsys.readouterr().err.count(str(tmp_path)) == 1
    (tmp_path / "data_manifest").mkdir()
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert home() == tmp_path
    monkeypatch.setenv("DFNB_HOME", str(tmp_path / "named"))
    assert home() == tmp_path / "named" and not capsys.readouterr().err


def test_a_table_is_read_whole_while_another_process_replaces_it(tmp_path):
    path = tmp_path / "x.parquet"
    values = [np.random.default_rng(k).integers(0, 9 + 50 * k, 200 + 37 * k) for k in range(3)]
    tables = [pd.DataFrame({"a": each.astype(str), "b": each}) for each in values]
    write_table(path, tables[0], {"n": len(tables[0])})

    def replace_for_ever():
        for table in itertools.cycle(tables):
            write_table(path, table, {"n": len(table)})

    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=replace_for_ever, daemon=True)
    process.start()
    try:
        read = [read_table(path, ["a"], ["a", "b"]) for _ in range(300)]
    finally:
        process.kill()
    lengths = {len(rows) for _, rows in read}
    assert len(lengths) > 1 and lengths <= {*map(len, tables)}
    assert all(metadata == {"n": len(rows)} for metadata, rows in read)  # of one version
