"""Names and shapes of the tensors in a released checkpoint, independent of the library's renaming.

test_checkpoint.py compares them with the reference data where it is available.
"""

from __future__ import annotations

import torch

Shapes = dict[str, tuple[int, ...]]

RESNET_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
SWIN_BLOCKS = (2, 2, 18, 2)


def layout(backbone: str, dim: int, classes: int, frames: int) -> Shapes:
    """Every name of a released checkpoint: parameters, buffers and constants."""
    maps = (384, 768, 1536) if backbone.startswith("swin") else (512, 1024, 2048)
    trunk = swin() if backbone.startswith("swin") else resnet(RESNET_BLOCKS[backbone])
    out: Shapes = {f"detr.backbone.0.backbone.{name}": shape for name, shape in trunk.items()}
    for i, channels in enumerate((*maps, maps[-1])):
        size = 3 if i == 3 else 1
        out[f"detr.input_proj.{i}.0.weight"] = (dim, channels, size, size)
        out[f"detr.input_proj.{i}.0.bias"] = (dim,)
        out |= norm(f"detr.input_proj.{i}.1", dim)
    out |= encoder(dim) | decoder(dim, frames)
    head = "detr.transformer_dec"
    for name, last in {"rpn_cls": classes, "track": 64, "cls": classes, "mask": dim // 8}.items():
        out |= mlp(f"{head}.{name}_embed", dim, last)
    for prefix, final in ((f"{head}.decoder", "norm"), (head, "decoder_norm")):  # one module, two names
        out |= mlp(f"{prefix}.bbox_embed", dim, 4) | norm(f"{prefix}.{final}", dim)
        out |= {f"{prefix}.point2pos_proj.weight": (dim, 2), f"{prefix}.point2pos_proj.bias": (dim,)}
    out |= {f"{owner}.query_relpos_grid": (196, 196, 2) for owner in (head, "criterion")}
    return out | mask_head(f"{head}.mask_head", dim)


def pickled(shapes: Shapes, value: float = 0.01) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that take little space in a file: all elements share one value."""
    return {name: torch.full((1,), value).expand(shape) for name, shape in shapes.items()}


def linear(name: str, out: int, dim: int) -> Shapes:
    return {f"{name}.weight": (out, dim), f"{name}.bias": (out,)}


def norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def mlp(name: str, dim: int, last: int) -> Shapes:
    sizes = enumerate((dim, dim, last))
    return {k: v for i, size in sizes for k, v in linear(f"{name}.layers.{i}", size, dim).items()}


def feed_forward(prefix: str, suffix: str, dim: int) -> Shapes:
    return linear(f"{prefix}.linear1{suffix}", 4 * dim, dim) | linear(f"{prefix}.linear2{suffix}", dim, 4 * dim)


def deformable(name: str, dim: int, levels: int, offsets: str) -> Shapes:
    samples = 8 * levels * 4
    out = linear(f"{name}.value_proj", dim, dim) | linear(f"{name}.output_proj", dim, dim)
    out |= linear(f"{name}.attention_weights", samples, dim) | linear(f"{name}.{offsets}", 2 * samples, dim)
    return out | {f"{name}.lvl_spatial_scales": (levels,)}


def encoder(dim: int) -> Shapes:
    out: Shapes = {"detr.transformer_enc.level_embed": (4, dim)} | norm("detr.transformer_enc.encoder.norm", dim)
    for i in range(6):
        layer = f"detr.transformer_enc.encoder.layers.{i}"
        out |= deformable(f"{layer}.self_attn", dim, 4, "sampling_offsets") | feed_forward(layer, "", dim)
        out |= norm(f"{layer}.norm1", dim) | norm(f"{layer}.norm2", dim)
    return out


def decoder(dim: int, frames: int) -> Shapes:
    out: Shapes = {}
    for i in range(6):
        layer = f"detr.transformer_dec.decoder.layers.{i}"
        out |= linear(f"{layer}.time_weights", 1, dim)
        for suffix, attention, levels in (("", "cross_attn", 4), ("_inst", "temp_attn_inst", frames)):
            out |= deformable(f"{layer}.{attention}", dim, levels, "sampling_grid_offsets")
            out[f"{layer}.{attention}.sampling_offsets"] = (1, 1, 8, levels, 4, 2)  # the fixed rays
            out[f"{layer}.self_attn{suffix}.in_proj_weight"] = (3 * dim, dim)
            out[f"{layer}.self_attn{suffix}.in_proj_bias"] = (3 * dim,)
            out |= linear(f"{layer}.self_attn{suffix}.out_proj", dim, dim) | feed_forward(layer, suffix, dim)
            for number in (1, 2, 3):
                out |= norm(f"{layer}.norm{number}{suffix}", dim)
    return out


def mask_head(name: str, dim: int) -> Shapes:
    out: Shapes = {}
    for i in (1, 2, 3):
        out |= {f"{name}.lay{i}.weight": (dim, dim, 3, 3), f"{name}.lay{i}.bias": (dim,)} | norm(f"{name}.gn{i}", dim)
    for i in (1, 2):
        out |= {f"{name}.adapter{i}.weight": (dim, dim, 1, 1), f"{name}.adapter{i}.bias": (dim,)}
    for i, last in ((1, dim), (2, dim // 8)):
        part = f"{name}.out_lay{i}"
        out |= {f"{part}.depthwise.weight": (dim, 1, 5, 5), f"{part}.depthwise.bias": (dim,)}
        out |= {f"{part}.pointwise.weight": (last, dim, 1, 1), f"{part}.pointwise.bias": (last,)}
        out |= norm(f"{part}.gn", last)
    return out | {f"{name}.out_uplay.weight": (dim, 1, 1, 1), f"{name}.out_uplay.bias": (dim,)}


def resnet(blocks: tuple[int, ...]) -> Shapes:
    def conv(name: str, out: int, dim: int, size: int) -> Shapes:
        buffers = {f"{name}.norm.{leaf}": (out,) for leaf in ("weight", "bias", "running_mean", "running_var")}
        return {f"{name}.weight": (out, dim, size, size)} | buffers

    out = conv("stem.conv1", 64, 3, 7)
    dim = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for i in range(count):
            block = f"res{stage + 2}.{i}"
            if i == 0:
                out |= conv(f"{block}.shortcut", 4 * width, dim, 1)
            out |= conv(f"{block}.conv1", width, dim, 1) | conv(f"{block}.conv2", width, width, 3)
            out |= conv(f"{block}.conv3", 4 * width, width, 1)
            dim = 4 * width
    return out


def swin() -> Shapes:
    """SwinV2-L with windows of 12, pre-trained at 192 pixels; the last stage has windows of 6."""
    out: Shapes = {"patch_embed.proj.weight": (192, 3, 4, 4), "patch_embed.proj.bias": (192,)}
    out |= norm("patch_embed.norm", 192)
    for stage, count in enumerate(SWIN_BLOCKS):
        dim, heads, window = 192 * 2**stage, 6 * 2**stage, 6 if stage == 3 else 12
        for i in range(count):
            block = f"layers.{stage}.blocks.{i}"
            out |= norm(f"{block}.norm1", dim) | norm(f"{block}.norm2", dim)
            out |= linear(f"{block}.mlp.fc1", 4 * dim, dim) | linear(f"{block}.mlp.fc2", dim, 4 * dim)
            out |= linear(f"{block}.attn.proj", dim, dim) | linear(f"{block}.attn.cpb_mlp.0", 512, 2)
            out |= {f"{block}.attn.{name}": (dim,) for name in ("q_bias", "v_bias")}
            out[f"{block}.attn.qkv.weight"] = (3 * dim, dim)
            out[f"{block}.attn.cpb_mlp.2.weight"] = (heads, 512)
            out[f"{block}.attn.logit_scale"] = (heads, 1, 1)
            out[f"{block}.attn.relative_coords_table"] = (1, 2 * window - 1, 2 * window - 1, 2)
            out[f"{block}.attn.relative_position_index"] = (window**2, window**2)
        if stage:
            out |= norm(f"norm{stage}", dim)
        if stage < 3:
            out[f"layers.{stage}.downsample.reduction.weight"] = (2 * dim, 4 * dim)
            out |= norm(f"layers.{stage}.downsample.norm", 2 * dim)
    return out
