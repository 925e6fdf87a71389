"""Calls of functions in a compiled library with NumPy arrays."""

import ctypes
from typing import Any

import numpy as np

_Bytes = ctypes.c_char * 0  # an array in C, passed by its address


def call(function: Any, *values: np.ndarray | bytes | int | ctypes.c_void_p) -> Any:
    """Call a function of the compiled library with contiguous arrays, bytes, whole numbers and addresses."""
    return function(
        *[_buffer(x) if isinstance(x, np.ndarray) else ctypes.c_int64(x) if isinstance(x, int) else x for x in values]
    )


def _buffer(array: np.ndarray) -> Any:
    """An argument with the address of an array. This takes a fifth of the time of `pointer`."""
    memory: Any = array
    try:
        return _Bytes.from_buffer(memory)
    except (BufferError, TypeError, ValueError):  # read-only, or in the order of columns
        return pointer(array)


def pointer(array: np.ndarray, *, gaps: bool = False) -> ctypes.c_void_p:
    """The address of an array.

    Args:
        gaps: the function knows the strides, so the array need not be contiguous, in the order of rows or of columns.

    Raises:
        ValueError: the array has gaps, which the function would read as numbers.
    """
    if not (gaps or array.flags.forc):
        raise ValueError(f"the array must be contiguous, got shape {array.shape} with strides {array.strides}")
    return ctypes.c_void_p(array.ctypes.data)
