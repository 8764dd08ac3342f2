"""Extension of Sphinx: notebooks are folded on the site as they are in JupyterLab."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def prepare(app: "Sphinx", name: str, source: list[str]) -> None:
    """Fold what JupyterLab folds, and give pictures their alternative text; changes ``source``.

    myst-nb reads neither from where Jupyter has them: it wants tags, and one text for all pictures
    of a cell.

    Args:
        app: The application of Sphinx.
        name: The path of the page in the checkout, without its suffix.
        source: The text of its file, the only element.
    """
    if "notebooks/" not in name:
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            metadata = cell["metadata"]
            metadata["tags"] = [*metadata.get("tags", []), *folds(metadata)]
            if texts := alternative_texts(cell):
                metadata["mystnb"] = {"image": {"alt": " ".join(texts)}}
    source[0] = json.dumps(notebook)


def folds(metadata: dict[str, Any]) -> list[str]:
    """The tag by which myst-nb folds a code cell as Jupyter does, in a list; empty without one."""
    jupyter = metadata.get("jupyter", {})
    parts = [part for part in ("source", "outputs") if jupyter.get(f"{part}_hidden")]
    if "solution" in metadata.get("tags", []) or len(parts) == 2:
        return ["hide-cell"]
    return {"source": ["hide-input"], "outputs": ["hide-output"]}[parts[0]] if parts else []


def alternative_texts(cell: dict[str, Any]) -> list[str]:
    """The different alternative texts of a cell's pictures, in their order."""
    texts = []
    for output in cell["outputs"]:
        for details in output.get("metadata", {}).values():
            if isinstance(details, dict) and "alt" in details:
                texts.append(details["alt"])
    return list(dict.fromkeys(texts))


def setup(app: "Sphinx") -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True}
