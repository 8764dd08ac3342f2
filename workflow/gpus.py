"""Run a command on GPUs that no other command of this home holds: ``python gpus.py FOLDER N COMMAND...``.

Of the GPUs in ``DFNB_GPUS``, which `dfnb run` sets, the command sees the first N that are free, each held by a lock in FOLDER
as long as it runs; it waits where fewer are free. Without that variable, as without GPUs or on a cluster that hands them out
itself, it just runs.
"""

import fcntl
import os
import sys
import time
from pathlib import Path


def hold(folder: Path, n: int, gpus: list[str]) -> list[str]:
    """Lock N of the GPUs for this process and what it becomes; none where fewer are free."""
    held: dict[str, int] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for gpu in gpus:
        lock = os.open(folder / f".gpu-{gpu}", os.O_CREAT | os.O_RDWR)
        try:
            if len(held) < n:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held[gpu] = lock
        except BlockingIOError:
            os.close(lock)
    if len(held) < n:
        for lock in held.values():
            os.close(lock)
        return []
    for lock in held.values():
        os.set_inheritable(lock, True)
    return list(held)


if __name__ == "__main__":
    folder, n, *command = sys.argv[1:]
    if gpus := [gpu for gpu in os.environ.get("DFNB_GPUS", "").split(",") if gpu]:
        if int(n) > len(gpus):
            sys.exit(f"{n} GPUs are asked for and there are {len(gpus)}; lower devices")
        while not (held := hold(Path(folder), int(n), gpus)):
            time.sleep(1)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    os.execvp(command[0], command)
