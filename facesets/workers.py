"""The worker processes that make datasets."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import joblib


def in_parallel(jobs: Iterable[tuple], workers: int | None, in_order: bool) -> Iterator[Any]:
    """The results of jobs of joblib, in the order of these or as soon as each is there.

    ``workers`` processes do them; None: one per processor.
    """
    return joblib.Parallel(
        n_jobs=workers or -1,  # -1: one per processor
        return_as="generator" if in_order else "generator_unordered",
        initializer=start_worker,
        initargs=[os.getpid()],
    )(jobs)


def start_worker(parent: int) -> None:
    """Set up a worker: it ends with its parent, and uses one thread, because there are many.

    ``parent`` is the id of the process that started the workers. It is an argument, because
    getppid() returns another id if that process has ended already.
    """
    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:  # an orphan gets another parent
            time.sleep(1)
        os._exit(1)  # ends the process; sys.exit would end this thread alone

    threading.Thread(target=watch, daemon=True).start()
