"""An exported folder: encoder and decoder as .pt2 or .onnx, and model.json, which says how to use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mdqe import __version__
from mdqe.atomic import check_writable, whole_file
from mdqe.errors import InputError
from mdqe.export.onnx_files import DEFAULT_OPSET, OPSETS, check_installed, largest_error, write_onnx
from mdqe.export.trace import Traced, trace
from mdqe.model import MDQE

FORMATS = {"torch": ".pt2", "onnx": ".onnx"}
DESCRIPTION_FILE = "model.json"
FORMAT_VERSION = 1
TOLERANCE = 1e-3  # relative; float32 alone makes a hundredth of it


def export_model(
    model: MDQE, folder: str | Path, *, format: str = "onnx", opset: int | None = None, source: str | None = None
) -> dict[str, float]:
    """Write a model's frame encoder and clip decoder as programs that run without this package.

    Both run in float32 and take any number of frames; the encoder frames of any size from `least_size` of model.json
    on. An ONNX program is run once and compared with the model.

    Args:
        model: its weights are copied.
        folder: made if it does not exist; of a file that is there the new one takes the name when it is whole.
        format: "torch", which `torch.export.load` reads, or "onnx".
        opset: of ONNX's operators, 18 to 23; None: 20.
        source: where the model is from, for model.json.

    Returns:
        For "onnx", the largest relative error (Euclidean) of each output of either program; else nothing.

    Raises:
        ValueError: another format or opset; a Swin backbone; an ONNX file that differs from the model.
        ImportError: the packages that write ONNX are not installed.
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
            with whole_file(folder / file) as path:
                torch.export.save(traced.program, path)
        description[traced.name] = {"file": file, **_signature(traced)}
    with whole_file(folder / DESCRIPTION_FILE) as path:
        path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return errors


def check_options(format: str, opset: int | None) -> None:
    """Raises ValueError for another format or opset, ImportError where what writes ONNX is missing."""
    if format not in FORMATS:
        raise InputError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if format != "onnx" and opset is not None:
        raise InputError(f"opset is {opset}, but format {format!r} has none")
    if opset is not None and opset not in OPSETS:
        raise InputError(f"opset is {opset!r}, expected {OPSETS[0]} to {OPSETS[-1]}")
    if format == "onnx":
        check_installed()


def check_backbone(model: MDQE) -> None:
    """Raises ValueError where the backbone's programs would hold for some sizes only."""
    # Of programs traced from swinv2_tiny, ONNX Runtime's failed on frames beyond 256×256 and PyTorch's on all: what
    # tracing takes the windows to be holds for some sizes alone.
    if any("Swin" in type(module).__name__ for module in model.backbone.modules()):  # timm's classes
        raise InputError(
            f"backbone {model.config.backbone!r} cannot be exported: the shifted windows of a Swin do not come out of "
            "tracing with open sizes"
        )


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
