"""Run a command on a GPU of its own: ``with_gpu.py PARENT COMMAND...``.

Snakemake counts GPUs, and does not say which one is free. The command waits for one of those that
this process sees, and then has it to itself: a file in ``runs/`` locks it as long as the command
runs. It also gets its share of the CPUs, from which it starts the loaders of its images. Without
GPUs, and in a job of Slurm, which hands them out itself, the command just runs. On Linux it is
killed when PARENT ends, the process id of what starts it.
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

    Returns whether it did: not where another process has locked it. The file stays open: the system
    frees the lock when the last process that has it open ends.
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


def main(parent: int, command: list[str]) -> None:
    """Wait for a GPU if there are any, then become the command."""
    if sys.platform == "linux":
        # The end of its parent kills this process, also after exec. 1: PR_SET_PDEATHSIG, prctl.h
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        # A parent that ended before this line would not: its children have another one by now.
        if os.getppid() != parent:
            sys.exit("with_gpu.py: what started this has ended")
    gpus = visible_gpus()
    if gpus:
        Path("runs").mkdir(exist_ok=True)
        while not (gpu := next(filter(lock, gpus), None)):
            time.sleep(0.1)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        if sys.platform == "linux":
            cpus = sorted(os.sched_getaffinity(0))
            own = cpus[gpus.index(gpu) :: len(gpus)]
            os.sched_setaffinity(0, own or cpus)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
