"""Released checkpoints: read them, find their preset, rename their tensors, and adapt them to longer clips."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import repeat
from torch import Tensor

from mdqe.config import MDQEConfig
from mdqe.errors import InputError, is_out_of_memory, printable

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
"""Patterns of released names that are dropped: buffers that this library computes, and second names of a module."""

_BACKBONE = r"detr\.backbone\.0\.backbone"
_DECODER = r"detr\.transformer_dec"
_LAYER = rf"{_DECODER}\.decoder\.layers\.(\d+)"
_DECODER_PARTS = {
    "self_attn": "self_attn", "norm1": "self_norm", "cross_attn": "cross_attn", "temp_attn": "cross_attn",
    "norm2": "cross_norm", "linear1": "mlp.layers.0", "linear2": "mlp.layers.1", "norm3": "mlp_norm",
}  # fmt: skip

# Beginnings of released names and their replacements, in which #N is group N minus one and @N is group N plus one.
_RENAMED = (
    (rf"{_BACKBONE}\.stem\.", r"backbone.body."),
    (rf"{_BACKBONE}\.res(\d)\.(\d+)\.shortcut\.", r"backbone.body.layer#1.\2.downsample.0."),
    (rf"{_BACKBONE}\.res(\d)\.(\d+)\.", r"backbone.body.layer#1.\2."),
    (rf"{_BACKBONE}\.norm(\d)\.", r"backbone.norms.#1."),
    (rf"{_BACKBONE}\.layers\.(\d)\.downsample\.", r"backbone.body.layers_@1.downsample."),  # released: ends a stage
    (rf"{_BACKBONE}\.layers\.(\d)\.blocks\.", r"backbone.body.layers_\1.blocks."),
    (rf"{_BACKBONE}\.patch_embed\.", r"backbone.body.patch_embed."),
    (r"detr\.input_proj\.(\d+)\.", r"encoder.projections.\1."),
    (r"detr\.transformer_enc\.level_embed", r"encoder.level_embed"),
    (r"detr\.transformer_enc\.encoder\.layers\.(\d+)\.linear([12])\.", r"encoder.layers.\1.mlp.layers.#2."),
    (r"detr\.transformer_enc\.encoder\.", r"encoder."),
    (rf"{_DECODER}\.rpn_cls_embed\.", r"query_init.activation_head."),
    (rf"{_DECODER}\.track_embed\.", r"query_init.embedding_head."),
    (rf"{_DECODER}\.cls_embed\.", r"class_head."),
    (rf"{_DECODER}\.mask_embed\.", r"coefficient_head."),
    (rf"{_DECODER}\.mask_head\.lay([123])\.", r"mask_head.fuse.#1.0."),
    (rf"{_DECODER}\.mask_head\.gn([123])\.", r"mask_head.fuse.#1.1."),
    (rf"{_DECODER}\.mask_head\.adapter([12])\.", r"mask_head.lateral.#1."),
    (rf"{_DECODER}\.mask_head\.out_uplay\.", r"mask_head.upsample."),
    *(
        (rf"{_DECODER}\.mask_head\.{released}\.{part}\.", f"mask_head.{own}.{i}.")
        for released, own in (("out_lay1", "refine"), ("out_lay2", "project"))
        for i, part in enumerate(("depthwise", "pointwise", "gn"))
    ),
    (rf"{_DECODER}\.decoder\.bbox_embed\.", r"decoder.box_head."),
    (rf"{_DECODER}\.decoder\.point2pos_proj\.", r"decoder.position_proj."),
    (rf"{_DECODER}\.decoder\.norm\.", r"decoder.norm."),
    (rf"{_LAYER}\.time_weights\.", r"decoder.layers.\1.time_weights."),
    *(
        (rf"{_LAYER}\.{part}{suffix}\.", rf"decoder.layers.\1.{level}.{own}.")
        for part, own in _DECODER_PARTS.items()
        for suffix, level in (("", "frame"), ("_inst", "clip"))
    ),
)

_TEMPORAL = re.compile(r"decoder\.layers\.\d+\.clip\.cross_attn\.(attention_weights|sampling_offsets)\.(?:weight|bias)")

_BACKBONES = {  # a tensor that the backbone has, and one that it does not have
    "resnet50": ("res4.5.conv1.weight", "res4.6.conv1.weight"),
    "resnet101": ("res4.22.conv1.weight", "res4.23.conv1.weight"),
    "swinv2_large_window12_192": ("layers.2.blocks.17.attn.logit_scale", "layers.2.blocks.18.attn.logit_scale"),
}


def convert_official(state_dict: dict[str, Any], config: MDQEConfig) -> dict[str, Tensor]:
    """Rename the tensors of a released checkpoint for an `MDQE(config)`.

    Temporal cross-attention that was trained on single frames is inflated to the config's clip_length.

    Args:
        state_dict: tensors by released name, with or without a wrapping {"model": …}.
        config: the configuration of the model that loads the result.

    Raises:
        ValueError: names that are not in the released layout (neither used nor in `DROPPED`).
    """
    if isinstance(wrapped := state_dict.get("model"), dict):
        state_dict = wrapped
    skipped = set(dropped(state_dict))
    converted = {name: _rename(name) for name in state_dict if name not in skipped}
    unknown = sorted(name for name, new_name in converted.items() if new_name is None)
    if unknown:
        names = ", ".join(map(printable, unknown[:10]))
        raise InputError(f"{len(unknown)} names are not in the released layout: {names}")
    return inflate_temporal({new_name: state_dict[name] for name, new_name in converted.items() if new_name}, config)


def dropped(state_dict: dict[str, Tensor]) -> tuple[str, ...]:
    """The names in the state that `convert_official` drops."""
    return tuple(name for name in state_dict if any(re.fullmatch(pattern, name) for pattern in DROPPED))


def inflate_temporal(state: dict[str, Tensor], config: MDQEConfig) -> dict[str, Tensor]:
    """Repeat the single-frame parameters of temporal cross-attention (TCA) for every frame of a clip.

    A model trained on images can then be trained on videos. On a clip of identical frames the inflated model computes
    the same as the original on one of them.

    Args:
        state: of an MDQE with clip_length 1; the state of any other is returned unchanged.
        config: its clip_length is the new number of frames [T].
    """
    heads, frames = config.num_heads, config.clip_length
    single = {"attention_weights": config.num_points, "sampling_offsets": config.num_points * 2}  # for each head
    inflated = dict(state)
    for name, tensor in state.items():
        match = _TEMPORAL.fullmatch(name)
        if match and frames > 1 and tensor.dim() and tensor.shape[0] == heads * single[match[1]]:
            inflated[name] = repeat(tensor, "(h p) ... -> (h t p) ...", h=heads, t=frames)  # p: P or 2·P
    return inflated


class OfficialSizes(NamedTuple):
    """The part of the configuration that the tensor shapes of a released checkpoint determine."""

    backbone: str
    hidden_dim: int
    num_classes: int
    clip_length: int


def official_sizes(state_dict: dict[str, Tensor]) -> OfficialSizes:
    """Infer the sizes from a checkpoint of the released layout.

    Raises:
        ValueError: a tensor that determines a size is missing, or the backbone is not a published one.
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
        raise InputError(f"not a checkpoint of the released MDQE: missing {', '.join(missing)}")
    shape = {key: tuple(state_dict[name].shape) for key, name in names.items()}
    for key, name in names.items():
        if len(shape[key]) != (2 if key == "levels" else 1) or 0 in shape[key]:
            axes = "(levels, channels)" if key == "levels" else "(channels,)"
            raise InputError(f"not a checkpoint of the released MDQE: {name} is {shape[key]}, expected {axes}")
    for backbone, (present, absent) in _BACKBONES.items():
        prefix = "detr.backbone.0.backbone."
        if prefix + present in state_dict and prefix + absent not in state_dict:
            levels, dim = shape["levels"]
            per_frame, rest = divmod(shape["spatial"][0], levels)  # H·P
            if rest:
                raise InputError(
                    f"not a checkpoint of the released MDQE: {names['spatial']} is {shape['spatial']}, "
                    f"expected a multiple of its {levels} levels"
                )
            return OfficialSizes(backbone, dim, shape["classes"][0], shape["temporal"][0] // per_frame)
    raise InputError(f"unknown backbone in the checkpoint, expected one of {', '.join(_BACKBONES)}")


def matching_presets(state_dict: dict[str, Tensor]) -> tuple[str, ...]:
    """Names of the presets that fit the tensor shapes of a checkpoint: several, if they differ only in settings."""
    sizes = official_sizes(state_dict)
    presets = {name: MDQEConfig.preset(name) for name in MDQEConfig.presets()}
    return tuple(
        name for name, c in presets.items() if (c.backbone, c.hidden_dim, c.num_classes, c.clip_length) == sizes
    )


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Read a .pth file of tensors, with or without a wrapping {"model": …}. No code in the file is executed.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file was not written by torch.save, is damaged, or contains anything other than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with path.open("rb") as file:
        head = file.read(20)
    if not head.startswith((b"PK", b"\x80")):
        raise InputError(f"{path} was not written by torch.save: it begins with {head!r}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} contains Python objects other than tensors, and unpickling them can run arbitrary code. If you "
            'trust the file, save only its tensors, where it was made: torch.save({"model": '
            'torch.load(path, weights_only=False)["model"]}, new_path)'
        ) from error
    except Exception as error:  # the type depends on where the damage is
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path} is a truncated or damaged file ({path.stat().st_size:,} bytes)") from error
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path} contains a {type(state).__name__}, expected tensors by name")
    others = [name for name, value in state.items() if not isinstance(value, Tensor) or not isinstance(name, str)]
    if others:
        names = ", ".join(map(printable, others[:10]))
        raise InputError(f"{path} contains entries that are not tensors by name: {names}")
    return state


def _rename(name: str) -> str | None:
    for pattern, replacement in _RENAMED:
        if match := re.match(pattern, name):
            own = re.sub(r"#(\d)", lambda group: str(int(match[int(group[1])]) - 1), replacement)
            own = re.sub(r"@(\d)", lambda group: str(int(match[int(group[1])]) + 1), own)
            rest = name[match.end() :].replace("sampling_grid_offsets", "sampling_offsets")
            return match.expand(own) + rest
    return None
