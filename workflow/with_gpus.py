"""Run a command on GPUs of its own: ``python with_gpus.py N COMMAND...``.

The command sees the first N GPUs of ``DFNB_GPUS`` that no other one has, locked in ``runs/`` as
long as it runs; where fewer are free, it waits. Without that variable it just runs, as it does
without GPUs and on a cluster that hands them out. On Linux it gets SIGTERM when its parent ends.
"""

import ctypes
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def lock(gpus: list[str], count: int) -> dict[str, int]:
    """Lock ``count`` of the GPUs; returns the lock files by GPU, or nothing when too few are free.

    A lock is free again when the command that inherits the file has ended, however it did.
    """
    locked: dict[str, int] = {}
    for gpu in gpus:
        file = os.open(f"runs/.gpu-{gpu}", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        locked[gpu] = file
        if len(locked) == count:
            return locked
    for file in locked.values():
        os.close(file)
    return {}


def main(count: int, command: list[str]) -> None:
    """Wait for the GPUs, then become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    gpus = [gpu for gpu in os.environ.get("DFNB_GPUS", "").split(",") if gpu]
    if gpus:
        if count > len(gpus):
            sys.exit(f"{count} GPUs are needed and there are {len(gpus)}; lower devices")
        Path("runs").mkdir(exist_ok=True)
        locked = lock(gpus, count)
        while not locked:
            time.sleep(1)
            locked = lock(gpus, count)
        for file in locked.values():
            os.set_inheritable(file, True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(locked)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
