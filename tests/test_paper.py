"""``make test-paper FILE=my_paper.py`` checks a file; the suite checks the project's."""

import os
from pathlib import Path

import paper_check
import paper_files
import pytest
import torch

from dfnb import papers

TEMPLATE = "frequency.py"  # the example of docs/add-a-paper.md
FILE = os.environ.get("DFNB_PAPER")
FILES = [FILE] if FILE else [*(module.__file__ for module in papers.modules().values()), TEMPLATE]


@pytest.mark.parametrize("file", FILES)
def test_a_paper_keeps_the_contract(file, tmp_path):
    path = Path(file)
    if file == TEMPLATE:
        path = tmp_path / TEMPLATE
        path.write_text(paper_files.EXAMPLE, encoding="utf-8")
    state = torch.random.get_rng_state()
    paper_check.check(paper_files.read(path))
    assert torch.equal(torch.random.get_rng_state(), state)
