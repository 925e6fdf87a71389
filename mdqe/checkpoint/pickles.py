"""Pickles that are read without running code of theirs: NumPy arrays as values, and an outline of anything else.

Every class and function that a pickle names is replaced by one of this file, so nothing that a file says is imported or
called. Sizes that a file states are compared with its bytes before memory is allocated.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

LEGACY_MAGIC = (
    b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle in files of PyTorch before 1.6, after its protocol
)
MAX_OUTLINE_BYTES = 64 * 2**20  # tensors are elsewhere in the file


class ArrayType:
    """A NumPy dtype of numbers, in place of `numpy.dtype`."""

    def __init__(self, spec: Any = "", *_: Any) -> None:
        if not isinstance(spec, str) or not re.fullmatch(r"[biufc]\d{1,2}", spec):
            raise pickle.UnpicklingError(f"an array of type {str(spec)[:40]!r}")
        self.spec, self.order = spec, "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]

    def numpy(self) -> np.dtype:
        """The dtype in the order of the file."""
        return np.dtype(self.order + self.spec)


class Array:
    """A NumPy array, in place of the function that creates an empty one. The values follow as its state."""

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.values = _values(data, kind, shape, "F" if fortran else "C")

    def tensor(self) -> Tensor:
        """The values as a tensor.

        Raises:
            pickle.UnpicklingError: the file has no values, or PyTorch has no such type.
        """
        if self.values is None:
            raise pickle.UnpicklingError("an array without values")
        try:
            return torch.from_numpy(self.values)
        except TypeError as error:
            raise pickle.UnpicklingError(f"an array of type {self.values.dtype}") from error


class ArrayClass:
    """In place of `numpy.ndarray`, which pickles only mention."""


def _values(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(data, str):  # a text of Python 2
        data = data.encode("latin1")
    known = isinstance(kind, ArrayType) and isinstance(data, bytes | bytearray) and isinstance(shape, tuple)
    if not known or order not in ("C", "F") or not all(type(size) is int and size >= 0 for size in shape):
        raise pickle.UnpicklingError("an array of objects")
    if math.prod(shape) * kind.numpy().itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data)} bytes")
    values = np.frombuffer(data, kind.numpy()).reshape(shape, order=order)
    return np.array(values, kind.numpy().newbyteorder("="), order="C")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> Array:
    """In place of the function that protocol 5 calls."""
    array = Array()
    array.values = _values(data, kind, shape, order)
    return array


def _scalar(kind: Any, data: Any = b"") -> Any:
    """In place of the function that creates a NumPy number."""
    return _values(data, kind, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """In place of `_codecs.encode`, with which older protocols store bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("an encoded text")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """In place of `bytes`, with which older protocols store that there are none."""
    return b""


ARRAY_NAMES: dict[str, Any] = {"numpy.ndarray": ArrayClass, "numpy.dtype": ArrayType, "_codecs.encode": _encode,
                               "builtins.bytes": _no_bytes, "__builtin__.bytes": _no_bytes}  # fmt: skip
"""What may be named by a pickle of arrays, and what takes its place."""
for _core in ("core", "_core"):  # before and since NumPy 2
    ARRAY_NAMES |= {f"numpy.{_core}.multiarray._reconstruct": Array, f"numpy.{_core}.multiarray.scalar": _scalar,
                    f"numpy.{_core}.numeric._frombuffer": _from_buffer}  # fmt: skip


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python: that in C allocates what a file states."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self) -> None:
        """Read the bytes instead of allocating their number first."""
        read: Any = self.read  # type: ignore[attr-defined]
        self.append(bytearray(read(int.from_bytes(read(8), "little"))))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


class _ArrayUnpickler(_Unpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def load_build(self) -> None:
        """Set the state of an object, but not the attributes of the classes and functions of this file."""
        if not isinstance(self.stack[-2], Array | ArrayType | OrderedDict):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("a state")
        build: Any = pickle._Unpickler.dispatch[pickle.BUILD[0]]
        build(self)

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if f"{module}.{name}" not in ARRAY_NAMES:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return ARRAY_NAMES[f"{module}.{name}"]


def read_arrays(data: bytes) -> Any:
    """The content of a pickle of plain values and NumPy arrays, which are instances of `Array`.

    Raises:
        pickle.UnpicklingError: it names anything else.
        Exception: of many kinds, for a damaged pickle.
    """
    return _ArrayUnpickler(BytesIO(data), encoding="latin1").load()


class Unknown:
    """An object of a class that is not imported; `path` is the name of the class or function."""

    path = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Unknown:
        return Unknown()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, *_: Any) -> None:
        """Ignore an item, as do the methods below."""

    extend = add = update = append

    @property
    def is_tensor(self) -> bool:
        """Whether the object is a tensor or an array."""
        kinds = r"torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.Parameter|torch\.\w*Tensor|numpy\..*"
        return bool(re.fullmatch(kinds, self.path))


class _Outliner(_Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type("Named", (Unknown,), {"path": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        return pid[1] if pid[0] == "module" else Unknown()  # a class of PyTorch before 1.6, or the memory of a tensor


def outline(path: Path) -> Any:
    """The content of a pickle or a file of `torch.save`, with an `Unknown` for every object; None if it is damaged."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (entry,) = (one for one in archive.infolist() if one.filename.endswith("data.pkl"))
                if entry.file_size > MAX_OUTLINE_BYTES:
                    return None
                file = BytesIO(archive.read(entry))
        else:
            file = BytesIO(path.read_bytes())
            if is_legacy(file.getvalue()[:20]):
                for _ in range(3):  # magic number, protocol, properties of the machine
                    _Outliner(file).load()
        return _Outliner(file, encoding="latin1").load()
    except Exception:  # of many kinds, depending on the damage
        return None


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins so was written by `torch.save` of PyTorch before 1.6."""
    return head[2:].startswith(LEGACY_MAGIC)
