"""Writing an exported folder: encoder and decoder as .pt2 or .onnx files, and model.json, which describes them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mdqe import __version__
from mdqe.errors import DependencyError, InputError
from mdqe.export.programs import Traced, trace
from mdqe.files import check_writable, whole_binary_file, whole_file
from mdqe.model import MDQE

FORMATS = {"torch": ".pt2", "onnx": ".onnx"}
DESCRIPTION_FILE = "model.json"
FORMAT_VERSION = 1
TOLERANCE = 1e-3  # relative; rounding in float32 causes about 1e-5
OPSETS = range(18, 24)
DEFAULT_OPSET = 20  # the first with GELU and with the current GridSample
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_model(
    model: MDQE, folder: str | Path, *, format: str = "onnx", opset: int | None = None, source: str | None = None
) -> dict[str, float]:
    """Write the frame encoder and the clip decoder of a model as programs that run without this package.

    Both programs run in float32 and take any number of frames. The encoder takes frames of any size from `least_size`
    in model.json. Each ONNX program is run once and compared with the model.

    Args:
        model: the model, which is copied.
        folder: created if it does not exist; existing files are replaced when the new ones are complete.
        format: "torch", for `torch.export.load`, or "onnx".
        opset: ONNX operator set, 18 to 23; None: 20.
        source: the origin of the model, for model.json.

    Returns:
        For "onnx", the largest relative error (Euclidean) of each output of both programs; otherwise an empty dict.

    Raises:
        InputError: an unknown format or opset, a Swin backbone, or an ONNX file that differs from the model.
        DependencyError: the packages that write ONNX are not installed.
        OSError: the folder cannot be written.
    """
    check_options(format, opset)
    check_backbone(model)
    folder = Path(folder)
    check_writable(folder)
    errors: dict[str, float] = {}
    description = _describe(model, format, opset, source)
    for traced in trace(model):
        file = traced.name + FORMATS[format]
        if format == "onnx":
            write_onnx(traced, folder / file, opset or DEFAULT_OPSET)
            errors.update(largest_error(traced, folder / file))
            if max(errors.values()) > TOLERANCE:
                raise InputError(
                    f"{folder / file} differs from the model by {max(errors.values()):.0e}: try another opset"
                )
        else:
            with whole_binary_file(folder / file) as opened:
                torch.export.save(traced.program, opened)
        description[traced.name] = {"file": file, **_signature(traced)}
    with whole_file(folder / DESCRIPTION_FILE) as path:
        path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return errors


def check_options(format: str, opset: int | None) -> None:
    """Check a format and an opset, and the packages that they need.

    Raises:
        InputError: the format or the opset is unknown.
        DependencyError: the packages that write ONNX are not installed.
    """
    if format not in FORMATS:
        raise InputError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if format != "onnx" and opset is not None:
        raise InputError(f"opset is {opset}, but format {format!r} has no opset")
    if opset is not None and opset not in OPSETS:
        raise InputError(f"opset is {opset!r}, expected {OPSETS[0]} to {OPSETS[-1]}")
    if format == "onnx" and (missing := [name for name in PACKAGES if find_spec(name) is None]):
        raise DependencyError(f"ONNX export needs {', '.join(missing)}: pip install 'mdqe[export]'")


def check_backbone(model: MDQE) -> None:
    """Check that the backbone can be exported with dynamic sizes.

    Raises:
        InputError: it is a Swin.
    """
    # With swinv2_tiny, the ONNX program failed for frames above 256×256 and the torch.export program for all frames:
    # tracing fixes the attention windows for certain sizes.
    if any("Swin" in type(module).__name__ for module in model.backbone.modules()):  # timm's classes
        raise InputError(
            f"backbone {model.config.backbone!r} cannot be exported: the shifted windows of a Swin cannot be traced "
            "with dynamic sizes"
        )


def write_onnx(traced: Traced, path: Path, opset: int) -> None:
    """Write a program with its weights as one file.

    Raises:
        InputError: PyTorch cannot write this opset.
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
    assert program is not None  # only the old exporter returns None
    if (written := program.model.opset_imports[""]) != opset:
        raise InputError(
            f"opset is {opset}, but torch {torch.__version__} writes the {traced.name} with opset {written}"
        )
    with whole_file(path) as partial:
        program.save(partial)


def largest_error(traced: Traced, path: Path) -> dict[str, float]:
    """The relative error (Euclidean) of each output of the file in ONNX Runtime, for the inputs of the trace."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = traced.module(**traced.example)
    actual = session.run(list(expected), {name: x.numpy() for name, x in traced.example.items()})
    return {
        name: float((torch.from_numpy(x) - expected[name]).norm() / expected[name].norm())
        for name, x in zip(expected, actual, strict=True)
    }


def _describe(model: MDQE, format: str, opset: int | None, source: str | None) -> dict[str, Any]:
    config = model.config
    made_with = {"mdqe": __version__, "torch": torch.__version__}
    return {
        "model_type": "mdqe-export",
        "format_version": FORMAT_VERSION,
        "format": format,
        **({"opset": opset or DEFAULT_OPSET} if format == "onnx" else {}),
        "source": source,
        "made_with": made_with,
        "preprocessing": {
            "channels": "RGB",
            "type": "uint8",
            "layout": "frames, channels, height, width",
            "shorter_edge": config.test_shorter_edge,
            "longer_edge": config.test_longer_edge,
            "resize": "bilinear, antialiased",
            "inside": "normalisation by pixel_mean and pixel_std, zeros right and below up to multiples of 32",
        },
        "categories": list(config.categories),
        "category_ids": list(config.label_ids),
        "config": config.to_dict(),
    }


def _signature(traced: Traced) -> dict[str, Any]:
    return {
        "inputs": [{"name": x.name, "type": x.type, "shape": list(x.shape)} for x in traced.inputs],
        "outputs": [{"name": x.name, "type": x.type, "shape": list(x.shape)} for x in traced.outputs],
        **({"least_size": list(traced.least_size)} if traced.least_size else {}),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of the converter about what it does not simplify."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
