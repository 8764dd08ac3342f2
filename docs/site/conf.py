"""Configuration of the site for Sphinx. ``make book`` builds it from what ``stage.py`` wrote.

Nothing is executed: the pages show the outputs of the committed notebooks.
"""

import pkgutil
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import dfnb

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Repository", "")
# The package ships all of MathJax; this one file draws the equations, also without a network.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"

project = PROJECT["name"]
author = "The dfnb contributors"
release = PROJECT["version"]
extensions = [
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

# All at once: autodoc adds annotations to the classes that it documents, and pydantic then refuses
# subclasses of them in modules that are imported later.
for module in pkgutil.walk_packages(dfnb.__path__, "dfnb."):
    import_module(module.name)

nb_execution_mode = "off"
myst_enable_extensions = ["attrs_block", "dollarmath"]
myst_heading_anchors = 3

# Paths of modules are relative to this file, destinations to the source of the site.
apidoc_modules = [
    {
        "path": "../../dfnb",
        "destination": "api",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members"},
    }
]
suppress_warnings = ["ref.python"]  # each paper has its own Settings and Network
autodoc_member_order = "bysource"
# A function of dfnb.report is documented in its module, which has the same name.
autodoc_default_options = {"ignore-module-all": True}
napoleon_use_ivar = True  # else an attribute is documented twice, by its class and by itself

html_theme = "sphinx_book_theme"
html_title = PROJECT["name"]
html_static_path = ["site.css", str(MATHJAX)]
html_css_files = ["site.css"]
html_copy_source = bool(REPOSITORY)
mathjax_path = MATHJAX.name
html_theme_options = {
    "navbar_persistent": [],  # else there are two search bars
    "show_navbar_depth": 1,
    "show_toc_level": 2,
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": "main",
        "path_to_docs": "",  # so that notebooks/NN.ipynb opens the clean source, not the executed
        "use_repository_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }
