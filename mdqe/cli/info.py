"""`mdqe info`: what is installed, what runs where and, of a model, how large it is and where it comes from."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import mdqe
from mdqe.cli.model_options import add_model_arguments, load_model

if TYPE_CHECKING:
    from mdqe.model import MDQE

HELP = "show versions, kernels and devices, and a model's size and origin"
EXAMPLE = "mdqe info --model models/r50_ovis"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the two-column report."""
    rows = _installation()
    if args.model is not None:
        rows += [("", ""), *_model(load_model(args), args.model)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}".rstrip())
    return 0


def _installation() -> list[tuple[str, str]]:
    import torch

    from mdqe.ops import kernel_status
    from mdqe.weights.source import bundled_models

    status = kernel_status()
    cpu = f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    rows = [
        ("mdqe", f"{mdqe.__version__}, Python {platform.python_version()}"),
        ("torch", torch.__version__),
        ("CPU", cpu),
        ("CPU kernels", status.cpu),
    ]
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        rows.append((f"cuda:{i}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB"))
    if not torch.cuda.is_available():
        rows.append(("CUDA", "no device" if torch.version.cuda else "no device; this torch is built without CUDA"))
    rows.append(("CUDA kernels", status.cuda))
    rows += [(package, _version(package)) for package in ("torchvision", "timm", "av", "pillow")]
    return [*rows, ("bundled models", ", ".join(bundled_models()) or "none")]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed: pip install 'mdqe[video]'"


def _model(model: "MDQE", name: str) -> list[tuple[str, str]]:
    from mdqe.cli.model_cost import flops_by_part, parameters_by_part
    from mdqe.modeling.preprocess import resized_size

    config = model.config
    size = resized_size((720, 1280), config.test_shorter_edge, config.test_longer_edge)
    parameters, flops = parameters_by_part(model), flops_by_part(model, size)
    rows = [
        ("model", name),
        *_origin(name),
        ("backbone", config.backbone),
        ("categories", _listed(config.categories) or str(config.num_classes)),
        ("clips", f"{config.test_clip_length} frames, stride {config.clip_stride}, windows of {config.window_length}"),
        ("", ""),
        ("part", f"{'parameters':>12}  {'GFLOP per frame':>15}"),
    ]
    rows += [(part, f"{parameters[part]:>12,}  {flops[part] / 1e9:>15.2f}") for part in parameters]
    rows.append(("all", f"{sum(parameters.values()):>12,}  {sum(flops.values()) / 1e9:>15.2f}"))
    note = f"of a {size[1]}x{size[0]} frame; a multiplication with its addition is 2"
    return [*rows, ("", note)]


def _origin(name: str) -> list[tuple[str, str]]:
    """Where the weights lie, and what their file says of where they are from."""
    from safetensors import safe_open

    from mdqe.weights.folder import WEIGHTS_FILE
    from mdqe.weights.source import open_source

    path = open_source(name)(WEIGHTS_FILE)
    with safe_open(path, framework="pt") as file:
        source = (file.metadata() or {}).get("source")
    return [("weights", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"), ("from", source or "not recorded")]


def _listed(names: tuple[str, ...], most: int = 8) -> str:
    more = f", ... {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)}: {', '.join(names[:most])}{more}" if names else ""
