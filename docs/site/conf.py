"""Configuration of the site for Sphinx: its source is the checkout itself, ``make book`` builds it.

Nothing is executed: the pages of notebooks are without outputs.
"""

import pkgutil
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import dfnb

SITE = Path(__file__).resolve().parent
sys.path.insert(0, str(SITE))  # for the extension executed
PROJECT = tomllib.loads((SITE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The package ships all of MathJax; this one file draws the equations, also without a network.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"

project = PROJECT["name"]
author = "The dfnb contributors"
release = PROJECT["version"]
extensions = [
    "executed",
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

root_doc = "docs/site/index"
include_patterns = [
    "*.md",
    "data_manifest/claims/README.md",
    "docs/**",
    "reports/README.md",
    "reports/study*/README.md",
    "notebooks/*.ipynb",
    "reports/study*/tables/*.md",
    "tests/golden/README.md",
]
exclude_patterns = ["docs/_build", ".*", "datasets", "lab", "runs"]

nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = [
    "ref.python",  # each paper has its own Settings and Network
    "myst.xref_missing",  # folders, to which files of the repository link, have no page
]

# Paths of modules are relative to this file, destinations to the source of the site.
apidoc_modules = [
    {
        "path": "../../dfnb",
        "destination": "docs/api/dfnb",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members"},
    }
]
autodoc_member_order = "bysource"
# A function of dfnb.results is documented in its module, which has the same name.
autodoc_default_options = {"ignore-module-all": True}
napoleon_use_ivar = True  # else an attribute is documented twice, by its class and by itself

html_theme = "sphinx_book_theme"
html_title = PROJECT["name"]
html_static_path = ["site.css", str(MATHJAX)]
html_extra_path = ["index.html"]  # leads to root_doc
html_css_files = ["site.css"]
html_copy_source = False
mathjax_path = MATHJAX.name
html_theme_options = {
    "navbar_persistent": [],  # else there are two search bars
    "show_navbar_depth": 1,
    "show_toc_level": 2,
}
