"""The sizes of a released checkpoint and the presets that have them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mdqe.config import MDQEConfig
from mdqe.errors import InputError

_BACKBONES = {  # a tensor that the backbone has, and one that it does not have
    "resnet50": ("res4.5.conv1.weight", "res4.6.conv1.weight"),
    "resnet101": ("res4.22.conv1.weight", "res4.23.conv1.weight"),
    "swinv2_large_window12_192": ("layers.2.blocks.17.attn.logit_scale", "layers.2.blocks.18.attn.logit_scale"),
}


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
    if "encoder.level_embed" in state_dict:
        raise InputError(
            "weights of this library without a configuration, not a checkpoint of the released MDQE; in Python: "
            "model = MDQE(config); model.load_state_dict(state); model.save_pretrained(FOLDER)"
        )
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
    """Names of the presets that fit the tensor shapes of a checkpoint: several, if they differ only in settings.

    If no preset has the number of frames of the checkpoint, presets with another number are returned.
    """
    sizes = official_sizes(state_dict)
    presets = {name: MDQEConfig.preset(name) for name in MDQEConfig.presets()}
    fitting = {name: c for name, c in presets.items() if (c.backbone, c.hidden_dim, c.num_classes) == sizes[:3]}
    return tuple(name for name, c in fitting.items() if c.clip_length == sizes.clip_length) or tuple(fitting)
