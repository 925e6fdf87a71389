"""Backbone: timm feature maps at strides 8, 16 and 32, with frozen batch norm (paper Sec. 3.1)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import timm
import torch
from einops import rearrange
from timm.layers import Format, freeze_batch_norm_2d
from timm.models import FeatureInfo
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.swin_transformer_v2 import SwinTransformerV2Block, SwinTransformerV2Stage
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from mdqe.errors import InputError
from mdqe.modeling.layers import Conv2d

STRIDES = (8, 16, 32)


class Backbone(nn.Module):
    """Compute feature maps of frames at strides 8, 16 and 32 with a timm model.

    Args:
        name: a timm model, such as "resnet50", "convnext_tiny" or "swinv2_large_window12_192".
        frozen_batch_norm: keep batch norms constant; they have buffers instead of parameters.
        stride_in_1x1: downsample in the first 1×1 convolution of ResNet bottlenecks instead of the 3×3 one.
        drop_path: stochastic depth rate.
        pretrained: start from timm's ImageNet weights.

    Attributes:
        channels: channels of the three maps.

    Raises:
        InputError: an unknown model or variant, a model without these strides, `stride_in_1x1` for one without
            bottlenecks, or `drop_path` for one without stochastic depth.
    """

    def __init__(
        self,
        name: str = "resnet50",
        *,
        frozen_batch_norm: bool = True,
        stride_in_1x1: bool = False,
        drop_path: float = 0.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.body = _build(name, drop_path, pretrained)
        self.channels: tuple[int, ...] = tuple(_feature_info(self.body).channels())
        self.channels_last = getattr(self.body, "output_fmt", None) == Format.NHWC
        if stride_in_1x1:
            _move_stride_to_1x1(self.body, name)
        if frozen_batch_norm:
            self.freeze_norms()
        is_swin = False
        for module in self.body.modules():
            if isinstance(module, SwinTransformerV2Stage):
                _shift_every_other(module.blocks)
            # Checkpoints contain this table. timm computes the same values and does not save them.
            if "relative_coords_table" in module._buffers:
                is_swin = True
                module._non_persistent_buffers_set.discard("relative_coords_table")
        # timm's Swin has no norm after the maps.
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels) if is_swin else None

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Normalised frames (B, 3, H, W), H and W multiples of 32 → maps (B, C_i, H / s, W / s), s = 8, 16, 32."""
        maps = self.body(frames.contiguous(memory_format=torch.channels_last))
        if self.channels_last:
            maps = [rearrange(m, "b h w c -> b c h w") for m in maps]
        if self.norms is None:
            return tuple(maps)
        normed = (norm(rearrange(m, "b c h w -> b h w c")) for norm, m in zip(self.norms, maps, strict=True))
        return tuple(rearrange(m, "b h w c -> b c h w") for m in normed)

    def freeze_norms(self) -> None:
        """Keep batch norms constant from now on, with their current statistics, as `frozen_batch_norm` does."""
        _fold_norms(self.body)
        self.body = freeze_batch_norm_2d(self.body)  # the norms that do not directly follow a convolution


class FrozenNormConv2d(Conv2d):
    """A convolution and the frozen batch norm after it, in one pass over the frames.

    The norm is a constant scale and shift per channel. Scaling the few weights in every call costs much less than
    scaling the activations, and training does not store the unscaled activations.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        shape: dict[str, Any] = {
            name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")
        }
        super().__init__(conv.in_channels, conv.out_channels, **shape, bias=False, device="meta")
        self.weight = conv.weight
        self.norm = FrozenBatchNorm2d(conv.out_channels, eps=norm.eps).to(conv.weight)
        self.norm.load_state_dict(norm.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise (B, C_in, H, W) → (B, C_out, H', W')."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        return self._conv_forward(x, self.weight * scale[:, None, None, None], shift)


def _fold_norms(body: nn.Module) -> None:
    for parent in list(body.modules()):
        # These timm modules list their children in the order of the calls.
        if not isinstance(parent, Bottleneck | BasicBlock | nn.Sequential) and parent is not body:
            continue
        for (name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            owner = parent
            if isinstance(conv, nn.Sequential) and len(conv):  # a stem of several convolutions
                owner, name, conv = conv, str(len(conv) - 1), conv[-1]
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and conv.bias is None:
                setattr(owner, name, FrozenNormConv2d(conv, norm))
                setattr(parent, norm_name, nn.Identity())


class _PadFirstBlock(SwinTransformerV2Block):
    """Pad to whole windows before the cyclic shift, as for the published weights; timm pads after it."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window_h, window_w = self.window_size
        x = F.pad(x, (0, 0, 0, -width % window_w, 0, -height % window_h))
        return super()._attn(x)[:, :height, :width]


def _shift_every_other(blocks: nn.ModuleList) -> None:
    # timm omits the shift in stages whose map was a single window at the size of pre-training. Videos are larger.
    for i, block in enumerate(blocks):
        assert isinstance(block, SwinTransformerV2Block)
        block.__class__ = _PadFirstBlock
        height, width = block.window_size
        block.shift_size = (height // 2, width // 2) if i % 2 else (0, 0)


def _feature_info(body: nn.Module) -> FeatureInfo:
    return cast(FeatureInfo, body.feature_info)


def _build(name: str, drop_path: float, pretrained: bool) -> nn.Module:
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise InputError(f"backbone {name[:60]!r} is not a timm model" + (f"; similar names: {near}" if near else ""))
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # the part after the dot, which names one of the model's trainings
        model, _, variant = name.partition(".")
        known = ", ".join(one.partition(".")[2] for one in timm.list_pretrained(f"{model}.*"))
        raise InputError(
            f"backbone {name[:60]!r}: timm has no variant {variant[:40]!r} of {model}"
            + (f", only {known}" if known else "")
        ) from None
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        with torch.device("meta"):  # for its feature information, without weights
            info = _feature_info(timm.create_model(name, features_only=True, pretrained=False, **options))
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise InputError(
            f"drop_path is {drop_path}, but backbone {name!r} has no stochastic depth; expected 0"
        ) from None
    reductions = info.reduction()
    missing = [s for s in STRIDES if s not in reductions]
    if missing:
        raise InputError(f"backbone {name!r} has feature maps at strides {reductions}, expected {STRIDES}")
    indices = [info.out_indices[reductions.index(s)] for s in STRIDES]
    if name.startswith("swin"):
        options["strict_img_size"] = False
    return timm.create_model(name, features_only=True, out_indices=indices, pretrained=pretrained, **options)


def _move_stride_to_1x1(body: nn.Module, name: str) -> None:
    moved = 0
    for module in body.modules():
        conv1, conv2 = getattr(module, "conv1", None), getattr(module, "conv2", None)
        if conv1 is not None and conv2 is not None and hasattr(module, "conv3") and conv2.stride != (1, 1):
            conv1.stride, conv2.stride = conv2.stride, (1, 1)
            moved += 1
    if not moved:
        raise InputError(f"stride_in_1x1 is True, but backbone {name!r} has no strided bottlenecks")
