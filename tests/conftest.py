import sys
from pathlib import Path

import pytest
import torch

from dfnb import synth

torch.set_num_threads(1)
sys.path += [str(Path(__file__).resolve().parent.parent / folder) for folder in ("scripts", "workflow")]


@pytest.fixture(scope="session")
def smoke_home(tmp_path_factory):
    """A home with the two smoke datasets, made once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        for name in ("smoke-a", "smoke-b"):
            synth.build(name, progress=False)
    return home


@pytest.fixture
def home(smoke_home, monkeypatch):
    """The smoke home as ``DFNB_HOME`` of one test."""
    monkeypatch.setenv("DFNB_HOME", str(smoke_home))
    return smoke_home


@pytest.fixture(scope="session")
def checkout():
    """The root of the project."""
    return Path(__file__).resolve().parent.parent
