"""What is installed from the network for a release: the list of ``environment.yml`` alone, and the
oldest versions that ``pyproject.toml`` allows, each into an empty environment.

Several GB are fetched, so the suite leaves it out: ``make test-release``. With conda, mamba or
micromamba the file is given to it as users do; without one, its packages, which have the same names
on PyPI, go into an empty virtual environment.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]


def call(*command, **options) -> str:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DFNB_HOME")
    }
    done = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def installed(folder: Path) -> Path:
    """The Python of a new environment in which nothing lies but what environment.yml lists."""
    file = CHECKOUT / "environment.yml"
    for conda in filter(shutil.which, ("micromamba", "mamba", "conda")):
        create = ["create", "-y"] if conda == "micromamba" else ["env", "create", "-y"]
        call(conda, *create, "-p", folder, "-f", file, cwd=CHECKOUT)
        return folder / "bin" / "python"
    listed = yaml.safe_load(file.read_text())["dependencies"]
    names = [
        entry
        for entry in listed
        if isinstance(entry, str) and not entry.startswith(("python>", "pip"))
    ]
    by_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    requirements = folder.with_suffix(".txt")
    requirements.write_text("\n".join([*names, *by_pip]))
    call(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "-r", requirements, cwd=CHECKOUT)
    return python


def test_the_list_for_conda_is_enough_by_itself(tmp_path):
    python = installed(tmp_path / "environment")
    call(python, "-m", "pip", "check")
    where = call(python, "-c", "import dfnb; print(dfnb.__file__)", cwd=tmp_path)
    assert str(CHECKOUT) in where
    assert "faceforensics-c23" in call(python.with_name("dfnb"), "data", cwd=tmp_path)
    call(python, "-m", "pytest", "tests/results/test_statistics.py", "-q", cwd=CHECKOUT)


def test_the_oldest_versions_run_the_smoke_profile(tmp_path):
    call(sys.executable, "-m", "venv", tmp_path / "environment")
    python = tmp_path / "environment" / "bin" / "python"
    install = [Path(sys.executable).with_name("uv"), "pip", "install", "-q", "--python", python]
    call(*install, "--resolution", "lowest-direct", f"{CHECKOUT}[train,lab]")
    (tmp_path / "home").mkdir()
    call(python.with_name("dfnb"), "run", "smoke", cwd=tmp_path / "home")
    assert (tmp_path / "home" / "reports" / "smoke" / "index.html").exists()
