"""Files and folders are replaced whole, or not at all."""

import pytest

from dfnb.checks import DfnbError
from dfnb.files import atomic


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
