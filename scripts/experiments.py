"""Write ``docs/experiments.md`` and the table of README from ``data_manifest/experiments.yaml``.

``python scripts/experiments.py`` measures every number again from the scores of the committed
reports.
"""

import re
from pathlib import Path

from dfnb.report import experiments

CHECKOUT = Path(__file__).resolve().parent.parent
HEAD = """# Every experiment of the papers

What each paper reports, as far as it is known; what we ran; and the command that runs it on the
published data, once [they are prepared](../data_manifest/README.md). The texts of the papers
were not available to us, so experiments that only they report may be missing. **None of the
published numbers is reproduced**: the datasets are gated, and the published networks were never
run on them.

Ours are of small networks on drawn faces, and are not to be compared with published figures: a
value or a difference, its 95 % interval over people and seeds (across also over datasets; with
one seed not over seeds), and its number of seeds. AUC is of videos, accuracy of frames.
*within*, *across* and the other words are in the [glossary](glossary.md). The numbers are from
[study-bed](../reports/study-bed) and [study-papers](../reports/study-papers), which `dfnb report
study-bed` and `dfnb report study-papers` make again from the scores;
[experiments.yaml](../data_manifest/experiments.yaml) says which numbers they are, and `python
scripts/experiments.py` writes this page.
"""


def document() -> str:
    """The text of ``docs/experiments.md``: a table per paper."""
    parts = [HEAD]
    methods = {each.paper: each.method for each in experiments.experiments()}
    for paper, method in methods.items():
        table = experiments.matrix(paper).droplevel("paper").to_markdown()
        parts.append(f"## {paper}\n\nThe network and its losses: {method}.\n\n{table}\n")
    return "\n".join(parts)


def readme(text: str) -> str:
    """README with the overview in place of its table that begins with ``| experiment``."""
    table = experiments.overview().to_markdown()
    return re.sub(r"\| experiment .*\n(\|.*\n)+", lambda _: f"{table}\n", text)


if __name__ == "__main__":
    (CHECKOUT / "docs" / "experiments.md").write_text(document(), encoding="utf-8")
    path = CHECKOUT / "README.md"
    path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")
