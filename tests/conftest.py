"""Fixtures that several tests share."""

import gc
import os
import socket
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

sys.path += [str(CHECKOUT / "scripts"), str(CHECKOUT / "tests" / "support")]
# The longest first: else one worker would wait for the other at the end.
LONGEST = (
    "test_notebooks",
    "test_golden",
    "test_miniature",
    "test_embedded",
    "test_cli",
    "test_all_notebooks",
    "test_benchmarks",
    "test_prepare",
    "test_train",
    "test_experiments",
    "test_coverage",
    "test_project",
)


def pytest_collection_modifyitems(items):
    """The files of LONGEST start in this order, before all others."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish():
    """What is imported stays: IPython, which looks for garbage before each notebook, skips it."""
    gc.freeze()


def pytest_unconfigure():
    """End as if nothing had been frozen: else libraries would report what they leave behind."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Torch as detectors use it; imported here, because what starts the workers needs none."""
    import torch

    os.environ["DFNB_THREADS"] = "1"  # also of the processes that tests start
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def apart():
    """Calls a function in a process that ends with the module: so its memory is free again.

    Networks of published size take gigabytes, which a worker would keep for all other tests.
    """
    import torch

    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """No test of this process reaches another machine, so that all pass where there is none."""
    connect = socket.socket.connect

    def refuse(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test connects to {address[0]}; give it a file of its own")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="session")
def checkout():
    """The root of the project."""
    return CHECKOUT


@pytest.fixture(scope="session")
def smoke_home(tmp_path_factory):
    """A home with the two smoke datasets, made once."""
    from facesets import embedded, sources

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        for name in ("smoke-a", "smoke-b"):
            embedded.build(name, sources.preset(name), workers=1)
    return home


@pytest.fixture
def home(smoke_home, monkeypatch):
    """The smoke home as ``DFNB_HOME`` of one test."""
    monkeypatch.setenv("DFNB_HOME", str(smoke_home))
    return smoke_home


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """A home of the test's own as ``DFNB_HOME``, without anything."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def own_home(smoke_home, empty_home):
    """A home of the test's own, with the two smoke datasets."""
    (empty_home / "datasets").symlink_to(smoke_home / "datasets")
    return empty_home


@pytest.fixture(scope="module")
def figures_without_a_screen():
    """The backend of matplotlib that opens no window; figures are made for no screen or printer.

    Saved ones have few pixels, and their PDF is empty: tests/results/test_figures.py saves whole
    ones.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from dfnb.results import figures

    def savefig(figure, file, format, **options):
        if format == "png":
            whole(figure, file, format=format, **options)

    before = mpl.get_backend()
    mpl.use("Agg")
    whole = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 40)
        patch.setattr(figures, "set_matplotlib_formats", lambda *_, **__: None)
        patch.setattr(Figure, "savefig", savefig)
        yield
    mpl.use(before)


@pytest.fixture(scope="session")
def detector():
    """The files of the face detector and, beside it, of the face mesh."""
    from facesets.faces import MESH

    file = Path(os.environ.get("DFNB_DETECTOR", ""))
    if not (file.is_file() and file.with_name(MESH).is_file()):
        pytest.skip(f"needs DFNB_DETECTOR (YuNet's .onnx), and beside it {MESH}")


@pytest.fixture(scope="session")
def samples():
    """The folder of real portraits and videos."""
    folder = os.environ.get("DFNB_REAL_DATA")
    if not folder or not os.environ.get("DFNB_DETECTOR"):
        pytest.skip("needs DFNB_REAL_DATA (portraits/, videos/) and DFNB_DETECTOR (YuNet's .onnx)")
    return Path(folder)
