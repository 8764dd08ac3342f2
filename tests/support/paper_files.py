"""Papers that are no files of the collection: read from a path, or installed as entry points."""

import importlib.util
import re
import sys
from contextlib import contextmanager

import pytest
from conftest import CHECKOUT

from dfnb import papers

# The example of docs/add-a-paper.md, to which the template of a notebook belongs.
EXAMPLE = re.search(
    r"```python\n# dfnb/papers/frequency\.py\n(.*?)```",
    (CHECKOUT / "docs" / "add-a-paper.md").read_text(encoding="utf-8"),
    re.DOTALL,
)[1]


def read(path):
    """The module in a file, under a name that no package has."""
    spec = importlib.util.spec_from_file_location(f"file_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks for the names in annotations
    spec.loader.exec_module(module)
    return module


@contextmanager
def installed(folder, **sources):
    """Papers with these names and sources, as an installed package of the reader's own has them."""
    package = folder / "my_papers"
    package.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    about = folder / "my_papers-0.1.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-papers\nVersion: 0.1\n")
    points = [f"{name} = my_papers.{name}" for name in sources]
    (about / "entry_points.txt").write_text("\n".join(["[dfnb.papers]", *points]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(sys, "dont_write_bytecode", True)  # two files of one second may differ
        patch.setenv("PYTHONPATH", f"{folder}:{CHECKOUT}")  # of kernels
        forget()
        try:
            yield
        finally:
            forget()


def forget():
    """Let papers be found and imported again, as in a new process."""
    papers.modules.cache_clear()
    papers._digest.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_papers"]:
        del sys.modules[name]
    importlib.invalidate_caches()
