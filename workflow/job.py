"""Run a Python module as a job of a workflow: ``python job.py FOLDER N MODULE ARGUMENTS...``.

The job sees GPUs that no other job of this home holds: of those in ``DFNB_GPUS``, which `dfnb run` sets, the first N that are
free, each held by a lock in FOLDER as long as the job runs; it waits where fewer are free. Without that variable, as without
GPUs or on a cluster that hands them out itself, it just runs. And it ends with the workflow, see :func:`end_with`.
"""

import fcntl
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

GRACE_S = float(os.environ.get("DFNB_GRACE_S", 30))  # from SIGTERM to SIGKILL


def end_with(lock: str) -> None:
    """End this process when no other one holds the file ``lock``: `dfnb run`, which held it, has ended, however it did.

    From then on this process shares the lock, until it has ended: nothing else of this home begins before.
    """

    def watch() -> None:
        with Path(lock).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(GRACE_S)
            os.kill(os.getpid(), signal.SIGKILL)

    if lock:
        threading.Thread(target=watch, daemon=True).start()


def hold(folder: Path, n: int, gpus: list[str]) -> dict[str, int]:
    """Lock N of the GPUs for this process, each by an open file; none where fewer are free."""
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
        return {}
    return held


if __name__ == "__main__":
    end_with(os.environ.get("DFNB_LOCK", ""))
    folder, n, module, *arguments = sys.argv[1:]
    if gpus := [gpu for gpu in os.environ.get("DFNB_GPUS", "").split(",") if gpu]:
        if int(n) > len(gpus):
            sys.exit(f"{n} GPUs are asked for and there are {len(gpus)}; lower devices")
        while not (held := hold(Path(folder), int(n), gpus)):
            time.sleep(1)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    # jsonschema, with which papermill checks notebooks, loads this for a second to check addresses; a notebook has none
    sys.modules["rfc3987_syntax"] = None
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
