"""Traced programs as ONNX files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from mdqe.atomic import whole_file
from mdqe.errors import DependencyError, InputError
from mdqe.export.trace import Traced

OPSETS = range(18, 24)
DEFAULT_OPSET = 20  # the first with GELU and with the GridSample of today
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """Raises ImportError, with what to install, where a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise DependencyError(f"ONNX export needs {', '.join(missing)}: pip install 'mdqe[export]'")


def write_onnx(traced: Traced, path: Path, opset: int) -> None:
    """Write a program as one file, its weights inside.

    Raises:
        ValueError: PyTorch cannot bring it to this opset.
    """
    with _quiet():
        program = torch.onnx.export(
            traced.program,
            input_names=[port.name for port in traced.inputs],
            output_names=[port.name for port in traced.outputs],
            opset_version=opset,
            external_data=False,
            verbose=False,
            dynamo=True,
        )
    assert program is not None  # only the old exporter gives none
    if (written := program.model.opset_imports[""]) != opset:
        raise InputError(
            f"the {traced.name} could not be brought to opset {opset}, torch {torch.__version__} wrote {written}"
        )
    with whole_file(path) as partial:
        program.save(partial)


def largest_error(traced: Traced, path: Path) -> dict[str, float]:
    """Relative error (Euclidean) of every output of the file, in ONNX Runtime, on the example it was traced with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = traced.module(**traced.example)
    actual = session.run(list(expected), {name: x.numpy() for name, x in traced.example.items()})
    return {
        name: float((torch.from_numpy(x) - expected[name]).norm() / expected[name].norm())
        for name, x in zip(expected, actual, strict=True)
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's remarks on what it does not simplify."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
