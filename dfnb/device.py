"""Where torch computes, and how: device, worker processes, threads, memory, determinism.

Environment variables set what belongs to a machine and not to a training: ``DFNB_DEVICE``,
``DFNB_WORKERS`` (:func:`workers`) and ``DFNB_THREADS`` (:func:`facesets.records.threads`). All
settings are restored at the end of each context: importing this module changes nothing.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import joblib
import numpy as np
import torch

from facesets.records import device, threads

DEVICE = device()
# How networks and images lie in memory: channels last, so that convolutions are faster.
LAYOUT = torch.channels_last


def name() -> str:
    """The device in words, for messages."""
    return torch.cuda.get_device_name(0) if DEVICE == "cuda" else DEVICE.upper()


def workers() -> int:
    """How many processes read frames: ``DFNB_WORKERS``; their number changes no result.

    By default one per CPU that this process may use beside a GPU, and none without one, because
    they would compete with the network. The limits of a container, of a Slurm job and of
    workflow/with_gpu.py count, which ``os.cpu_count`` does not know.
    """
    return int(os.environ.get("DFNB_WORKERS") or (0 if DEVICE == "cpu" else joblib.cpu_count()))


def peak_memory() -> int | None:
    """The most bytes so far: of torch's tensors on an NVIDIA GPU, else of the whole process.

    None on Windows, which does not tell it.
    """
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def to_numpy(values: torch.Tensor) -> np.ndarray:
    """Values on the CPU, floats of half precision as float32: numpy has no bfloat16."""
    is_half = values.is_floating_point() and values.element_size() == 2
    return (values.float() if is_half else values).detach().cpu().numpy()


def emulates_bf16() -> bool:
    """Whether this CPU lacks instructions for bfloat16, and so computes it slowly.

    False on a GPU, and where torch cannot tell: in older versions and on ARM.
    """
    if DEVICE != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    return torch.cpu.get_capabilities().get("avx512_bf16") is False


@contextmanager
def fixed_threads() -> Iterator[None]:
    """A context, or a decorator, in which torch uses :func:`threads`, and OpenCV one.

    Inside, a resumed training may choose another number: that of its checkpoint.

    OpenCV's threads are stopped here, before any fork, because a forked worker that stops the
    OpenCV threads of its parent hangs.
    """
    torch_threads = torch.get_num_threads()
    opencv_threads = cv2.getNumThreads()
    torch.set_num_threads(threads())
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)


@contextmanager
def precision(name: str) -> Iterator[None]:
    """A context in which a GPU multiplies float32 numbers as ``Settings.precision = name`` says.

    ``32-true`` forbids TF32, the others allow it. torch's own default forbids it in matrix products
    and allows it in convolutions. ``torch.set_float32_matmul_precision`` would change CPUs, too.
    """
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    if DEVICE == "cuda":  # else nothing is to be changed
        for flag in flags:
            flag.allow_tf32 = name != "32-true"
    try:
        yield
    finally:
        if DEVICE == "cuda":
            for flag, allowed in zip(flags, before):
                flag.allow_tf32 = allowed


@contextmanager
def reproducible(is_wanted: bool = True) -> Iterator[None]:
    """A context in which torch uses deterministic algorithms, or not.

    Operations that have none warn.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(is_wanted, warn_only=True)
    # Else torch fills each new tensor with NaN before use: an eighth of a training's time on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill
