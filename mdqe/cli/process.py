"""Settings for the process of a command that make PyTorch faster on a CPU; Python users set them in the environment."""

import ctypes
import os
import sys

SPIN_COUNT = "1500"  # some 25 µs, longer than most gaps between two operators
OPENMP_NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
MALLOC_NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # the numbers of glibc's options
KEPT_BYTES = 2**30
OLD_MMAP_LIMIT = 2**25  # the largest M_MMAP_THRESHOLD that older versions of glibc accept


def set_up_process() -> None:
    """Let waiting threads sleep, and keep freed memory. Call it before torch is imported.

    Between operators, OpenMP's threads wait in a busy loop. If other programs need the cores, such a thread takes them
    from the one that it waits for. Here the loop is short, then the thread sleeps.

    glibc returns the memory of large tensors to the system when they are freed, and the next operator touches every new
    page. Here it keeps up to KEPT_BYTES for the next allocations.

    What the user has set in the environment stays as it is.
    """
    if not any(name in os.environ for name in OPENMP_NAMES):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and not any(name in os.environ for name in MALLOC_NAMES):
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) or mallopt(M_MMAP_THRESHOLD, OLD_MMAP_LIMIT)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
