"""The authors' checkpoint layout → ours."""

from __future__ import annotations

import re

from torch import Tensor

from mdqe.config import MDQEConfig

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
_RESNET_PARTS = {"shortcut": "downsample.0", "shortcut.norm": "downsample.1"}


def convert_official(state_dict: dict[str, Tensor], config: MDQEConfig) -> dict[str, Tensor]:
    """Rename the tensors of a checkpoint of the authors' code for an `MDQE(config)`.

    Args:
        state_dict: the released layout, with or without a wrapping {"model": …}.
        config: of the model that will load the result.

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
        raise ValueError(f"{len(unknown)} names are not of the released layout: {', '.join(sorted(unknown)[:10])}")
    return converted


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
    if match := re.match(r"stem\.conv1\.(norm\.)?(.*)", name):
        return f"backbone.body.{'bn1' if match[1] else 'conv1'}.{match[2]}"
    if match := re.match(r"res(\d)\.(\d+)\.(\w+?)(\d?)\.(norm\.)?(\w+)$", name):
        stage, block, part, number, norm, leaf = match.groups()
        if part == "shortcut":
            part = f"downsample.{1 if norm else 0}"
        else:
            part = f"{'bn' if norm else 'conv'}{number}"
        return f"backbone.body.layer{int(stage) - 1}.{block}.{part}.{leaf}"
    if match := re.match(r"norm(\d)\.(\w+)$", name):
        return f"backbone.norms.{int(match[1]) - 1}.{match[2]}"
    if match := re.match(r"layers\.(\d)\.downsample\.(.*)", name):
        return f"backbone.body.layers_{int(match[1]) + 1}.downsample.{match[2]}"  # there: end of a stage
    if match := re.match(r"layers\.(\d)\.(blocks\..*)", name):
        return f"backbone.body.layers_{match[1]}.{match[2]}"
    if name.startswith("patch_embed."):
        return f"backbone.body.{name}"
    return None
