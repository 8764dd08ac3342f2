"""The worker processes that prepare or draw datasets."""

import os
import threading
import time

import cv2


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
