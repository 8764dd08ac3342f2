"""The packages that a machine lacks, from a folder of wheels into a temporary folder: the machine stays as it is.

Imported before anything else, so with the standard library alone. As a command it prints what the folder must hold.
"""

import argparse
import atexit
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution, distributions, version
from pathlib import Path

STARTED = time.monotonic()  # as early as can be: installing and importing are part of the minutes
ROOT = Path(__file__).resolve().parent.parent
MACHINE = ("torch", "torchvision", "timm")  # torch fits the driver: none of them is ever taken from the folder
NEEDED = (  # of the project's packages, what the benchmark of a GPU imports beside them
    *(
        "av",
        "filelock",
        "joblib",
        "lightning-fabric",
        "numpy",
        "opencv-python-headless",
        "pandas",
        "pyarrow",
        "pydantic",
    ),
    *("pyyaml", "safetensors", "scikit-learn", "scipy", "typer"),
)


class WheelError(Exception):
    """What is missing, in one sentence."""


def start() -> None:
    """Provide what the command line says in ``--wheels``, or end with a sentence that says what is missing."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # the other options wait for their package
    parser.add_argument("--wheels", type=Path)
    scratch = tempfile.TemporaryDirectory(prefix="wheels")
    atexit.register(scratch.cleanup)
    try:
        provide(parser.parse_known_args()[0].wheels, Path(scratch.name))
    except WheelError as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")


def provide(wheels: Path | None, target: Path) -> None:
    """Make this checkout and its packages importable, here and in the processes that this one starts.

    Raises:
        WheelError: a package is neither installed nor in the folder.
    """
    try:
        import tomllib
    except ImportError:
        raise WheelError("Python 3.11 or newer is needed") from None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sys.path[:0] = [str(target), str(ROOT)]  # this checkout is measured, whatever dfnb is installed
    sys.path.append(str(ROOT / "tests"))  # where the rule of the golden weights is
    paths = [str(target), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    install(wanted(project["dependencies"]), wheels, target)
    if not installed(project["name"]):  # a record of training names the version of every package
        about = Path(target, f"{project['name']}-{project['version']}.dist-info")
        about.mkdir()
        text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (about / "METADATA").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()


def wanted(dependencies: Iterable[str]) -> list[str]:
    """The requirements of the project that the benchmark has."""
    return [each for each in dependencies if _name(each) in (*NEEDED, *MACHINE)]


def install(requirements: Sequence[str], wheels: Path | None, target: Path) -> None:
    """Put what is missing of the requirements, and of what these require, into ``target``, which is on ``sys.path``.

    Package by package without dependencies: with them pip would look for torch in the folder, too.

    Raises:
        WheelError: nothing to install from, no wheel that fits, or a missing package of :data:`MACHINE`.
    """
    while missing := unmet(requirements):
        if fixed := [each for each in missing if _name(each) in MACHINE]:
            raise WheelError(f"{_listed(fixed)} must be installed on the machine itself; its driver decides which")
        if wheels is None:
            raise WheelError(f"{_listed(missing)} must be installed, or lie as wheels in a folder: --wheels FOLDER")
        options = ["--isolated", "--disable-pip-version-check", "--quiet", "--no-index", "--no-deps"]
        options += ["--find-links", str(wheels), "--target", str(target)]
        command = [sys.executable, "-m", "pip", "install", *options, *missing]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        importlib.invalidate_caches()
        if done.returncode or set(missing) & set(unmet(missing)):
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise WheelError(f"{wheels} has no wheel of {_listed(missing)} for this Python ({reason})")
        requirements = [line for each in distributions(path=[str(target)]) for line in each.requires or []]


def unmet(requirements: Iterable[str]) -> list[str]:
    """The requirements that apply to this machine and that no installed package fulfils, each once."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        raise WheelError("packaging must be installed on the machine itself; it comes with timm") from None

    missing = {}
    for parsed in map(Requirement, requirements):
        applies = parsed.marker is None or parsed.marker.evaluate({"extra": ""})
        found = installed(parsed.name)
        if applies and not (found and parsed.specifier.contains(found, prereleases=True)):
            missing.setdefault(f"{parsed.name}{parsed.specifier}")
    return list(missing)


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def pinned(names: Iterable[str] = NEEDED) -> list[str]:
    """``name==version`` of the packages and all that they require, as installed here, without those of the machine."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = _name(waiting.pop())
        if name not in found and name not in MACHINE:
            found[name] = version(name)
            parsed = map(Requirement, distribution(name).requires or [])
            waiting += [each.name for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return [f"{name}=={number}" for name, number in sorted(found.items())]


def _name(requirement: str) -> str:
    letters = next((i for i, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")), None)
    return requirement[:letters].lower().replace("_", "-").replace(".", "-")


def _listed(requirements: Sequence[str]) -> str:
    *others, last = requirements
    return f"{', '.join(others)} and {last}" if others else last


if __name__ == "__main__":
    print("\n".join(pinned()))
