"""Records: ``record.json``, written last, is the only proof that a step ended.

papermill reports success even when the kernel was killed, and ``sys.exit(0)`` truncates a run with
exit status 0, so nothing else counts.
"""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from facesets.checks import explained
from facesets.files import read_json, sha256, write_json

# The packages of which a record keeps the versions.
PACKAGES = (
    "dfnb",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "scikit-learn",
    "opencv-python-headless",
    "av",
)


class Clock:
    """Wall time of a step, from the clock's construction on."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def usage(self) -> dict[str, float]:
        """The cost of the step: ``wall_s``, seconds."""
        return {"wall_s": round(time.monotonic() - self.start, 2)}


def environment() -> dict[str, Any]:
    """What a number may depend on besides data and settings. No path, no host name.

    Where all of it is equal, a network on a CPU gives equal bytes: another number of ``threads`` or
    another ``capability`` of the processor rounds otherwise, and after some epochs the weights are
    others. Where torch is not
    installed, device, capability and threads are missing: no network computes there.
    """
    installed = {distribution.name for distribution in distributions()}
    about = {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES if name in installed},
        "commit": commit(),
    }
    return {**about, **_computing()} if "torch" in installed else about


def _computing() -> dict[str, Any]:
    """Where torch computes, and with how many threads."""
    import torch

    kind = device()
    is_nvidia = kind == "cuda"
    return {
        "device": torch.cuda.get_device_name(0) if is_nvidia else f"{kind} ({platform.machine()})",
        "capability": torch.backends.cpu.get_cpu_capability(),  # such as AVX512
        "threads": threads(),
    }


def device() -> str:
    """Where networks compute: ``DFNB_DEVICE``, else the first there is of cuda, mps and cpu."""
    import torch

    if chosen := os.environ.get("DFNB_DEVICE"):
        return chosen
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def threads() -> int:
    """How many CPU threads a network computes with: ``DFNB_THREADS``, by default one per core.

    They are part of :func:`environment`, because a sum over several threads is rounded according to
    their number. ``dfnb run`` gives each of its calls one.
    """
    import joblib  # of the extra train, as torch

    # Not os.cpu_count, which does not know the limits of a container or a job.
    return int(os.environ.get("DFNB_THREADS") or joblib.cpu_count())


def commit() -> str:
    """The commit of the checkout; -dirty follows where tracked files outside ``reports/`` differ.

    It is empty where the package is not installed from a checkout.
    """
    # The changed files, one per line. Every run writes to reports/: changes there do not count.
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports")
    head = _git("rev-parse", "HEAD")
    return f"{head}-dirty" if dirty else head


def _git(*arguments: str) -> str:
    """The answer of git about the checkout of this package.

    It is empty without git or checkout, or where git refuses to answer.
    """
    checkout = Path(__file__).resolve().parents[1]
    # Without .git the package is installed, and git would answer about a repository around it.
    if not (checkout / ".git").exists() or not shutil.which("git"):
        return ""
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_record(
    path: Path,
    parameters: Mapping[str, Any],
    outputs: Iterable[Path],
    **entries: Any,
) -> dict[str, Any]:
    """Write the record of a step, and return its content.

    Args:
        path: ``<folder>/record.json``, where :func:`read_record` looks; a notebook's record has
            another name.
        parameters: The resolved parameters of the step.
        outputs: The files that the step left; the record has the sha256 of each, by file name.
        entries: Other entries of the record: n, seed, rule, ...
    """
    record = {
        "parameters": dict(parameters),
        **entries,
        "environment": environment(),
        "outputs": {output.name: sha256(output) for output in outputs},
    }
    write_json(path, record)
    return read_json(path)  # as every later reader gets it: tuples are lists


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a step, or None when the step did not finish.

    A step did not finish when it has no record or when an output that the record names is gone.
    Raises :class:`DfnbError` when the record is damaged.
    """
    path = folder / "record.json"
    if not path.is_file():
        return None
    record = read_json(path)
    with explained(path, "as a record", "delete it and run the step that wrote it again"):
        is_whole = all((folder / name).exists() for name in record["outputs"])
    return record if is_whole else None
