"""Reference numbers of the released code, and models with the weights that they were computed with.

The full files are beside the checkout (fixture `shared`). `data/` contains a subset, so every checkout tests parity;
`python tests/parity/golden.py SHARED` creates it.
"""

import json
import math
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from mdqe import MDQE, MDQEConfig
from mdqe.checkpoint import convert_official

DATA = Path(__file__).parent / "data"
PRESETS: dict[str, dict[str, Any]] = {
    "r50_ovis": {"name": "r50_ovis_360", "window_length": 6},
    "swinl_ovis": {"name": "swinl_ovis", "window_length": 4},
    "coco_image": {"name": "r50_coco"},
    "train_r50": {"name": "r50_ovis_360", "clip_length": 3},
}
CORE = {
    "r50_ovis": ["frames", "backbone.2", "position.2", "encoder.memory", "mask_features", "query_init.grid_coords",
                 "query_init.coords", "decoder.boxes_cxcywh", "clip000.cls", "clip012.cls", "clip012.mask_coeff",
                 "result000.scores", "result012.scores", "video.masks_packed"],
    "swinl_ovis": ["frames", "position.2", "encoder.memory", "mask_features", "query_init.coords",
                   "decoder.boxes_cxcywh", "clip000.cls", "result000.scores", "video.masks_packed"],
    "coco_image": ["frames", "cls", "scores", "labels", "boxes_xyxy", "masks_packed"],
}  # fmt: skip


def pseudo_weight(name: str, shape: list[int], salt: int) -> torch.Tensor:
    """The value of a tensor of the released layout, determined by its name and shape."""
    generator = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), salt]))
    u = (generator.random(math.prod(shape), dtype=np.float32) * 2 - 1).reshape(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        u = 1 + 0.2 * u
    elif leaf == "running_mean":
        u = 0.1 * u
    elif leaf == "logit_scale":
        u = 2.0 + 0.2 * u
    elif name.endswith("cls_embed.layers.2.bias"):
        u = -4.5 + u
    elif len(shape) <= 1:
        u = 1 + 0.1 * u if leaf == "weight" else 0.02 * u
    else:
        u = (_zero_sum(u) * _gain(name, shape) * math.sqrt(3.0 / math.prod(shape[1:]))).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(u)).double()


def _zero_sum(u: np.ndarray) -> np.ndarray:
    if math.prod(u.shape[1:]) <= 2:
        return u
    return u - u.reshape(len(u), -1).mean(1).reshape((-1,) + (1,) * (u.ndim - 1))


def _gain(name: str, shape: list[int]) -> float:
    gain = 1.0
    if ".self_attn" in name and "out_proj" in name:
        gain = 0.3
    elif ".linear1" not in name and ".linear2" not in name:
        if "_embed.layers" in name:
            gain = 1.5
        elif "sampling_offsets" in name or "sampling_grid_offsets" in name:
            gain = 0.5
    return gain * 1.4 if len(shape) == 4 and math.prod(shape[1:]) > 2 else gain


@cache
def meta(name: str) -> dict[str, Any]:
    """The description of a file: parameters, clips, final scores and labels."""
    return json.loads((DATA / f"{name}.json").read_text())


@cache
def core(name: str) -> dict[str, torch.Tensor]:
    """The arrays of `data/`."""
    with np.load(DATA / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@cache
def full(name: str, shared: Path) -> dict[str, torch.Tensor]:
    """The arrays of the full file."""
    return load_file(shared / "golden" / f"{name}.safetensors")


def official_state(name: str) -> dict[str, torch.Tensor]:
    """A checkpoint in the released layout. Constants in it have the right shape, but not the right value."""
    salt = meta(name)["salt"]
    return {key: pseudo_weight(key, shape, salt) for key, shape in meta(name)["parameters"].items()}


@cache
def model(name: str) -> MDQE:
    """An MDQE in float64 with the weights of a file, loaded strictly."""
    options = dict(PRESETS[name])
    config = MDQEConfig.preset(options.pop("name"), test_shorter_edge=None, **options)
    built = MDQE(config).double().eval()
    built.load_state_dict(convert_official(official_state(name), config), strict=True)
    return built


def unpacked(packed: torch.Tensor, shape: list[int]) -> np.ndarray:
    """Boolean masks of a shape from packed bits (N, …)."""
    flat = np.unpackbits(packed.numpy(), axis=1)[:, : math.prod(shape[1:])]
    return flat.reshape(shape).astype(bool)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative Euclidean distance of two tensors."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def _make_core(shared: Path) -> None:
    for name, keys in CORE.items():
        arrays = full(name, shared)
        picked = {key: arrays[key] for key in keys}
        for key, length in (("encoder.memory", 1), ("backbone.2", 1)):
            if key in picked:
                picked[key] = picked[key][:length]
        if "mask_features" in picked:
            picked["mask_features"] = picked["mask_features"][:, :, :1]
        np.savez_compressed(DATA / f"{name}.npz", **{key: value.numpy() for key, value in picked.items()})
    for name in PRESETS:
        described = json.loads((shared / "golden" / f"{name}.json").read_text())
        kept = {
            key: described[key]
            for key in ("salt", "clips", "video", "mask_shape", "spatial_shapes")
            if key in described
        }
        kept["parameters"] = {key: shape for key, (shape, _, _) in described["parameters"].items()}
        (DATA / f"{name}.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    _make_core(Path(sys.argv[1]))
