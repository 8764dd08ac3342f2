"""The page of a report: its tables and figures in reading order, one HTML file that needs no network."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Template

from dfnb import core
from dfnb.scores import report_folder


def write(profile: str, order: Sequence[str]) -> Path:
    """Write ``index.html``: tables, then figures, with their captions, those of ``order`` first; links to the notebooks."""
    report, items = report_folder(profile), []
    places = {name: place for place, name in enumerate(order)}
    for folder in ("tables", "figures"):
        captions = (report / folder).glob("*.txt")
        for path in sorted(captions, key=lambda path: (places.get(path.stem, len(places)), path)):
            cells = path.with_suffix(".csv").read_text(encoding="utf-8") if folder == "tables" else ""
            rows = list(csv.reader(io.StringIO(cells, newline="")))
            caption = path.read_text(encoding="utf-8")
            items.append({"folder": folder, "name": path.stem, "rows": rows, "caption": caption})
    notebooks = [path.stem for path in sorted((report / "notebooks").glob("*.ipynb"))]
    template = Template(Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8"), autoescape=True)
    return core.write_text(report / "index.html", template.render(profile=profile, items=items, notebooks=notebooks))
