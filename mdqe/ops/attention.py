"""Multi-scale deformable attention as a module, around points (encoder) or boxes (decoder); paper Sec. 3.1–3.2.

The paper refers to Deformable DETR; the box form and the initial values are those of the released code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mdqe.ops.library import deform_attn_fused
from mdqe.ops.linear import TokenLinear
from mdqe.ops.reference import OFFSET_SCALE


def rays(num_heads: int, num_levels: int, num_points: int) -> Tensor:
    """Sampling directions (H, L, P, 2) float64: one per head, longer with each point, up to the unit square."""
    angle = torch.arange(num_heads, dtype=torch.float64) * (2 * math.pi / num_heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    reach = torch.arange(1, num_points + 1, dtype=torch.float64) / num_points
    fan = direction[:, None, None, :] * reach[None, None, :, None]
    return fan.expand(num_heads, num_levels, num_points, 2).contiguous()


class MultiScaleDeformableAttention(nn.Module):
    """Sample `num_points` points per head and level around the reference of each query, and sum their values.

    With points as references (encoder form), the offsets are a linear function of the query. With boxes (decoder form),
    they are fixed rays across the box plus such a function, clamped to the size of the box.

    Args:
        dim: channels of queries and tokens [C].
        num_heads: attention heads [H].
        num_levels: feature levels [L].
        num_points: points per head and level [P].
        boxes: references are boxes instead of points.

    Attributes:
        plain_operator: sample with standard operators instead of compiled kernels, for exported programs.
    """

    plain_operator = False

    def __init__(
        self, dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4, *, boxes: bool = False
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_heads": num_heads, "num_levels": num_levels, "num_points": num_points}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}, expected a whole number from 1")
        if dim % num_heads:
            raise ValueError(f"dim is {dim}, expected a multiple of num_heads={num_heads}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.boxes = boxes
        self.value_proj = TokenLinear(dim, dim)
        self.output_proj = TokenLinear(dim, dim)
        self.attention_weights = TokenLinear(dim, num_heads * num_levels * num_points)
        self.sampling_offsets = TokenLinear(dim, num_heads * num_levels * num_points * 2)
        if boxes:
            # The last point of a ray lies on the border of the box.
            fan = rays(num_heads, num_levels, num_points) * (0.5 * OFFSET_SCALE)
            self.rays: Tensor
            self.register_buffer("rays", fan.float(), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise with uniform attention over the rays and Glorot projections."""
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.attention_weights, self.sampling_offsets):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        if self.boxes:
            return
        level = torch.arange(1, self.num_levels + 1, dtype=torch.float64)[None, :, None, None]
        start = rays(self.num_heads, self.num_levels, self.num_points) * (0.05 * OFFSET_SCALE) * level
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.flatten())

    def project_value(self, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Tokens (…, N, C) → values (…, N, H, C / H), zero where padding_mask (broadcast to …, N) is True."""
        value = self.value_proj(tokens)
        if padding_mask is not None:
            value = value.masked_fill_(padding_mask[..., None], 0.0)  # in place: the backward pass does not need it
        return value.unflatten(-1, (self.num_heads, -1))  # (…, N, H, C / H)

    def sampling(self, query: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Compute offsets (B, Q, H, L, P, 2), in eighths of the image, and attention logits (B, Q, H, L, P)."""
        shape = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*shape, 2))  # (B, Q, H, L, P, 2)
        logits = self.attention_weights(query).unflatten(-1, shape)  # (B, Q, H, L, P)
        if self.boxes:
            size = reference[:, :, None, None, None, 2:]  # (B, Q, 1, 1, 1, 2)
            limit = size * OFFSET_SCALE
            offsets = self.rays * size + offsets.to(size.dtype).clamp(min=-limit, max=limit)
        return offsets, logits

    def forward(
        self, query: Tensor, reference: Tensor, value: Tensor, spatial_shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            reference: float32 or float64, in [0, 1] of the padded image: points (B or 1, Q, 2) xy or, with boxes=True,
                boxes (B, Q, 4) cxcywh.
            value: (B, N, H, C / H) from `project_value`, or (clips, frames, N, H, C / H) with B = clips · frames.
            spatial_shapes: (h, w) of each level; their areas sum to N.

        Returns:
            (B, Q, C).

        Raises:
            TypeError, ValueError: arguments that do not fit together; names one.
        """
        if reference.dim() != 3 or reference.shape[-1] != (4 if self.boxes else 2):
            form = "boxes (B, Q, 4)" if self.boxes else "points (B or 1, Q, 2)"
            raise ValueError(f"reference must be {form}, got {tuple(reference.shape)}")
        offsets, logits = self.sampling(query, reference)
        points = reference[..., :2], offsets, logits
        return self.output_proj(deform_attn_fused(value, spatial_shapes, *points, plain=self.plain_operator))
