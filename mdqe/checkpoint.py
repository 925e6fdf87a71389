"""The authors' checkpoints: reading them, recognising the preset, renaming to our layout, more frames per clip."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdqe.config import MDQEConfig
from mdqe.errors import InputError

# Buffers that the released code stores and this library computes, and second names of one module.
DROPPED = (
    r"(.*\.)?query_relpos_grid",
    r".*\.lvl_spatial_scales",
    r"detr\.transformer_dec\.decoder\.layers\.\d+\.(cross_attn|temp_attn_inst)\.sampling_offsets",
    r"detr\.transformer_dec\.(decoder_norm|bbox_embed|point2pos_proj)\..*",
    r".*\.attn\.relative_position_index",
    r".*\.attn_mask",
    r"(.*\.)?pixel_(mean|std)",
    r"criterion\.empty_weight",
)
"""Patterns of official names that are dropped on purpose."""

_RENAMED = (
    (r"detr\.input_proj\.(\d+)\.", r"encoder.projections.\1."),
    (r"detr\.transformer_enc\.level_embed", r"encoder.level_embed"),
    (r"detr\.transformer_enc\.encoder\.norm\.", r"encoder.norm."),
    (r"detr\.transformer_enc\.encoder\.layers\.(\d+)\.linear([12])\.", r"encoder.layers.\1.mlp.layers.#\2."),
    (r"detr\.transformer_enc\.encoder\.", r"encoder."),
    (r"detr\.transformer_dec\.rpn_cls_embed\.", r"query_init.activation_head."),
    (r"detr\.transformer_dec\.track_embed\.", r"query_init.embedding_head."),
    (r"detr\.transformer_dec\.cls_embed\.", r"class_head."),
    (r"detr\.transformer_dec\.mask_embed\.", r"coefficient_head."),
    (r"detr\.transformer_dec\.mask_head\.lay([123])\.", r"mask_head.fuse.#\1.0."),
    (r"detr\.transformer_dec\.mask_head\.gn([123])\.", r"mask_head.fuse.#\1.1."),
    (r"detr\.transformer_dec\.mask_head\.adapter([12])\.", r"mask_head.lateral.#\1."),
    (r"detr\.transformer_dec\.mask_head\.out_uplay\.", r"mask_head.upsample."),
    (r"detr\.transformer_dec\.mask_head\.out_lay1\.", r"mask_head.refine."),
    (r"detr\.transformer_dec\.mask_head\.out_lay2\.", r"mask_head.project."),
    (r"detr\.transformer_dec\.decoder\.bbox_embed\.", r"decoder.box_head."),
    (r"detr\.transformer_dec\.decoder\.point2pos_proj\.", r"decoder.position_proj."),
    (r"detr\.transformer_dec\.decoder\.", r"decoder."),
)

_TEMPORAL = re.compile(r"decoder\.layers\.\d+\.clip\.cross_attn\.(attention_weights|sampling_offsets)\.(?:weight|bias)")

_BACKBONES = {  # a tensor that is there, one that is not
    "resnet50": ("res4.5.conv1.weight", "res4.6.conv1.weight"),
    "resnet101": ("res4.22.conv1.weight", "res4.23.conv1.weight"),
    "swinv2_large_window12_192": ("layers.2.blocks.17.attn.logit_scale", "layers.2.blocks.18.attn.logit_scale"),
}

_MASK_HEAD_PARTS = {"depthwise": "0", "pointwise": "1", "gn": "2"}
_DECODER_PARTS = {
    "self_attn": "self_attn",
    "norm1": "self_norm",
    "cross_attn": "cross_attn",
    "temp_attn": "cross_attn",
    "norm2": "cross_norm",
    "linear1": "mlp.layers.0",
    "linear2": "mlp.layers.1",
    "norm3": "mlp_norm",
}


def convert_official(state_dict: dict[str, Any], config: MDQEConfig) -> dict[str, Tensor]:
    """Rename the tensors of a checkpoint of the authors' code for an `MDQE(config)`.

    Args:
        state_dict: the released layout, with or without a wrapping {"model": …}.
        config: of the model that will load the result. Temporal attention trained on single frames is inflated to its
            clip_length.

    Raises:
        ValueError: names of the released layout that are neither used nor deliberately dropped (`DROPPED`).
    """
    state_dict = state_dict.get("model", state_dict)
    converted, unknown = {}, []
    for name, tensor in state_dict.items():
        if any(re.fullmatch(pattern, name) for pattern in DROPPED):
            continue
        new_name = _rename(name)
        if new_name is None:
            unknown.append(name)
        else:
            converted[new_name] = tensor
    if unknown:
        raise InputError(f"{len(unknown)} names are not of the released layout: {', '.join(sorted(unknown)[:10])}")
    return inflate_temporal(converted, config)


def dropped(state_dict: dict[str, Tensor]) -> tuple[str, ...]:
    """The names that `convert_official` drops on purpose, of those there are."""
    return tuple(name for name in state_dict if any(re.fullmatch(pattern, name) for pattern in DROPPED))


def inflate_temporal(state: dict[str, Tensor], config: MDQEConfig) -> dict[str, Tensor]:
    """Repeat single-frame temporal attention (TCA) for every frame of a clip, to train on video what saw images.

    On a clip of equal frames the inflated model computes what the other computes on one of them.

    Args:
        state: of an MDQE of clip_length 1; others are returned as they are.
        config: its clip_length is the wanted one [T].
    """
    heads, frames = config.num_heads, config.clip_length
    single = {"attention_weights": config.num_points, "sampling_offsets": config.num_points * 2}  # per head
    inflated = dict(state)
    for name, tensor in state.items():
        match = _TEMPORAL.fullmatch(name)
        if match and frames > 1 and tensor.shape[0] == heads * single[match[1]]:
            rows = tensor.unflatten(0, (heads, 1, -1))  # (H, 1, P or 2·P, …)
            inflated[name] = rows.expand(heads, frames, *rows.shape[2:]).flatten(0, 2)  # (H·T·P, …)
    return inflated


class OfficialSizes(NamedTuple):
    """What the tensors of a released checkpoint tell of its configuration."""

    backbone: str
    hidden_dim: int
    num_classes: int
    clip_length: int


def official_sizes(state_dict: dict[str, Tensor]) -> OfficialSizes:
    """Read the sizes off a checkpoint of the released layout.

    Raises:
        ValueError: a tensor that tells is missing, or the backbone is none of the published ones.
    """
    decoder = "detr.transformer_dec"
    names = {
        "levels": "detr.transformer_enc.level_embed",
        "classes": f"{decoder}.cls_embed.layers.2.bias",
        "spatial": f"{decoder}.decoder.layers.0.cross_attn.attention_weights.bias",
        "temporal": f"{decoder}.decoder.layers.0.temp_attn_inst.attention_weights.bias",
    }
    missing = [name for name in names.values() if name not in state_dict]
    if missing:
        raise InputError(f"not a checkpoint of the released MDQE: it lacks {', '.join(missing)}")
    shape = {key: tuple(state_dict[name].shape) for key, name in names.items()}
    for backbone, (present, absent) in _BACKBONES.items():
        prefix = "detr.backbone.0.backbone."
        if prefix + present in state_dict and prefix + absent not in state_dict:
            levels, dim = shape["levels"]
            per_frame = shape["spatial"][0] // levels  # H·P
            return OfficialSizes(backbone, dim, shape["classes"][0], shape["temporal"][0] // per_frame)
    raise InputError(f"its backbone is none of the published ones, {', '.join(_BACKBONES)}")


def matching_presets(state_dict: dict[str, Tensor]) -> tuple[str, ...]:
    """Names of the presets whose tensors have the shapes of this checkpoint. Some presets differ in settings alone."""
    sizes = official_sizes(state_dict)
    presets = {name: MDQEConfig.preset(name) for name in MDQEConfig.presets()}
    return tuple(
        name for name, c in presets.items() if (c.backbone, c.hidden_dim, c.num_classes, c.clip_length) == sizes
    )


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Read a .pth file of tensors, with or without a wrapping {"model": …}; nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of torch.save, a damaged one, or one that holds other things than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with path.open("rb") as file:
        head = file.read(20)
    if not head.startswith((b"PK", b"\x80")):
        raise InputError(f"{path} is not a file of torch.save: it begins with {head!r}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds Python objects beside tensors, and unpickling them could run any program. If you trust its "
            'origin, load it where it was made and save the tensors alone: torch.save({"model": '
            'torch.load(path, weights_only=False)["model"]}, new_path)'
        ) from error
    except Exception as error:  # of many kinds, by where the damage is
        raise InputError(f"{path} is a truncated or damaged file ({path.stat().st_size:,} bytes)") from error
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path} holds {type(state).__name__}, expected tensors by name")
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(f"{path} holds entries that are no tensors: {', '.join(others[:10])}")
    return state


def _rename(name: str) -> str | None:
    if name.startswith("detr.backbone.0.backbone."):
        return _rename_backbone(name.removeprefix("detr.backbone.0.backbone."))
    for pattern, replacement in _RENAMED:
        new_name, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            new_name = re.sub(r"#(\d)", lambda m: str(int(m[1]) - 1), new_name)  # the released code counts from 1
            return _rename_part(new_name)
    return None


def _rename_part(name: str) -> str | None:
    if match := re.match(r"(mask_head\.(?:refine|project))\.(\w+)\.(.*)", name):
        return f"{match[1]}.{_MASK_HEAD_PARTS[match[2]]}.{match[3]}"
    if match := re.match(r"(decoder\.layers\.\d+)\.(\w+?)(_inst)?\.(.*)", name):
        if match[2] == "time_weights":
            return name
        if match[2] not in _DECODER_PARTS:
            return None
        level = "clip" if match[3] else "frame"
        rest = match[4].replace("sampling_grid_offsets", "sampling_offsets")
        return f"{match[1]}.{level}.{_DECODER_PARTS[match[2]]}.{rest}"
    return name


def _rename_backbone(name: str) -> str | None:
    if name.startswith("stem."):
        return f"backbone.body.{name.removeprefix('stem.')}"
    if match := re.match(r"res(\d)\.(\d+)\.(.*)", name):
        part = match[3].replace("shortcut", "downsample.0")
        return f"backbone.body.layer{int(match[1]) - 1}.{match[2]}.{part}"
    if match := re.match(r"norm(\d)\.(\w+)$", name):
        return f"backbone.norms.{int(match[1]) - 1}.{match[2]}"
    if match := re.match(r"layers\.(\d)\.downsample\.(.*)", name):
        return f"backbone.body.layers_{int(match[1]) + 1}.downsample.{match[2]}"  # there: end of a stage
    if match := re.match(r"layers\.(\d)\.(blocks\..*)", name):
        return f"backbone.body.layers_{match[1]}.{match[2]}"
    if name.startswith("patch_embed."):
        return f"backbone.body.{name}"
    return None
