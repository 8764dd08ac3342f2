"""Run a command on GPUs of its own: ``python with_gpus.py N COMMAND...``.

The command waits for N of the GPUs that this process sees, and then has them to itself. Each is
locked by a file in ``runs/`` as long as the command runs. Without GPUs, and in a job of Slurm,
which hands them out itself, the command just runs. On Linux it is killed when the process that
started it ends.
"""

import ctypes
import fcntl
import os
import signal
import sys
import time
from pathlib import Path


def visible_gpus() -> list[str]:
    """The GPUs to choose from, as ``CUDA_VISIBLE_DEVICES`` names them.

    The list is empty in a Slurm job, where Slurm assigns them itself.
    """
    if "SLURM_JOB_ID" in os.environ:
        return []
    devices = list(Path("/dev").glob("nvidia[0-9]*"))
    all_names = ",".join(map(str, range(len(devices))))  # CUDA counts from 0, whatever the files
    names = os.environ.get("CUDA_VISIBLE_DEVICES", all_names)
    # Empty or -1 means that no GPU is visible.
    return [name for name in names.split(",") if name not in ("", "-1")]


def lock(gpu: str) -> bool:
    """Lock a GPU for this process and the command that replaces it (``exec``).

    Returns whether it did: not where it is locked already, by another process or by this one. The
    file stays open: the system frees the lock when the last process that has it open ends.
    """
    # Relative: Snakemake starts jobs in the home.
    descriptor = os.open(f"runs/.gpu-{gpu}", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(descriptor, True)  # else ``exec`` would close it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def main(count: int, command: list[str]) -> None:
    """Wait for ``count`` GPUs, then become the command."""
    if sys.platform == "linux":
        # The end of its parent kills this process, also after exec. 1: PR_SET_PDEATHSIG, prctl.h
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    gpus = visible_gpus()
    if gpus and count:  # else the command sees the GPUs that this process sees
        if count > len(gpus):
            sys.exit(f"{count} GPUs are needed and there are {len(gpus)}; lower devices")
        Path("runs").mkdir(exist_ok=True)
        locked = []
        with Path("runs/.gpus").open("wb") as turn:
            # One process collects GPUs at a time: two could wait for ever, each for the GPUs of the
            # other.
            fcntl.flock(turn, fcntl.LOCK_EX)
            while len(locked) < count:
                time.sleep(0.1)  # between two looks at the GPUs
                for gpu in gpus:  # lock refuses those that are in ``locked`` already
                    if len(locked) < count and lock(gpu):
                        locked.append(gpu)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(locked)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
