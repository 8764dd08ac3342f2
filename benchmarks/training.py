"""How much faster the baseline trains than with the code of an earlier commit.

``python benchmarks/training.py 8de21ce`` trains it on the embedded benchmark with both codes, in
turns, in float32 and in bfloat16, and writes ``reports/benchmarks/training-<commit>.csv``.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from dfnb.files import atomic
from dfnb.records import environment

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 4
IMAGES = 2400  # per epoch
TARGETS = {"32-true": 1.5, "bf16-mixed": 2.3}  # times as fast
# What both codes understand; the study's training but for its length.
TRAINING = """
from dfnb import synth
from dfnb.papers import xception
synth.build("synth-a")
settings = xception.Settings(
    backbone="dfnb_plain7", pretrained=True, image_size=96, epochs={epochs}, batch_size=32,
    images_per_epoch={images}, optimiser="adamw", lr=0.002, weight_decay=0.01,
    schedule="onecycle", augmentation="light", precision="{precision}",
)
inputs = ("xception", "synth-a", settings)
try:
    from dfnb.training.train import run_parameters, train
except ImportError:  # the earlier code
    from dfnb.train import train
    train(*inputs, seed={seed})
else:
    train(run_parameters(*inputs, seed={seed}))
"""


def images_per_s(code: Path, home: Path, precision: str, seed: int) -> float:
    """The images of a training per second, from the end of its first epoch to that of its last.

    Args:
        code: The checkout whose package trains.
        home: A folder for its dataset and its run.
        precision: As Fabric names it.
        seed: One that the home has not trained yet.
    """
    script = TRAINING.format(epochs=EPOCHS, images=IMAGES, precision=precision, seed=seed)
    variables = {"PYTHONPATH": str(code), "DFNB_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    # Without these, glibc returns each large tensor to the system, as in workflow/Snakefile.
    variables |= {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
    ends = []  # when each epoch ended, in seconds
    line = ""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=home,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            if re.search(r"epoch \d+ of \d+", line):
                ends.append(time.monotonic())
    if len(ends) != EPOCHS:
        sys.exit(f"the training of {code} ended after {len(ends)} of {EPOCHS} epochs: {line}")
    return IMAGES * (EPOCHS - 1) / (ends[-1] - ends[0])


def compared(
    codes: tuple[Path, Path], folder: Path, precision: str, rounds: int
) -> dict[str, float]:
    """Train with the earlier and with the present code in turns; returns a row of the CSV."""
    speeds = defaultdict(list)
    for seed in range(rounds):
        for code in codes:
            home = folder / f"home-{code.name}"
            home.mkdir(exist_ok=True)
            speeds[code].append(images_per_s(code, home, precision, seed))
    earlier, present = (speeds[code] for code in codes)
    ratios = [new / old for old, new in zip(earlier, present)]
    return {
        "earlier_images_per_s": statistics.median(earlier),
        "images_per_s": statistics.median(present),
        "times_as_fast": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def main(
    commit: Annotated[str, typer.Argument(help="The earlier commit.")],
    rounds: Annotated[int, typer.Option(min=1, help="Trainings of each code and precision.")] = 3,
) -> None:
    """Compare the speed of training with an earlier commit; about eight minutes on a quiet core."""
    facts = environment()
    shared = {
        "rounds": rounds,
        "load_before": round(os.getloadavg()[0], 1),
        "device": facts["device"],
        "commit": facts["commit"],
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earlier = folder / "earlier"
        checkout = ["git", "worktree", "add", "-q", "--detach", earlier, commit]
        subprocess.run(checkout, cwd=ROOT, check=True)  # else ROOT would be compared with itself
        try:
            for precision, target in TARGETS.items():
                row = compared((earlier, ROOT), folder, precision, rounds)
                print(f"{precision}: {row['times_as_fast']:.2f} times as fast; target {target}")
                rows.append({"precision": precision, **row, **shared})
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", earlier], cwd=ROOT)
    with atomic(ROOT / "reports" / "benchmarks" / f"training-{commit}.csv") as path:
        pd.DataFrame(rows).round(2).to_csv(path, index=False)


if __name__ == "__main__":
    typer.run(main)
