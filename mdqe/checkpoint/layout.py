"""The names of a released checkpoint: which tensors are used, how they are renamed, and how clips get longer."""

from __future__ import annotations

import re
from typing import Any

from einops import repeat
from torch import Tensor

from mdqe.config import MDQEConfig
from mdqe.errors import InputError, printable

DROPPED = (
    r"(.*\.)?query_relpos_grid",
    r".*\.lvl_spatial_scales",
    r"detr\.transformer_dec\.decoder\.layers\.\d+\.(cross_attn|temp_attn_inst)\.sampling_offsets",
    r"detr\.transformer_dec\.(decoder_norm|bbox_embed|point2pos_proj)\..*",
    r".*\.attn\.relative_position_index",
    r".*\.attn_mask",
    r"(.*\.)?pixel_(mean|std)",
    r"criterion\..*",
    r"(.*\.)?(num_batches_tracked|n_averaged|total_ops|total_params)",
)
"""Patterns of released names that are dropped: buffers that this library computes, second names of a module, the
training losses, and counters of PyTorch and of profilers."""

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
    converted = {name: renamed(name) for name in state_dict if name not in skipped}
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


def renamed(name: str) -> str | None:
    """The name that a tensor of the released code has here; None if the layout has no such name."""
    for pattern, replacement in _RENAMED:
        if match := re.match(pattern, name):
            own = re.sub(r"#(\d)", lambda group: str(int(match[int(group[1])]) - 1), replacement)
            own = re.sub(r"@(\d)", lambda group: str(int(match[int(group[1])]) + 1), own)
            rest = name[match.end() :].replace("sampling_grid_offsets", "sampling_offsets")
            return match.expand(own) + rest
    return None
