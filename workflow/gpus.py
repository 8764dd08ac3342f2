"""Run a command on GPUs that no other command of this workflow holds: ``python gpus.py FOLDER N COMMAND...``.

Of the GPUs in ``CUDA_VISIBLE_DEVICES`` the command sees the first N that are free, each held by a lock in FOLDER as long as
it runs. Without that variable, as on a machine without GPUs, it just runs.
"""

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path


def hold(folder: Path, n: int, gpus: list[str]) -> list[str]:
    """Lock N of the GPUs for this process and what it becomes; ends the process where fewer are free."""
    held: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    for gpu in gpus:
        lock = os.open(folder / f".gpu-{gpu}", os.O_CREAT | os.O_RDWR)
        with suppress(BlockingIOError):
            if len(held) < n:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.set_inheritable(lock, True)
                held.append(gpu)
    if len(held) < n:
        sys.exit(f"{len(held)} of {n} GPUs are free of {', '.join(gpus)}; wait for the other trainings")
    return held


if __name__ == "__main__":
    folder, n, *command = sys.argv[1:]
    if visible := [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(hold(Path(folder), int(n), visible))
    os.execvp(command[0], command)
