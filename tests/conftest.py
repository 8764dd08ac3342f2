import os
from pathlib import Path

import pytest
import torch

from dfnb import jobs as run

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def smoke_home(tmp_path_factory):
    """A home with the two smoke datasets, made once."""
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("DFNB_HOME")
    os.environ["DFNB_HOME"] = str(home)
    run.datasets("smoke-a", "smoke-b")
    if before is None:
        del os.environ["DFNB_HOME"]
    else:
        os.environ["DFNB_HOME"] = before
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
