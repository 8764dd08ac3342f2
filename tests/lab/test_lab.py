"""Every notebook as a reader opens it: by ``make lab``, and Run > Run All Cells, with its
defaults.

``make test-lab`` runs it, ``make test`` does not: it needs chromium and playwright, and minutes per
notebook the first time. What the reader saw lies in ``screenshots/``. ``DFNB_LAB_SECONDS`` is the
time limit per notebook.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from lab import START_S, served

CHECKOUT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in (CHECKOUT / "notebooks").glob("*.ipynb"))
SECONDS = int(os.environ.get("DFNB_LAB_SECONDS", "1800"))
WIDTH, HEIGHT = 1280, 15_000  # of a screenshot; chromium draws no more than 16,384 pixels
NEVER = re.compile(r"\b[A-Z]\w*Warning\b|\bWARNING\b|Traceback \(most recent")
DRAWS = re.compile(r"\b(?:pictures|report)\.(?:\w*panel|figure)\(|training_curves\(")
# no news, no update check; all cells in the page, so that all outputs can be looked at
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}

READY = """() => {
  const session = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return session?.isReady && session.session?.kernel?.status === "idle";
}"""
CELLS = """() => {
  const {widgets} = window.jupyterapp.shell.currentWidget.content;
  const cells = widgets.filter(cell => cell.model.type === "code");
  return cells.map(({model}) => ({count: model.executionCount, outputs: model.outputs.toJSON()}));
}"""
ENDED = f"""() => {{
  const cells = ({CELLS})();
  const failed = cell => cell.outputs.some(output => output.output_type === "error");
  return cells.some(failed) || (({READY})() && cells.every(cell => cell.count !== null));
}}"""
PICTURES = """async () => {
  const images = [...document.querySelectorAll(".jp-OutputArea-output img")];
  await Promise.allSettled(images.map(image => image.decode()));
  return images.map(image => image.naturalWidth);
}"""
LINKS = """() => [...document.querySelectorAll(".jp-NotebookPanel .jp-MarkdownCell a[href]")]
  .filter(link => link.origin === location.origin)
  .filter(link => !link.getAttribute("href").startsWith("#")).map(link => link.href)"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the checkout without anything that was made in it, so that links lead where they
    lead for a reader.
    """
    home = tmp_path_factory.mktemp("lab") / "dfnb"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (CHECKOUT / name).exists():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / name, home / name)
    return home


@pytest.fixture(scope="module")
def lab(browser, home):
    """The address of JupyterLab in the home, with settings of its own; ``{}`` stands for the
    notebook.
    """
    own = home.parent
    for name, values in SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    places = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    places |= {f"JUPYTER_{name}_DIR": name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = (
        os.environ
        | {name: str(own / folder) for name, folder in places.items()}
        | {"DFNB_HOME": str(home)}
    )
    option = "--LabApp.expose_app_in_browser=True"
    with served(home, own, environment, option) as (address, token):
        yield f"{address}/lab/tree/lab/{{}}.ipynb?reset&token={token}"


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, or any other of that name."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail(
            "there is no chromium on the PATH; install it (Debian: apt-get install chromium)",
            pytrace=False,
        )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail(
            "playwright is not installed; `make test-lab` installs it before it runs these tests",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": WIDTH, "height": 800})
    page.set_default_timeout(START_S * 1000)
    yield page
    page.close()


def run_all(page) -> list[dict]:
    """Choose Run > Run All Cells; returns the outputs of all code cells when the last one has
    ended or one has failed.
    """
    page.wait_for_function(READY)
    page.locator(".lm-MenuBar-item", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells")).click()
    page.wait_for_function(ENDED, timeout=SECONDS * 1000, polling=1000)
    return [output for cell in page.evaluate(CELLS) for output in cell["outputs"]]


def look(page, name: str) -> None:
    """Save a screenshot of the notebook."""
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 0)")
    page.wait_for_timeout(1000)
    page.screenshot(path=CHECKOUT / "screenshots" / f"{name}.png")


def texts(output: dict) -> str:
    """All text of an output."""
    values = [
        output.get("text", ""),
        *(value for kind, value in output.get("data", {}).items() if "image" not in kind),
    ]
    return "\n".join("".join(value) if isinstance(value, list) else str(value) for value in values)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all_shows_figures_and_neither_error_nor_warning(name, home, lab, page):
    source = json.loads((home / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    page.goto(lab.format(name))
    outputs = run_all(page)
    look(page, name)
    failed = [output for output in outputs if output["output_type"] == "error"]
    assert not failed, "\n".join(failed[0]["traceback"])
    warned = [text for text in map(texts, outputs) if NEVER.search(text)]
    assert not warned, warned[0]
    kinds = [
        kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")
    ]
    widths = page.evaluate(PICTURES)
    assert len(widths) >= len(kinds) and all(widths)
    draws = any(
        DRAWS.search("".join(cell["source"])) for cell in source if cell["cell_type"] == "code"
    )
    # which shows pictures of a report, where there is one
    assert kinds or not draws or name == "00_start_here"
    for link in dict.fromkeys(page.evaluate(LINKS)):
        assert page.request.get(link).ok, link
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
