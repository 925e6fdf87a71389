"""`mdqe info`: shows versions, kernels and devices, and the size, the cost and the origin of a model."""

import argparse
import platform
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import mdqe
from mdqe.cli.options import add_model_arguments, flag, load_model

if TYPE_CHECKING:
    from mdqe.model import MDQE

HELP = "show versions, kernels and devices, and the size, the cost and the origin of a model"
EXAMPLE = "mdqe info --model models/r50_ovis"
PARTS = {  # in the order of the data
    "backbone": ("backbone",),
    "encoder": ("encoder",),
    "query initialization": ("query_init",),
    "decoder": ("decoder",),
    "heads": ("class_head", "coefficient_head"),
    "mask head": ("mask_head",),
}
FLOPS_PER_SAMPLE = 10  # per sampled channel: 4 products and sums for the interpolation, 1 for the attention weight


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_model_arguments(parser)
    flag(parser, "--models", "list the bundled and the published models instead")


def run(args: argparse.Namespace) -> int:
    """Print the report in two columns, or the list of models."""
    if args.models:
        print(models())
        return 0
    rows = _installation()
    if args.model is not None:
        rows += [("", ""), *_model(load_model(args), args.model)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}".rstrip())
    return 0


def models() -> str:
    """A table of the bundled and the published models: data, frames of a clip, published AP, size, and where it is."""
    from mdqe.weights.folder import WEIGHTS_FILE
    from mdqe.weights.source import BUNDLED_FOLDER, BUNDLED_PREFIX, bundled_models
    from mdqe.weights.zoo import RECORD_FILE, zoo, zoo_folder

    rows = [("name", "data", "frames", "published AP", "size", "here")]
    for name in bundled_models():
        folder = BUNDLED_FOLDER / name.removeprefix(BUNDLED_PREFIX)
        size = f"{(folder / WEIGHTS_FILE).stat().st_size / 1e6:.0f} MB"
        rows.append((name, "synthetic shapes", "", "", size, "in the package"))
    for model in zoo().values():
        folder = zoo_folder(model.name)
        here = str(folder) if (folder / RECORD_FILE).is_file() else "no"
        published = "" if model.ap is None else model.published
        size = f"{model.megabytes} MB"
        rows.append((f"{BUNDLED_PREFIX}{model.name}", model.data, str(model.frames), published, size, here))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


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
    note = f"for a frame of {size[1]}x{size[0]}; a multiplication with its addition counts as 2"
    return [*rows, ("", note)]


def _origin(name: str) -> list[tuple[str, str]]:
    """The file of the weights, and their origin as the file records it."""
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


def parameters_by_part(model: "MDQE") -> dict[str, int]:
    """The number of parameters of each part. Their sum is the number of parameters of the model."""
    modules = dict(model.named_children())
    counts = {
        part: sum(p.numel() for name in names for p in modules.pop(name).parameters()) for part, names in PARTS.items()
    }
    for name, module in modules.items():
        counts[name] = sum(p.numel() for p in module.parameters())
    return counts


def flops_by_part(model: "MDQE", size: tuple[int, int]) -> dict[str, int]:
    """The floating-point operations per frame of each part.

    The count includes matrix products, convolutions and the samples of deformable attention. A frame is encoded once,
    and one clip is decoded for every `clip_stride` frames. Nothing is computed: the tensors are on the meta device.

    Args:
        model: the model, which is copied.
        size: (height, width) of the frames after resizing.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mdqe.modeling.preprocess import padded_size

    def samples(value: Any, grid: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return FLOPS_PER_SAMPLE * torch.Size(out_shape).numel()

    sampling = {torch.ops.aten.grid_sampler_2d: samples}
    config = model.config
    model = deepcopy(model).float().to("meta").eval()
    frames = torch.empty(1, config.test_clip_length, 3, *padded_size(size), device="meta")
    counts = dict.fromkeys(parameters_by_part(model), 0)

    def count(part: str, share: float, step: Callable[[], Any]) -> Any:
        with FlopCounterMode(display=False, custom_mapping=sampling) as counter, torch.inference_mode():
            made = step()
        counts[part] += round(counter.get_total_flops() * share)
        return made

    per_frame, per_clip = 1 / config.test_clip_length, 1 / config.clip_stride
    encoder, decoder = model.encoder, model.decoder
    maps = count("backbone", per_frame, lambda: model.backbone(frames.flatten(0, 1)))
    tokens = count("encoder", per_frame, lambda: encoder(maps, 1, padded_size(size), [size]))
    memory, shapes = tokens.memory, tokens.spatial_shapes
    queries = count("query initialization", per_frame, lambda: model.query_init.select(memory, shapes))
    values = count("decoder", per_frame, lambda: decoder.project_values(memory, tokens.padding_mask))
    queries = count("query initialization", per_clip, lambda: model.associate(queries))
    states = count("decoder", per_clip, lambda: decoder(queries.content, queries.coords, values, shapes))
    count("heads", per_clip, lambda: model.predict(states[-1]))
    count("mask head", per_frame, lambda: model.mask_head(memory, shapes))
    return counts
