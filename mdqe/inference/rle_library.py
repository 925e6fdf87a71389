"""The compiled run-length library `_C_rle`, where it was built; all it does NumPy does too, several times slower."""

import ctypes
import os
from functools import cache
from pathlib import Path

import numpy as np


@cache
def library() -> ctypes.CDLL | None:
    """The library, if it was built and is not switched off."""
    package = Path(__file__).resolve().parents[1]
    found = sorted(package.glob("_C_rle.*so")) + sorted(package.glob("_C_rle.*pyd"))
    if not found or os.environ.get("MDQE_DISABLE_EXT") == "1":
        return None
    try:
        loaded = ctypes.CDLL(str(found[0]))
        loaded.mdqe_overlap.restype = ctypes.c_int64
        loaded.mdqe_encode.restype = None
    except (OSError, AttributeError):  # of another machine, or of another version of this package
        return None
    return loaded


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """Where a contiguous array lies."""
    return ctypes.c_void_p(array.ctypes.data)
