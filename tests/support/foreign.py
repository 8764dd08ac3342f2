"""Files of others in and around what dfnb writes: no command may change or remove them."""

NAMES = (
    "notes.txt",
    ".hidden",
    ".mine.0a1b2c3d.txt",  # as a temporary file may be called
    ".mine.dfnb-backup",
    ".folder/frame.0.png",
    "mine/000.png",
)


def scatter(*folders):
    """Write files into each folder; returns their contents by path."""
    contents = {}
    for folder in folders:
        for name in NAMES:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            contents[path] = f"mine: {path}".encode()
            path.write_bytes(contents[path])
    return contents


def check_untouched(contents):
    """Every file of :func:`scatter`, or of another such dictionary, has its content."""
    assert contents
    for path, content in contents.items():
        assert path.is_file() and path.read_bytes() == content, path


def contents_of(*folders):
    """The contents of all files below the folders, by path."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths}
